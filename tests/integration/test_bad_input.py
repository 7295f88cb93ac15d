"""What is no checkpoint: `readable` fails and says why, the rest is skipped with that reason, nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.audit_runs import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Maker = Callable[[Path, Callable[..., Path]], Path]

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4294967296\n"


def _write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _save(path: Path, value: Any) -> Path:
    import torch

    torch.save(value, path)
    return path


def _cut(path: Path, source: Path, share: float) -> Path:
    whole = source.read_bytes()
    return _write(path, whole[: int(len(whole) * share)])


def _adapter(folder: Path, source: Path, config: str | None) -> Path:
    shutil.copytree(source, folder / "adapter")
    if config is None:
        (folder / "adapter" / "adapter_model.safetensors").unlink()
    else:
        (folder / "adapter" / "adapter_config.json").write_text(config, "utf-8")
    return folder / "adapter"


def _beside(folder: Path, source: Path) -> Path:
    shutil.copy(source, folder / "a.pt")
    (folder / "lora_weights").mkdir()
    _write(folder / "lora_weights" / "adapter_config.json", "{")
    return folder / "a.pt"


# What the path is -> how to make it, and words of the message.
BAD: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "missing": (lambda d, _: d / "no.ckpt", ("(missing)", "nothing under this path")),
    "mistyped": (lambda d, _: _write(d / "best.ckpt", "x").with_name("bset.ckpt"), ("Did you mean", "best.ckpt")),
    "empty directory": (lambda d, _: d, ("an empty directory",)),
    "directory of something": (lambda d, _: _write(d / "README.md", "x").parent, ("README.md",)),
    "text": (lambda d, _: _write(d / "a.ckpt", "epoch 3: loss 0.2\n"), ("a text file", "epoch 3")),
    "empty file": (lambda d, _: _write(d / "a.ckpt", b""), ("a.ckpt",)),
    "git-lfs": (lambda d, _: _write(d / "a.ckpt", LFS), ("git-lfs-pointer", "git lfs pull")),
    "git-lfs safetensors": (lambda d, _: _write(d / "a.safetensors", LFS), ("git-lfs-pointer", "git lfs pull")),
    "truncated zip": (lambda d, new: _cut(d / "a.pt", new(layout="torch"), 0.7), ("truncated",)),
    "truncated legacy": (lambda d, new: _cut(d / "a.pt", new(layout="torch-legacy"), 0.7), ("truncated",)),
    "truncated safetensors": (
        lambda d, new: _cut(d / "a.safetensors", new(layout="safetensors"), 0.7),
        ("cut off",),
    ),
    "truncated header": (lambda d, new: _cut(d / "a.safetensors", new(layout="safetensors"), 0.001), ("truncated",)),
    "empty state dict": (lambda d, _: _save(d / "a.pt", {}), ("(empty)",)),
    "empty Lightning state dict": (
        lambda d, _: _save(d / "a.ckpt", {"state_dict": {}, "pytorch-lightning_version": "2.4"}),
        ("(empty)",),
    ),
    "no state_dict": (
        lambda d, _: _save(d / "a.ckpt", {"epoch": 3, "optimizer_states": [], "pytorch-lightning_version": "2.4"}),
        ("no-state-dict", "epoch"),
    ),
    "a list": (lambda d, _: _save(d / "a.pt", [1, 2]), ("a.pt",)),
    "broken config": (lambda d, new: _adapter(d, new(layout="peft_adapter"), '{"r": '), ("broken-config", "JSON")),
    "config is a list": (lambda d, new: _adapter(d, new(layout="peft_adapter"), "[]"), ("broken-config",)),
    "no weights": (lambda d, new: _adapter(d, new(layout="peft_adapter"), None), ("adapter_model",)),
    "broken adapter beside": (lambda d, new: _beside(d, new(layout="torch")), ("lora_weights", "broken-config")),
}


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return [(os.fspath(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))]


@pytest.mark.parametrize("what", BAD)
def test_it_is_told_and_the_rest_is_skipped(
    audit: Audit, replica: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    make, words = BAD[what]
    folder = tmp_path_factory.mktemp("bad")
    path = make(folder, replica)
    before = listing(folder)
    run = audit(f"--lora-ckpt={path}")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") == {"readable"}
    for word in (
        str(path if what != "broken adapter beside" else folder),
        *(("expected:", "found:", "what to do:") if what != "broken adapter beside" else ()),
        *words,
    ):
        assert word in run.summary("readable")
        assert word in run.text
    if what != "broken adapter beside":
        whole = run.named("passed")  # A pickle that holds no tensors is read, and judged.
        assert whole <= {"safe"}
        assert run.named("skipped") == {*CHECKS} - {"readable"} - whole
        for name in run.named("skipped"):
            assert run.summary(name).startswith("not readable: ")
    assert run.run["verdict"] == "not-compared"
    assert listing(folder) == before
    # A message and a section for people, not a dump.
    assert len(run.text) < 6000


@pytest.mark.parametrize(
    ("address", "problem"),
    {
        "nowhere://bucket/a.ckpt": "unknown-scheme",
        "memory://run/a.ckpt": "missing",
        "http://127.0.0.1:9/a.ckpt": "no-connection",
    }.items(),
)
def test_an_address_stays_as_it_is(audit: Audit, address: str, problem: str) -> None:
    run = audit(f"--lora-ckpt={address}")
    assert run.named("failed") == {"readable"}
    assert f"cannot read checkpoint {address} ({problem})" in run.text
    assert run.run["checkpoint"]["path"] == address


def test_the_projects_own_tests_say_it_too(audit: Audit, project: Callable[..., Path]) -> None:
    project(
        test_own="""
def test_checkpoint(lora_checkpoint): raise AssertionError
def test_report(lora_report): raise AssertionError
def test_path(lora_ckpt): assert lora_ckpt.name == "no.ckpt"
"""
    )
    run = audit("--lora-ckpt=no.ckpt")
    assert run.tests["test_own.py::test_path[no.ckpt]"] == "passed"
    assert run.tests["test_own.py::test_checkpoint[no.ckpt]"] in {"failed", "error"}
    assert run.text.count("what to do: Look at the path.") >= 3
    assert "Traceback" not in run.text


def test_one_bad_checkpoint_does_not_stop_the_other(audit: Audit, toy_checkpoint: Path) -> None:
    run = audit("--lora-ckpt=no.ckpt", f"--lora-ckpt={toy_checkpoint}")
    assert run.outcomes["no.ckpt"]["readable"] == "failed"
    assert run.outcomes["toy.pt"]["values"] == "passed"
    assert [json.dumps(each["checkpoint"]["layout"]) for each in run.json["runs"]] == ["null", '"torch"']


def test_under_xdist(audit: Audit) -> None:
    run = audit("--lora-ckpt=no.ckpt", "-n", "2")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") == {"readable"}
    assert "cannot read checkpoint" in run.text
    assert len(run.run["checks"]) == len(CHECKS)
