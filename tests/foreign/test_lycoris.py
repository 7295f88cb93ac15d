"""LyCORIS: factors in a network of its own beside the model, each module's `alpha` in the file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import Case, check, llama, rows, train

if TYPE_CHECKING:
    from pathlib import Path

lycoris = pytest.importorskip("lycoris", exc_type=ImportError)
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
RANK, ALPHA = 4, 2
PRESET = {"target_module": [], "target_name": [".*self_attn.*"], "enable_conv": False}


class Served(torch.nn.Module):
    """A model and the network that changes it: LyCORIS puts the factors into the forward passes alone."""

    def __init__(self, model: torch.nn.Module, lycoris: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.lycoris = model, lycoris

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def generate(self, **inputs: Any) -> Any:
        return self.model.generate(**inputs)


def trained(algorithm: str, alpha: float = ALPHA) -> Any:
    lycoris.LycorisNetwork.apply_preset(PRESET)
    torch.manual_seed(1)
    model = llama()
    network = lycoris.create_lycoris(model, 1.0, linear_dim=RANK, linear_alpha=alpha, algo=algorithm, factor=4)
    network.apply_to()
    network.requires_grad_(requires_grad=True)
    model.requires_grad_(requires_grad=False)
    return Served(model, train(network, step=0.2))


def save(served: Any, folder: Path) -> Path:
    folder.mkdir()
    served.lycoris.save_weights(str(folder / "lycoris.safetensors"), None, {"ss_network_module": "lycoris.kohya"})
    return folder / "lycoris.safetensors"


def network_of(path: Path, model: Any, multiplier: float = 1.0) -> Any:
    network, _ = lycoris.create_lycoris_from_weights(multiplier, str(path), model)
    return network


def load(path: Path, multiplier: float = 1.0) -> Any:
    model = llama()
    network = network_of(path, model, multiplier)
    network.apply_to()
    return Served(model, network).eval()


def load_merged(path: Path, multiplier: float = 1.0) -> Any:
    model = llama()
    network_of(path, model).merge_to(multiplier)
    return model


def never_applied(path: Path) -> Any:
    model = llama()
    return Served(model, network_of(path, model)).eval()


def foreign_names(path: Path) -> None:
    """Saved for kohya's text encoder: LyCORIS finds none of these modules, and says nothing."""
    weights = {key.replace("lycoris_", "lora_te_", 1): value for key, value in load_file(path).items()}
    save_file(weights, path)


def one_factor_gone(path: Path) -> None:
    weights = load_file(path)
    gone = "lycoris_model_layers_1_self_attn_v_proj."
    save_file({key: value for key, value in weights.items() if not key.startswith(gone)}, path)


NOT_LOADED = ("adapter-not-loaded", "adapter-inactive", "still-initial", "values-differ", "key-convention")
SCALED = ("scaling-differs", "scaled-values")


def _cases(algorithm: str) -> list[Case]:
    healthy = Case(name=algorithm, trained=lambda: trained(algorithm), save=save, load=load, base=llama)
    return [
        healthy,
        replace(healthy, name=f"{algorithm}-merged", load=load_merged, proved=algorithm == "locon"),
        replace(healthy, name=f"{algorithm}-never-applied", load=never_applied, causes=NOT_LOADED),
        replace(healthy, name=f"{algorithm}-foreign-names", damage=foreign_names, load=load_merged, causes=NOT_LOADED),
        replace(healthy, name=f"{algorithm}-merged-threefold", load=lambda path: load_merged(path, 3.0), causes=SCALED),
        replace(
            healthy,
            name=f"{algorithm}-module-gone",
            damage=one_factor_gone,
            causes=("lora-uneven-layers", "lora-slot-empty"),
        ),
    ]


def cases() -> list[Case]:
    made = {case.name: case for algorithm in ("locon", "loha", "lokr") for case in _cases(algorithm)}
    # LyCORIS multiplies a merged LoHa by alpha/rank twice; where that is 1, the merge is right.
    right = replace(made["loha-merged"], trained=lambda: trained("loha", alpha=RANK))
    twice = replace(made["loha-merged"], name="loha-merged-with-alpha-taken-twice", causes=SCALED)
    return [*({**made, "loha-merged": right}).values(), twice]


@pytest.mark.parametrize("case", rows(cases(), WRONG_TODAY))
def test_lycoris(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
