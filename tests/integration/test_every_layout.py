"""One adapter, saved by the real libraries in every layout: the same keys, shapes, values and verdict in each."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from pytest_lora_ckpt import assert_same_adapter, audit, compare, compare_adapters, open_checkpoint
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.layout_samples import ALPHA, RANK, SAMPLES, adapted_model, trained_only
from tests.helpers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.layout_samples import Sample

# Modules of `tests/helpers` that put samples of their own on the list, a line each.
for name in ("layout_samples", "hub_samples", "format_samples", "distributed_layouts", "deepspeed_runs"):
    importlib.import_module(f"tests.helpers.{name}")

EVERY = pytest.mark.parametrize(
    "sample",
    [pytest.param(each, id=each.name, marks=[pytest.mark.foreign] if each.needs else []) for each in SAMPLES],
)


@pytest.fixture(scope="module")
def model() -> Any:
    """The live model: what each sample was written of."""
    return adapted_model()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sample], Path]:
    """Write a sample, once."""
    paths: dict[str, Path] = {}

    def write(sample: Sample) -> Path:
        if sample.needs and importlib.util.find_spec(sample.needs) is None:
            pytest.skip(f"{sample.needs} is not installed")
        if sample.name not in paths:
            paths[sample.name] = sample.write(adapted_model(), tmp_path_factory.mktemp(sample.name))
        return paths[sample.name]

    return write


@EVERY
def test_the_keys_shapes_and_values_are_the_models(
    sample: Sample, model: Any, written: Callable[[Sample], Path]
) -> None:
    checkpoint = open_checkpoint(written(sample))
    assert checkpoint.layout == sample.layout
    holder = {place: key for key, place in compare(checkpoint, model).mapping.items()}
    expected = trained_only(model)
    assert expected.keys() <= holder.keys()
    for place, tensor in expected.items():
        assert checkpoint.keys[holder[place]].shape == tuple(tensor.shape)
        assert same_bits(checkpoint.read(holder[place]), tensor)


@EVERY
def test_it_is_the_same_over_a_network(sample: Sample, written: Callable[[Sample], Path]) -> None:
    path = written(sample)
    here = open_checkpoint(path)
    with web_server(path.parent) as web:
        there = open_checkpoint(f"{web.url}/{quote(path.name)}")
        assert (there.keys, there.layout, there.format) == (here.keys, here.layout, here.format)
        assert there.opaque_keys == here.opaque_keys
        assert there.adapters == here.adapters
        assert not there.unread
        asked = len(web.requests)
        read = [key for key in here.keys if "lora" in key]
        there.expect(read)
        assert all(same_bits(there.read(key), here.read(key)) for key in read)
        assert str(there.path).startswith(web.url)
        assert all(str(each).startswith(web.url) for each in there.files)
        assert len(web.requests) <= asked + 2 * len(there.files)


@EVERY
def test_the_adapter_is_shown(sample: Sample, written: Callable[[Sample], Path]) -> None:
    (adapter,) = open_checkpoint(written(sample)).adapters.items()
    name, info = adapter
    assert (name, info.rank, info.modules) == ("default", RANK, 6)
    assert info.alpha == (ALPHA if sample.alpha else None)


@EVERY
def test_the_verdict(sample: Sample, model: Any, written: Callable[[Sample], Path]) -> None:
    result = audit(written(sample), model=lambda: model)
    assert result.verdict == sample.verdict
    assert not result.named("failed")
    assert {"readable", "safe", "lora-complete", "values", "keys", "ratio"} <= set(result.named("passed"))
    assert [each.cause for each in result.findings if each.severity != "note"] == list(sample.warnings)


@EVERY
def test_it_is_the_same_adapter(sample: Sample, model: Any, written: Callable[[Sample], Path]) -> None:
    path = written(sample)
    assert_same_adapter(model, path)
    found = compare_adapters(path, model)
    assert (len(found.modules), {each.factors for each in found.modules}) == (6, {"equal"})
    assert len(found.unscaled) == (0 if sample.alpha else 6)
