"""Audits of checkpoints behind a web server: the whole of it, and no credential in anything that is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import CheckpointError, open_checkpoint, write_manifest
from pytest_lora_ckpt import audit as audit_alone
from tests.helpers.tiny_adapters import adapted
from tests.helpers.web_server import Web, web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]

PASSWORD, SIGNATURE, TOKEN = "pass-w0rd", "s1gnature", "t0ken"
SECRETS = (PASSWORD, SIGNATURE, TOKEN)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "adapter"
    adapted().save_pretrained(folder)
    return folder


@pytest.fixture
def web(adapter: Path) -> Iterator[Web]:
    with web_server(adapter.parent) as made:
        yield made


LOADER = """
import pathlib, urllib.request
from safetensors.torch import load
from peft import set_peft_model_state_dict
from tests.helpers.tiny_adapters import adapted

def load_remote(path):
    assert isinstance(path, str), path
    model = adapted(trained=False)
    with urllib.request.urlopen(path + "/adapter_model.safetensors") as file:
        set_peft_model_state_dict(model, load(file.read()))
    return model
"""

REFUSE = """
def refuse(path):
    raise RuntimeError(f"cannot load {path}")
"""


def test_it_is_audited_and_proved_as_on_this_machine(audit: Audit, pytester: pytest.Pytester, web: Web) -> None:
    pytester.makepyfile(own_loading=LOADER)
    run = audit(f"--lora-ckpt={web.url}/adapter", "--lora-loader=own_loading:load_remote")
    assert not run.named("failed"), run.text
    assert {"readable", "safe", "lora-complete", "config", "values", "keys", "loaded"} <= run.named("passed")
    assert run.run["checkpoint"]["path"] == f"{web.url}/adapter"
    assert f"{web.url}/adapter" in run.lines
    assert list(run.outcomes) == ["adapter"]


def _address(web: Web, path: str = "adapter/adapter_model.safetensors") -> str:
    host = web.url.removeprefix("http://")
    return f"http://me:{PASSWORD}@{host}/{path}?download=1&X-Amz-Signature={SIGNATURE}&token={TOKEN}"


@pytest.mark.parametrize("case", ["fine", "missing", "broken", "two, by two workers"])
def test_no_credential_is_shown(audit: Audit, pytester: pytest.Pytester, web: Web, case: str) -> None:
    pytester.makepyfile(
        refusing=REFUSE,
        test_own="def test_it(lora_ckpt, lora_checkpoint): assert lora_ckpt == 'another'",
    )
    given = [_address(web)]
    if case == "missing":
        given = [_address(web, "no/such.safetensors")]
    elif case == "broken":
        web.breaks = ("adapter_model.safetensors",)
    elif case.startswith("two"):
        given = [_address(web), _address(web).replace("download=1", "download=2")]
    junit = pytester.path / "junit.xml"
    options = ["--lora-loader=refusing:refuse", f"--junitxml={junit}", "--showlocals"]
    options += ["-n", "2" if "workers" in case else "0"]
    run = audit(*(f"--lora-ckpt={each}" for each in given), *options)
    assert run.ret == 1
    written = {"terminal": "\n".join(run.lines), "json": run.report.read_text(), "junit": junit.read_text()}
    for name, text in written.items():
        shown = [line for line in text.splitlines() if any(each in line for each in SECRETS)]
        assert not shown, (name, shown)
    assert "://***@127.0.0.1" in written["terminal"]


def test_no_credential_is_shown_of_an_ini_file(audit: Audit, pytester: pytest.Pytester, web: Web) -> None:
    pytester.makeini(f"[pytest]\nlora_ckpt = {_address(web)}\nlora_stage = none")
    run = audit()
    assert not any(each in run.text for each in SECRETS)
    pytester.makeini(f"[pytest]\nlora_ckpt = {_address(web)}\n")
    run = audit()
    assert "readable" in run.named("passed")
    assert not any(each in run.text for each in SECRETS)


def test_no_credential_is_in_a_result(web: Web) -> None:
    result = audit_alone(_address(web))
    assert "readable" in result.named("passed")
    assert result.checkpoint.path.startswith("http://***@127.0.0.1")


@pytest.mark.parametrize("name", ["pointer.bin", "adapter_config.json"])
def test_no_credential_is_in_a_remedy(tmp_path: Path, name: str) -> None:
    lines = ("version https://git-lfs.github.com/spec/v1", "oid sha256:4d7a2146", "size 42", "")
    (tmp_path / name).write_text("\n".join(lines) if name == "pointer.bin" else "{}")
    with web_server(tmp_path) as web, pytest.raises(CheckpointError) as caught:
        open_checkpoint(_address(web, name))
    assert not any(each in str(caught.value) for each in SECRETS)


def test_one_that_cannot_be_reached_leaves_the_others_alone(audit: Audit, web: Web, adapter: Path) -> None:
    web.hangs = ("slow.safetensors",)
    given = [f"{web.url}/slow.safetensors", f"{web.url}/adapter", "http://127.0.0.1:9/a.ckpt", adapter]
    run = audit(*(f"--lora-ckpt={each}" for each in given), "-o", "lora_limits=request_seconds = 1")
    ended = [outcomes["readable"] for outcomes in run.outcomes.values()]
    assert sorted(ended) == ["failed", "failed", "passed", "passed"]
    assert "(timeout)" in run.text
    assert "(no-connection)" in run.text


def test_faults_need_a_copy_on_this_machine(audit: Audit, pytester: pytest.Pytester, web: Web) -> None:
    pytester.makepyfile(own_loading=LOADER)
    run = audit(f"--lora-ckpt={web.url}/adapter", "--lora-loader=own_loading:load_remote", "--lora-faults=nan")
    assert "not-local" in run.text
    assert run.ret == 0


@pytest.mark.parametrize("what", ["model", "text"])
def test_a_manifest_next_to_it_is_found(adapter: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    if what == "model":
        write_manifest(adapted(), tmp_path / "run" / "lora_manifest.json")
    else:
        (tmp_path / "run" / "lora_manifest.json").write_text("no manifest")
    with web_server(tmp_path) as web:
        result = audit_alone(f"{web.url}/run")
        assert "manifest" in result.named("passed" if what == "model" else "failed")
        shown = [each.summary for each in result.checks if each.name == "manifest"]
        assert what == "model" or f"{web.url}/run/lora_manifest.json" in shown[0]


@pytest.mark.parametrize("given", ["run/", "run", "run/adapter_model.safetensors", "run/adapter_config.json"])
def test_the_loader_gets_the_address_as_given(adapter: Path, tmp_path: Path, given: str) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    got: list[str] = []

    def load(path: str) -> torch.nn.Module:
        got.append(path)
        return adapted()  # type: ignore[no-any-return]

    with web_server(tmp_path) as web:
        result = audit_alone(f"{web.url}/{given}", loader=load)
        assert "loaded" in result.named("passed")
        # A config stands for the directory.
        assert got == [f"{web.url}/{given.removesuffix('/adapter_config.json')}"]


def test_a_lightning_checkpoint_is_judged_as_on_this_machine(
    audit: Audit, replica: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = replica()
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    with web_server(tmp_path) as web:
        there = audit(f"--lora-ckpt={web.url}/run/{checkpoint.name}")
    here = audit(f"--lora-ckpt={checkpoint}")
    assert there.checks == here.checks
    assert there.run["verdict"] == here.run["verdict"]
