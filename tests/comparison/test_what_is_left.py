"""What has no place is named for what the model lacks; what is no weight is not missed."""

from __future__ import annotations

import pytest

from pytest_lora_ckpt import compare

Keys = dict[str, tuple[int, ...]]
MODULES = [f"layers.{n}.{name}" for n in range(3) for name in ("q_proj", "v_proj")]


def factors(adapter: str = "", *, prefix: str = "", modules: list[str] = MODULES) -> Keys:
    shapes = {"A": (4, 32), "B": (32, 4)}
    return {f"{prefix}{m}.lora_{x}{adapter}.weight": shape for m in modules for x, shape in shapes.items()}


def magnitudes(tail: str = "") -> Keys:
    return {f"{module}.lora_magnitude_vector{tail}": (32,) for module in MODULES}


MODEL = factors(".default") | {f"{module}.base_layer.weight": (32, 32) for module in MODULES}


@pytest.mark.parametrize(
    ("checkpoint", "cause", "text"),
    [
        (
            factors() | factors(prefix="tower.", modules=["layers.0.fc", "layers.1.fc"]),
            "target-mismatch",
            "it has no LoRA on tower.layers.{0,1}.fc",
        ),
        (factors(".default") | factors(".reference"), "adapter-without-home", "it has no adapter reference"),
        (factors() | magnitudes(), "target-mismatch", "its LoRA on these modules has no lora_magnitude_vector"),
        (
            {f"module.{key}": shape for key, shape in (factors() | magnitudes()).items()},
            "target-mismatch",
            "its LoRA on these modules has no lora_magnitude_vector",
        ),
    ],
    ids=["modules", "adapter", "DoRA", "DoRA-renamed"],
)
def test_what_the_model_lacks_is_named(checkpoint: Keys, cause: str, text: str) -> None:
    report = compare(checkpoint, MODEL)
    assert report.verdict == "partial"
    [error] = [each for each in report.findings if each.severity == "error"]
    assert error.cause == cause
    assert text in error.message


@pytest.mark.parametrize(
    ("key", "text", "remedy"),
    [
        ("layers.0.q_proj.lora_magnitude_vector", "these modules has no lora_magnitude_vector", "use_dora"),
        ("layers.0.q_proj.lora_B.bias", "these modules has no lora_B bias", ""),
        ("embed.token_adapter.trainable_tokens_delta", "it trains no rows of embed", "trainable_token_indices"),
    ],
)
def test_what_an_adapter_has_besides_its_factors_has_a_remedy_of_its_own(key: str, text: str, remedy: str) -> None:
    checkpoint = factors() | {key: (32,)}
    [error] = [each for each in compare(checkpoint, MODEL).findings if each.severity == "error"]
    assert (error.cause, error.keys) == ("target-mismatch", (key,))
    assert text in error.message
    assert remedy in error.remedy
    if remedy == "use_dora":
        found = compare(checkpoint, MODEL, adapter_config={"use_dora": True}).findings
        assert [each.cause for each in found if each.severity == "error"] == ["config-dora", "target-mismatch"]
    plain = compare(checkpoint, MODEL, adapter_config={"use_dora": False})
    assert not any("use_dora" in each.remedy for each in plain.findings)


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("vision_model.base_model.model.", "base_model.model.vision_model.", "wrapper-prefix"),
        ("base_model.model.", "text_encoder.", "wrapper-prefix"),
        ("base_model.model.", "language_model.", "vlm-refactor-prefix"),
        ("thinker_model.", "thinker.", "renamed-module"),
    ],
)
def test_a_prefix_that_changes(before: str, after: str, cause: str) -> None:
    report = compare(factors(".default", prefix=before), factors(".default", prefix=after))
    assert report.verdict == "loads-after-remap"
    assert [each.cause for each in report.findings] == [cause]


@pytest.mark.parametrize(
    ("source", "target", "cause"),
    [
        ("fc.lora_A", "fc.lora_A.default.weight", "adapter-name"),
        ("fc.lora_magnitude_vector.default", "fc.lora_magnitude_vector.default.weight", "key-convention"),
        ("lora_unet_up_blocks_0_fc.lora_down.weight", "up_blocks.0.fc.lora_A.default.weight", "key-convention"),
        ("score.modules_to_save.weight", "score.modules_to_save.default.weight", "adapter-name"),
        ("score.weight", "model.score.modules_to_save.default.weight", "modules-to-save"),
    ],
)
def test_a_name_that_changes(source: str, target: str, cause: str) -> None:
    near = {f"layers.{n}.v.lora_B": (32, 4) for n in range(3)}
    checkpoint = {source: (4, 32), **{f"{key}.weight": shape for key, shape in near.items()}}
    model = {target: (4, 32), **{f"{key}.default.weight": shape for key, shape in near.items()}}
    report = compare(checkpoint, model, adapter_config={"modules_to_save": ["score"]})
    assert report.mapping[source] == target
    assert cause in {each.cause for each in report.findings}


