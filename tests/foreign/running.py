"""One case of a foreign library: what it trained and saved, how it loads, and what an audit of it must say."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult

VOCABULARY = 64
RENAMINGS = {"wrapper-prefix", "ddp-prefix", "compile-prefix", "fsdp-prefix"}
RENAMINGS |= {"key-convention", "renamed-module", "adapter-name"}
"""Causes that ask for a renaming: nothing to ask for where every value arrived."""


class WrongAnswerError(AssertionError):
    """The audit did not say what is true of the case."""


def token_ids() -> dict[str, torch.Tensor]:
    """Return inputs of a language model."""
    return {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]])}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint of a foreign library, and a loader.

    Attributes:
        trained: Makes the model as it was when training ended.
        save: Writes it as the library does, and returns the path to audit.
        load: The loader under test.
        inputs: Inputs of the loaded model.
        trained_inputs: Those of the trained one, where it takes others.
        generate_inputs: Gives `lora_generate_inputs`, where `generate` takes others.
        base: Gives `lora_base_model`, where the project overrides it.
        damage: What happens to the files after saving.
        causes: Empty where all is well; else any of these must be among the errors and warnings.
        alone: Whether one of them must be the only error: the root of all that is wrong.
        proved: Whether the load can be proved by value, so that the check `loaded` must pass where all is well.
        depends: Whether it depends on the library's version if all is well: the outputs decide.
        raises: Whether the broken loader, or the model that it returns, raises.
        manifest: Whether `write_manifest` was called when the training ended.
        tolerance: Outputs that differ by no more are equal.
    """

    name: str
    trained: Callable[[], Any]
    save: Callable[[Any, Path], Path]
    load: Callable[[Any], Any]
    inputs: Callable[[], Mapping[str, Any]] = token_ids
    trained_inputs: Callable[[], Mapping[str, Any]] | None = None
    generate_inputs: Callable[[], Mapping[str, Any]] | None = None
    base: Callable[[], Any] | None = None
    damage: Callable[[Path], None] | None = None
    causes: tuple[str, ...] = ()
    alone: bool = False
    proved: bool = True
    depends: bool = False
    raises: bool = False
    manifest: bool = False
    tolerance: float = 1e-3


def rows(cases: Iterable[Case], wrong_today: Mapping[str, str]) -> list[Any]:
    """Return the cases as parameters of a test; those that come out wrong today are expected to, for a reason."""
    parameters = {
        case.name: pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.xfail(
                case.name in wrong_today,
                strict=True,
                raises=WrongAnswerError,
                reason=wrong_today.get(case.name, "right"),
            ),
        )
        for case in cases
    }
    assert wrong_today.keys() <= parameters.keys(), wrong_today.keys() - parameters.keys()
    return list(parameters.values())


def check(case: Case, folder: Path) -> None:
    """Prove by values that the case is what it says, audit it, and hold the answer against the truth.

    Raises:
        WrongAnswerError: The audit is wrong about the case.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = case.trained().eval()
        wanted = output(trained, (case.trained_inputs or case.inputs)())
        path = case.save(trained, folder / "saved")
        if case.manifest:
            from pytest_lora_ckpt import write_manifest

            write_manifest(trained, path if path.is_dir() else path.with_name("lora_manifest.json"))
        if case.damage:
            case.damage(path)
        if case.raises:
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the library raises
                output(case.load(path), case.inputs())
        else:
            loaded = output(case.load(path), case.inputs())
            same = wanted.shape == loaded.shape and bool((wanted - loaded).abs().max() <= case.tolerance)
            if case.depends and same:
                case = replace(case, causes=())
            assert same == (not case.causes), f"{case.name}: the outputs are {'equal' if same else 'different'}"
        result = _audit(case, path)
    failed = result.named("failed")
    errors = {each.cause for each in result.findings if each.severity == "error"}
    causes = errors | {each.cause for each in result.findings if each.severity == "warning"}
    if case.causes:
        right = {"exit code": not result.passed, "causes": bool(causes & set(case.causes))}
        right["root cause alone"] = not case.alone or (len(errors) == 1 and errors <= set(case.causes))
    else:
        right = {
            "exit code": result.passed,
            "causes": not errors,
            "remedy: the names arrived": not causes & RENAMINGS,
            "proof": not case.proved or "loaded" in result.named("passed"),
        }
    if wrong := [what for what, holds in right.items() if not holds]:
        said = f"exit {len(failed) and 1}, failed {list(failed)}, causes {sorted(causes)}"
        raise WrongAnswerError(f"{case.name}: wrong {', '.join(wrong)}\n{said}\n{_told(result)}")


def output(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Return what the model makes of the inputs, in float32."""
    with torch.no_grad():
        made = model.eval()(**inputs)
    for name in ("logits", "last_hidden_state", "sample"):
        if hasattr(made, name):
            made = getattr(made, name)
    if isinstance(made, dict) and "sentence_embedding" in made:
        made = made["sentence_embedding"]
    if isinstance(made, tuple):
        made = torch.cat([each.flatten() for each in made if isinstance(each, torch.Tensor)])
    result: torch.Tensor = made.float()
    return result


@torch.no_grad()
def train(model: Any, *, seed: int = 1, step: float = 0.1) -> Any:
    """Move every trainable parameter, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_((step * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return model.eval()


def llama(**config: Any) -> Any:
    """Return a tiny Llama; equal arguments give equal weights."""
    import transformers

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | config)).eval()


def _audit(case: Case, path: Path) -> AuditResult:
    more: dict[str, Any] = {}
    if case.generate_inputs:
        if "generate_inputs" not in inspect.signature(audit).parameters:
            raise WrongAnswerError("audit() takes no inputs for `generate` that are not those of the forward pass")
        more["generate_inputs"] = case.generate_inputs
    return audit(path, loader=case.load, inputs=case.inputs, base_model=case.base, **more)


def _told(result: AuditResult) -> str:
    checks = [f"{each.name} {each.outcome}: {each.summary}" for each in result.checks if each.outcome != "passed"]
    findings = [f"{each.severity} [{each.cause}] {each.message} -> {each.remedy}" for each in result.findings]
    return "\n".join([*checks, *findings])
