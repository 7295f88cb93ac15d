"""LLaVA's way: an adapter, and the trained projector in a file beside it; the vision tower comes by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.foreign.running import Case, check, llama, rows, token_ids, train

if TYPE_CHECKING:
    from pathlib import Path

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
REST = "non_lora_trainables.bin"


def vision_tower() -> Any:
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4)).eval()


class Llava(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
    """A Llama whose inner model holds a vision tower and a projector."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.vision_tower = vision_tower()
        width = config.hidden_size
        self.model.mm_projector = torch.nn.Sequential(
            torch.nn.Linear(16, width), torch.nn.GELU(), torch.nn.Linear(width, width)
        )

    def embed(self, ids: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        features = self.model.mm_projector(self.model.vision_tower(images).last_hidden_state[:, 1:])
        return torch.cat([features, self.model.embed_tokens(ids)], dim=1)

    def forward(self, input_ids: Any = None, images: Any = None, **more: Any) -> Any:
        if images is not None:
            input_ids, more["inputs_embeds"] = None, self.embed(input_ids, images)
        return super().forward(input_ids=input_ids, **more)

    def generate(self, input_ids: Any = None, images: Any = None, **more: Any) -> Any:
        return super().generate(inputs_embeds=self.embed(input_ids, images), **more)


class LlavaAsPublished(Llava):
    """The same, where `generate` has another name for the prompt than `forward`."""

    def generate(self, inputs: Any = None, images: Any = None, **more: Any) -> Any:
        return super().generate(input_ids=inputs, images=images, **more)


def language_model() -> Any:
    """Return what is published as the base: it has neither tower nor projector."""
    return llama()


def new() -> Any:
    """Return the model of the base weights, with a projector that nothing has initialised."""
    model = Llava(language_model().config)
    model.load_state_dict(language_model().state_dict(), strict=False)
    model.model.vision_tower.load_state_dict(vision_tower().state_dict())
    return model.eval()


def inputs() -> dict[str, torch.Tensor]:
    return token_ids() | {"images": torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)}


def generate_inputs() -> dict[str, torch.Tensor]:
    return {"inputs": inputs()["input_ids"], "images": inputs()["images"]}


def trained() -> Any:
    torch.manual_seed(4)
    targets = r".*layers\.\d+\.(self_attn|mlp)\.(?!.*vision).*_proj"
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, exclude_modules=r".*vision.*"
    )
    model = peft.get_peft_model(new(), config)
    model.base_model.model.model.mm_projector.requires_grad_(requires_grad=True)
    return train(model)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    rest = {key: value.data for key, value in model.named_parameters() if value.requires_grad and "lora_" not in key}
    assert len(rest) == 4
    torch.save(rest, folder / REST)
    return folder


def load_base(path: Path) -> Any:
    """Return the base model with the trained projector; what does not fit is dropped, as LLaVA does it."""
    torch.manual_seed(5)
    model = new()
    rest = torch.load(path / REST)
    model.load_state_dict({key.removeprefix("base_model.model."): value for key, value in rest.items()}, strict=False)
    return model


def load(path: Path) -> Any:
    return peft.PeftModel.from_pretrained(load_base(path), str(path)).eval()


def load_merged(path: Path) -> Any:
    return load(path).merge_and_unload()


def load_as_published(path: Path) -> Any:
    model = load_merged(path)
    model.__class__ = LlavaAsPublished
    return model


def wrapped_names(path: Path) -> None:
    """Saved out of a wrapped model: no name of the file is one of the model's."""
    torch.save({f"module.{key}": value for key, value in torch.load(path / REST).items()}, path / REST)


def nothing_in_it(path: Path) -> None:
    torch.save({}, path / REST)


def of_another_run(path: Path) -> None:
    torch.manual_seed(6)
    torch.save({key: torch.randn_like(value) for key, value in torch.load(path / REST).items()}, path / REST)


def truncated(path: Path) -> None:
    (path / REST).write_bytes((path / REST).read_bytes()[:-200])


def load_what_can_be_read(path: Path) -> Any:
    try:
        return load(path)
    except Exception:  # noqa: BLE001 - as loaders do
        torch.manual_seed(5)
        return peft.PeftModel.from_pretrained(new(), str(path)).eval()


NO_BASE: dict[str, Any] = {"base": None}
LOST = ("trained-weights-missing", "lost-weights", "values-differ", "still-initial", "component-partly-held")
LOST += ("ddp-prefix", "companion-not-loaded", "companion-unreadable", "companion-empty", "from-nowhere")
HEALTHY = Case(name="attached", trained=trained, save=save, load=load, inputs=inputs, base=language_model)


def _ways(case: Case) -> list[Case]:
    """Return the same with the base, without it, and with what training wrote down."""
    return [
        replace(case, name=f"{case.name}{merged}{more}", load=how, proved=settings != NO_BASE or not merged, **settings)
        for merged, how in (("", case.load), ("-merged", load_merged))
        for more, settings in (("", {}), ("-without-base", NO_BASE), ("-with-manifest", {"manifest": True}))
    ]


# --- The stage before: the projector alone.


def projector_trained() -> Any:
    torch.manual_seed(4)
    model = new().requires_grad_(requires_grad=False)
    model.model.mm_projector.requires_grad_(requires_grad=True)
    return train(model)


def save_projector(model: Any, folder: Path) -> Path:
    folder.mkdir()
    weights = {key: value for key, value in model.state_dict().items() if "mm_projector" in key}
    torch.save(weights, folder / "mm_projector.bin")
    return folder / "mm_projector.bin"


def load_projector(path: Path) -> Any:
    """As LLaVA starts its next stage: the weights go into the projector itself, under its own names."""
    torch.manual_seed(5)
    model = new()
    weights = {key.split("mm_projector.")[1]: value for key, value in torch.load(path).items()}
    model.model.mm_projector.load_state_dict(weights)
    return model


def drop_projector(path: Path) -> Any:
    torch.manual_seed(5)
    model = new()
    model.load_state_dict({f"module.{key}": value for key, value in torch.load(path).items()}, strict=False)
    return model


PROJECTOR = replace(HEALTHY, name="projector", trained=projector_trained, save=save_projector, load=load_projector)
CASES = [
    *_ways(HEALTHY),
    replace(HEALTHY, name="generate-takes-others", load=load_as_published, generate_inputs=generate_inputs),
    *_ways(replace(HEALTHY, name="projector-dropped", damage=wrapped_names, causes=LOST)),
    replace(HEALTHY, name="projector-empty", damage=nothing_in_it, causes=LOST),
    replace(HEALTHY, name="projector-truncated", damage=truncated, load=load_what_can_be_read, causes=LOST),
    # The file by itself is as good as the right one: only what training wrote down can tell.
    replace(HEALTHY, name="projector-of-another-run", damage=of_another_run, manifest=True, causes=LOST),
    PROJECTOR,
    replace(PROJECTOR, name="projector-without-base", base=None),
    replace(PROJECTOR, name="projector-never-loaded", load=drop_projector, causes=LOST),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_llava_way(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