WEIGHTS: Keys = {f"h.{n}.{name}.weight": (8, 8) for n in range(2) for name in ("attn.fc", "mlp.fc")}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("h.0.attn.bias", (1, 1, 16, 16)),
        ("h.0.attn.masked_bias", ()),
        ("h.0.mlp.fc._extra_state", (0,)),
        ("h.0.mlp.fc._extra_state", (24,)),
        ("h.0.bn.num_batches_tracked", ()),
        ("n_averaged", ()),
        ("h.0.attn.relative_position_index", (49, 49)),
        ("rope.freqs", (4,)),
    ],
)
def test_what_is_no_weight_is_not_missed(key: str, shape: tuple[int, ...]) -> None:
    for checkpoint, model in (({**WEIGHTS, key: shape}, WEIGHTS), (WEIGHTS, {**WEIGHTS, key: shape})):
        report = compare(checkpoint, model, scope="full")
        assert report.verdict == "loads"
        assert not report.findings


@pytest.mark.parametrize("shape", [(8,), (1, 1, 16, 8), (2, 1, 16, 16)])
def test_a_bias_is_missed(shape: tuple[int, ...]) -> None:
    assert compare({**WEIGHTS, "h.0.attn.bias": shape}, WEIGHTS, scope="full").verdict == "partial"


@pytest.mark.parametrize(
    ("file", "model", "cause"),
    [
        ({"A": (8, 32), "B": (32, 8)}, {"A": (4, 32), "B": (32, 4)}, "rank-mismatch"),
        ({"A": (32, 8), "B": (8, 32)}, {"A": (32, 4), "B": (4, 32)}, "rank-mismatch"),  # As MLX has it.
        ({"A": (4, 40), "B": (40, 4)}, {"A": (4, 32), "B": (32, 4)}, "shape-mismatch"),
        ({"A": (4, 32, 1, 1), "B": (32, 4, 1, 1)}, {"A": (4, 32), "B": (32, 4)}, "shape-mismatch"),
        ({"A": (8, 32), "B": (64, 4)}, {"A": (4, 32), "B": (96, 4)}, "merged-linear"),
        ({"A": (2, 32), "B": (16, 4)}, {"A": (4, 32), "B": (32, 4)}, "one-rank-only"),
    ],
    ids=["rank", "rank, turned", "width", "convolution", "merged", "one rank"],
)
def test_shapes_that_differ_are_named(
    file: dict[str, tuple[int, ...]], model: dict[str, tuple[int, ...]], cause: str
) -> None:
    report = compare(
        {f"fc.lora_{x}": shape for x, shape in file.items()}, {f"fc.lora_{x}": s for x, s in model.items()}
    )
    assert report.verdict == "incompatible"
    assert [each.cause for each in report.findings] == [cause]


def test_flat_parameters_of_fsdp_are_named() -> None:
    keys = {f"layers.{n}._fsdp_wrapped_module._flat_param": (4096,) for n in range(2)}
    report = compare(keys, MODEL)
    assert report.verdict == "noop"
    assert report.findings[0].cause == "one-rank-only"
    assert set(report.findings[0].keys) == set(keys)


@pytest.mark.parametrize("name", ["qweight", "weight.absmax", "weight_scale_inv"])
def test_weights_that_are_quantised_on_one_side_are_named(name: str) -> None:
    plain = {f"h.{n}.fc.weight": (8, 8) for n in range(2)}
    codes = {f"h.{n}.fc.{name}": (4, 8) for n in range(2)}
    for checkpoint, model in (
        ({**WEIGHTS, **codes}, {**WEIGHTS, **plain}),
        ({**WEIGHTS, **plain}, {**WEIGHTS, **codes}),
    ):
        report = compare(checkpoint, model, scope="full")
        assert report.verdict == "partial"
        assert report.findings[0].cause == "quantised-weights"
        assert set(report.findings[0].keys) == set(codes)
    adapted = factors() | {f"{module}.base_layer.{name}": (4, 8) for module in MODULES}
    assert "quantised-weights" not in {each.cause for each in compare(factors(), adapted).findings}
