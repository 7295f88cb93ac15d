"""Synthetic checkpoints of every kind that people meet, with the truth written down by hand and not by the code.

Each function returns a `Kind`: the keys of both sides and the pairs that load. The truth is built by naming, tensor by
tensor, what it is called on either side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Shapes = dict[str, tuple[int, ...]]

RANK = 4
ATTENTION = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
MLP = {"gate_proj": (64, 32), "up_proj": (64, 32), "down_proj": (32, 64)}


@dataclass
class Kind:
    """One situation and what is true of it."""

    checkpoint: Shapes
    model: Shapes
    loaded: dict[str, str]
    mismatched: dict[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    problems: frozenset[str] = frozenset()
    ambiguous: bool = False
    rules: tuple[str, ...] | None = None
    """The texts of the rules where they are held word for word."""


KINDS: dict[str, Callable[[], Kind]] = {}


def kind(make: Callable[[], Kind]) -> Callable[[], Kind]:
    """Put a situation on the list."""
    KINDS[make.__name__] = make
    return make


def decoder(layers: int = 2, vocabulary: int = 100) -> Shapes:
    """The tensors of a Llama-like decoder without its head, named from its own root."""
    shapes: Shapes = {"embed_tokens.weight": (vocabulary, 32), "norm.weight": (32,)}
    for n in range(layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"layers.{n}.{name}.weight"] = (32,)
        for name, shape in ATTENTION.items():
            shapes[f"layers.{n}.self_attn.{name}.weight"] = shape
        for name, shape in MLP.items():
            shapes[f"layers.{n}.mlp.{name}.weight"] = shape
    return shapes


def vision(layers: int = 2, width: int = 32) -> Shapes:
    """The tensors of a SigLIP-like tower, named from its own root; attention has the decoder's names and shapes."""
    shapes: Shapes = {
        "embeddings.patch_embedding.weight": (width, 3, 2, 2),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": (16, width),
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
    }
    for n in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"encoder.layers.{n}.self_attn.{name}.weight"] = (width, width)
            shapes[f"encoder.layers.{n}.self_attn.{name}.bias"] = (width,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"encoder.layers.{n}.{name}.weight"] = (width,)
            shapes[f"encoder.layers.{n}.{name}.bias"] = (width,)
        shapes[f"encoder.layers.{n}.mlp.fc1.weight"] = (64, width)
        shapes[f"encoder.layers.{n}.mlp.fc2.weight"] = (width, 64)
    return shapes


def projector() -> Shapes:
    return {f"linear_{n}.{p}": (32, 32) if p == "weight" else (32,) for n in (1, 2) for p in ("weight", "bias")}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}{key}": shape for key, shape in shapes.items()}


def lora(
    modules: Mapping[str, tuple[int, ...]],
    adapter: str | None = None,
    rank: int = RANK,
    a: str = "lora_A",
    b: str = "lora_B",
) -> Shapes:
    """LoRA tensors for modules (path -> shape of the weight)."""
    middle = "" if adapter is None else f".{adapter}"
    shapes: Shapes = {}
    for path, (out, into) in modules.items():
        shapes[f"{path}.{a}{middle}.weight"] = (rank, into)
        shapes[f"{path}.{b}{middle}.weight"] = (out, rank)
    return shapes


def targets(
    prefix: str = "", layers: int = 2, names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
) -> Shapes:
    """Modules of the decoder that LoRA adapts: path -> shape of the weight."""
    return {f"{prefix}layers.{n}.self_attn.{name}": ATTENTION[name] for n in range(layers) for name in names}


def wrapped(shapes: Shapes, modules: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The same tensors with `base_layer` put into the adapted modules."""
    return {wrap(key, modules): shape for key, shape in shapes.items()}


def wrap(key: str, modules: Mapping[str, tuple[int, ...]]) -> str:
    path, _, parameter = key.rpartition(".")
    return f"{path}.base_layer.{parameter}" if path in modules else key


def renamed(shapes: Shapes, rename: Callable[[str], str]) -> tuple[Shapes, dict[str, str]]:
    """The model's tensors under the checkpoint's names, and the truth."""
    return {rename(key): shape for key, shape in shapes.items()}, {rename(key): key for key in shapes}


def moved(model: Shapes, rename: Callable[[str], str], extra: Shapes | None = None) -> Kind:
    """A checkpoint that holds all of the model under other names."""
    checkpoint, loaded = renamed(model, rename)
    return Kind({**checkpoint, **(extra or {})}, model, loaded)


def causal() -> Shapes:
    return {**under("model.", decoder()), "lm_head.weight": (100, 32)}


def peft_causal(adapter: str = "default", layers: int = 2) -> Shapes:
    """A causal LM under PEFT."""
    modules = targets("model.", layers)
    plain = {**under("model.", decoder(layers)), "lm_head.weight": (100, 32)}
    return under("base_model.model.", {**wrapped(plain, modules), **lora(modules, adapter)})


def vlm_old(vision_layers: int = 2) -> Shapes:
    """A vision-language model in the older arrangement."""
    return {
        **under("vision_tower.vision_model.", vision(vision_layers)),
        **under("multi_modal_projector.", projector()),
        **under("language_model.model.", decoder()),
        "language_model.lm_head.weight": (100, 32),
    }


def old_name(key: str) -> str:
    """What the older arrangement calls a tensor of the newer one."""
    for new, old in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if key.startswith(new):
            return old + key[len(new) :]
    raise AssertionError(key)


def vlm_new(vision_layers: int = 2) -> Shapes:
    """The newer arrangement."""
    return {
        **under("model.vision_tower.vision_model.", vision(vision_layers)),
        **under("model.multi_modal_projector.", projector()),
        **under("model.language_model.", decoder()),
        "lm_head.weight": (100, 32),
    }


# ------------------------------------------------------------------------------------------------ wrappers


@kind
def wrapper_in_front() -> Kind:
    return moved(causal(), lambda key: f"module.{key}")


@kind
def wrappers_repeated() -> Kind:
    return moved(causal(), lambda key: f"module.module._orig_mod.{key}")


@kind
def wrapper_in_the_middle() -> Kind:
    return moved(
        causal(),
        lambda key: key.replace("self_attn.", "self_attn._checkpoint_wrapped_module.").replace(
            "mlp.", "_fsdp_wrapped_module.mlp."
        ),
    )


@kind
def wrapper_on_the_model() -> Kind:
    plain = causal()
    model = under("_orig_mod.", plain)
    return Kind(plain, model, {key: f"_orig_mod.{key}" for key in plain})


@kind
def wrappers_on_both_sides() -> Kind:
    plain = causal()
    return Kind(under("module.", plain), under("_orig_mod.", plain), {f"module.{k}": f"_orig_mod.{k}" for k in plain})


@kind
def fsdp_everywhere() -> Kind:
    def rename(key: str) -> str:
        parts = key.split(".")
        if parts[:2] == ["model", "layers"]:
            parts.insert(3, "_fsdp_wrapped_module")
        return ".".join(["_fsdp_wrapped_module", *parts])

    return moved(causal(), rename)


@kind
def lightning_prefix() -> Kind:
    return moved(causal(), lambda key: f"model.{key}")


@kind
def model_prefix_missing() -> Kind:
    return moved(under("model.", decoder()), lambda key: key.removeprefix("model."))


@kind
def causal_checkpoint_in_bare_decoder() -> Kind:
    model = decoder()
    return Kind(causal(), model, {f"model.{key}": key for key in model})


@kind
def bare_decoder_in_causal_model() -> Kind:
    checkpoint = decoder()
    return Kind(checkpoint, causal(), {key: f"model.{key}" for key in checkpoint})


@kind
def lightning_prefix_and_wrapper_inside() -> Kind:
    return moved(causal(), lambda key: f"model._orig_mod.{key}")


# ------------------------------------------------------------------------------------------------ vision-language


@kind
def vlm_refactor_forward() -> Kind:
    return moved(vlm_new(), old_name)


@kind
def vlm_refactor_backward() -> Kind:
    new = vlm_new()
    return Kind(new, {old_name(k): s for k, s in new.items()}, {k: old_name(k) for k in new})


@kind
def vlm_refactor_under_lightning() -> Kind:
    return moved(vlm_new(), lambda key: f"model.{old_name(key)}")


@kind
def vlm_refactor_three_vision_layers() -> Kind:
    return moved(vlm_new(3), old_name)


@kind
def vlm_vision_model_level_dropped() -> Kind:
    model = {k.replace("vision_tower.vision_model.", "vision_tower."): s for k, s in vlm_new().items()}
    return moved(model, lambda key: old_name(key).replace("vision_tower.", "vision_tower.vision_model."))


@kind
def vlm_adapter_on_the_newer_class() -> Kind:
    old, new = targets("language_model.model."), targets("model.language_model.")
    model = under("base_model.model.", {**wrapped(vlm_new(), new), **lora(new, "default")})
    checkpoint = under("base_model.model.", lora(old))
    loaded = {
        key: key.replace("language_model.model.", "model.language_model.").replace(".weight", ".default.weight")
        for key in checkpoint
    }
    return Kind(checkpoint, model, loaded)


@kind
def vlm_adapter_on_the_older_class() -> Kind:
    old, new = targets("language_model.model."), targets("model.language_model.")
    model = under("base_model.model.", {**wrapped(vlm_old(), old), **lora(old, "default")})
    checkpoint = under("base_model.model.", lora(new))
    loaded = {
        key: key.replace("model.language_model.", "language_model.model.", 1).replace(".weight", ".default.weight")
        for key in checkpoint
    }
    return Kind(
        checkpoint,
        model,
        {k: v.replace("base_language_model.model.", "base_model.model.language_model.") for k, v in loaded.items()},
    )


@kind
def vlm_adapter_with_both_towers() -> Kind:
    """LoRA on q and v of both towers: same names below `layers`, same shapes, same layers."""
    names = ("q_proj", "v_proj")
    sees = {f"encoder.layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    reads = {f"layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    old = {**under("vision_tower.vision_model.", sees), **under("language_model.model.", reads)}
    new = {**under("model.vision_tower.vision_model.", sees), **under("model.language_model.", reads)}
    checkpoint = under("base_model.model.", lora(old))
    model = under("base_model.model.", lora(new, "default"))
    loaded = {}
    for o, n in zip(old, new, strict=True):
        for x in "AB":
            loaded[f"base_model.model.{o}.lora_{x}.weight"] = f"base_model.model.{n}.lora_{x}.default.weight"
    return Kind(checkpoint, model, loaded)


@kind
def text_adapter_beside_a_vision_tower() -> Kind:
    """Trained on the text class; the model has LoRA in both towers, with the same names and shapes."""
    names = ("q_proj", "v_proj")
    reads = {f"layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    sees = {f"encoder.layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    checkpoint = under("base_model.model.", lora(under("model.", reads)))
    slots = lora({**under("model.language_model.", reads), **under("model.vision_tower.", sees)}, "default")
    model = under("base_model.model.", {**vlm_new(), **slots})
    front = "base_model.model.model."
    loaded = {
        f"{front}{m}.lora_{x}.weight": f"{front}language_model.{m}.lora_{x}.default.weight" for m in reads for x in "AB"
    }
    return Kind(checkpoint, model, loaded)


@kind
def vision_tower_without_its_counterpart() -> Kind:
    """The checkpoint's tower sees, the model only reads: same attention names and shapes, nothing may be paired."""
    return Kind(under("vision_tower.", vision()), causal(), {})


@kind
def vision_adapter_on_a_text_model() -> Kind:
    names = ("q_proj", "v_proj")
    sees = {f"vision_tower.encoder.layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    reads = {f"language_model.layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in names}
    return Kind(lora(sees), lora(reads, "default"), {})


@kind
def swapped_order_of_towers() -> Kind:
    """Both towers are the same class; only their names tell them apart."""
    tower = vision()
    model = {**under("model.teacher.", tower), **under("model.student.", tower)}
    return moved(model, lambda key: key.removeprefix("model."))


@kind
def one_segment_renamed_in_one_tower() -> Kind:
    return moved(
        vlm_new(),
        lambda key: key.replace(".self_attn.", ".attention.") if ".vision_tower." in key else key,
    )


@kind
def one_segment_renamed_and_prefix() -> Kind:
    return moved(
        vlm_new(),
        lambda key: "model." + (key.replace(".self_attn.", ".attn.") if ".vision_tower." in key else key),
    )


@kind
def tower_renamed() -> Kind:
    return moved(vlm_new(), lambda key: key.replace("model.vision_tower.vision_model.", "model.visual."))


@kind
def only_the_language_model_of_a_vlm() -> Kind:
    model = causal()
    return Kind(vlm_old(), model, {f"language_model.{key}": key for key in model})


@kind
def head_beside_the_language_model() -> Kind:
    model = {**under("model.language_model.", decoder()), "model.lm_head.weight": (100, 32)}
    return moved(
        model,
        lambda k: k.replace("model.language_model.", "language_model.model.").replace(
            "model.lm_head.", "language_model.lm_head."
        ),
    )


@kind
def qwen_vl_refactor() -> Kind:
    """The vision tower gates its MLP as the decoder does."""
    sees = {
        f"blocks.{n}.attn.{p}.weight": (96, 32) if p == "qkv" else (32, 32) for n in range(2) for p in ("qkv", "proj")
    }
    sees |= {f"blocks.{n}.mlp.{p}.weight": s for n in range(2) for p, s in MLP.items()}
    model = {**under("model.visual.", sees), **under("model.language_model.", decoder()), "lm_head.weight": (100, 32)}

    def rename(key: str) -> str:
        return key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")

    return moved(model, rename)


@kind
def qwen_vl_adapter() -> Kind:
    sees = {f"visual.blocks.{n}.mlp.{p}": s for n in range(2) for p, s in MLP.items()}
    reads = {f"layers.{n}.mlp.{p}": s for n in range(2) for p, s in MLP.items()}
    checkpoint = under("base_model.model.", lora({**sees, **under("model.", reads)}))
    model = under("base_model.model.model.", lora({**sees, **under("language_model.", reads)}, "default"))
    loaded = dict(zip(checkpoint, model, strict=True))
    return Kind(checkpoint, model, loaded)


@kind
def level_between_repeated() -> Kind:
    """The first LLaVA's tower lies in a module of its own name."""
    model = {k.replace("model.vision_tower.", "vision_tower."): s for k, s in vlm_new().items()}
    return moved(model, lambda k: f"model.vision_tower.{k}" if k.startswith("vision_tower") else k)


@kind
def second_attention_only() -> Kind:
    names = ("to_q", "to_k", "to_v")
    mine = {f"blocks.{n}.attn2.{p}": (32, 32) for n in range(2) for p in names}
    theirs = {f"blocks.{n}.attn1.{p}": (32, 32) for n in range(2) for p in names}
    return Kind(lora(mine), lora(theirs, "default"), {})


@kind
def second_text_encoder_only() -> Kind:
    return Kind(
        lora(under("text_encoder_2.", dict(text_modules(2)))),
        lora(under("text_encoder.", dict(text_modules(2))), "default"),
        {},
    )


@kind
def cross_attention_is_not_self_attention() -> Kind:
    mine = {f"layers.{n}.encoder_attn.{p}": (32, 32) for n in range(2) for p in ("q_proj", "v_proj")}
    theirs = {f"layers.{n}.self_attn.{p}": (32, 32) for n in range(2) for p in ("q_proj", "v_proj")}
    return Kind(lora(mine), lora(theirs, "default"), {})


@kind
def teacher_is_not_student() -> Kind:
    return Kind(under("student.", decoder()), under("teacher.", decoder()), {})


@kind
def actor_and_critic_for_one_model() -> Kind:
    both = {**under("actor.model.", decoder()), **under("critic.model.", decoder())}
    return Kind(both, under("model.", decoder()), {}, ambiguous=True)


@kind
def number_in_front_dropped() -> Kind:
    model = {f"encoder.layer.{n}.attention.self.{p}.weight": (32, 32) for n in range(2) for p in ("query", "key")}
    return moved(model, lambda key: f"0.auto_model.{key}")


@kind
def number_in_front_added() -> Kind:
    made = number_in_front_dropped()
    return Kind(made.model, made.checkpoint, {goal: key for key, goal in made.loaded.items()})


@kind
def encoder_and_decoder_of_one_model() -> Kind:
    tower = {
        f"layers.{n}.{a}.{p}.weight": (32, 32)
        for n in range(2)
        for a in ("self_attn", "mlp")
        for p in ("q_proj", "fc1")
    }
    model = {**under("model.encoder.", tower), **under("model.decoder.", tower)}
    return moved(model, lambda key: key.removeprefix("model."))


@kind
def only_the_decoder_of_an_encoder_decoder() -> Kind:
    tower = {
        f"layers.{n}.{a}.{p}.weight": (32, 32)
        for n in range(2)
        for a in ("self_attn", "mlp")
        for p in ("q_proj", "fc1")
    }
    return Kind(under("decoder.", tower), under("model.encoder.", tower), {})


@kind
def torchtune_names_in_peft() -> Kind:
    checkpoint = lora(
        {f"layers.{n}.attn.{p}": ATTENTION[p] for n in range(2) for p in ("q_proj", "v_proj")}, a="lora_a", b="lora_b"
    )
    loaded = {
        k: f"base_model.model.model.{k}".replace(".attn.", ".self_attn.")
        .replace("lora_a", "lora_A.default")
        .replace("lora_b", "lora_B.default")
        for k in checkpoint
    }
    return Kind(checkpoint, peft_causal(), loaded)


# ------------------------------------------------------------------------------------------------ PEFT


def peft_file(**options: Any) -> tuple[Shapes, dict[str, str]]:
    modules = targets("base_model.model.model.")
    checkpoint = lora(modules)
    return checkpoint, {
        key: key.replace(".weight", f".{options.get('adapter', 'default')}.weight") for key in checkpoint
    }


@kind
def adapter_name_absent() -> Kind:
    checkpoint, loaded = peft_file()
    return Kind(checkpoint, peft_causal(), loaded)


@kind
def adapter_name_numbered() -> Kind:
    checkpoint, loaded = peft_file(adapter="default_0")
    return Kind(checkpoint, peft_causal("default_0"), loaded)


@kind
def adapter_name_is_a_number() -> Kind:
    checkpoint, loaded = peft_file(adapter="0")
    return Kind(checkpoint, peft_causal("0"), loaded)


@kind
def adapter_called_weight() -> Kind:
    checkpoint, loaded = peft_file(adapter="weight")
    return Kind(checkpoint, peft_causal("weight"), loaded)


@kind
def adapter_called_lora() -> Kind:
    checkpoint, loaded = peft_file(adapter="lora")
    return Kind(checkpoint, peft_causal("lora"), loaded)


@kind
def adapter_name_other() -> Kind:
    checkpoint = peft_causal("foo")
    return Kind(checkpoint, peft_causal(), {key: key.replace(".foo.", ".default.") for key in checkpoint})


@kind
def adapter_chosen_among_two() -> Kind:
    checkpoint, loaded = peft_file(adapter="second")
    model = {**peft_causal(), **{k: s for k, s in peft_causal("second").items() if ".second." in k}}
    return Kind(checkpoint, model, loaded, options={"adapter_name": "second"})


@kind
def adapter_not_chosen_among_two() -> Kind:
    checkpoint, _ = peft_file()
    model = {**peft_causal("first"), **{k: s for k, s in peft_causal("second").items() if ".second." in k}}
    return Kind(checkpoint, model, {}, ambiguous=True)


@kind
def two_adapters_by_name() -> Kind:
    both = {**peft_causal("a"), **{k: s for k, s in peft_causal("b").items() if ".b." in k}}
    return Kind(under("module.", both), both, {f"module.{key}": key for key in both})


@kind
def two_adapters_in_a_model_with_one() -> Kind:
    both = {**peft_causal("a"), **{k: s for k, s in peft_causal("b").items() if ".b." in k}}
    model = peft_causal("b")
    return Kind(both, model, {key: key for key in model})


@kind
def wrapped_checkpoint_in_plain_model() -> Kind:
    modules = targets("model.")
    plain = causal()
    loaded = {f"base_model.model.{wrap(key, modules)}": key for key in plain}
    return Kind(peft_causal(), plain, loaded, problems=frozenset({"no-adapter-slot"}))


@kind
def plain_checkpoint_in_wrapped_model() -> Kind:
    modules = targets("model.")
    plain = causal()
    return Kind(plain, peft_causal(), {key: f"base_model.model.{wrap(key, modules)}" for key in plain})


@kind
def plain_checkpoint_in_partly_adapted_model() -> Kind:
    """Only the first two of four layers are adapted, so `base_layer` comes and goes with the number."""
    modules = targets("model.", 2)
    plain = under("model.", decoder(4))
    model = under("base_model.model.", {**wrapped(plain, modules), **lora(modules, "default")})
    return Kind(plain, model, {key: f"base_model.model.{wrap(key, modules)}" for key in plain})


@kind
def old_peft_without_base_layer() -> Kind:
    model = peft_causal()
    return moved(model, lambda key: key.replace(".base_layer.", "."))


@kind
def old_peft_model() -> Kind:
    new = peft_causal()
    old = {key.replace(".base_layer.", "."): shape for key, shape in new.items()}
    return Kind(new, old, {key: key.replace(".base_layer.", ".") for key in new})


@kind
def wrapped_twice() -> Kind:
    checkpoint = under("base_model.model.", {k: s for k, s in peft_causal().items() if "lora_" in k})
    return Kind(checkpoint, peft_causal(), {key: key.removeprefix("base_model.model.") for key in checkpoint})


@kind
def attached_without_a_wrapper() -> Kind:
    """Transformers' own adapters: no `base_model.model` on the model's side."""
    checkpoint, loaded = peft_file()
    model = {key.removeprefix("base_model.model."): shape for key, shape in peft_causal().items()}
    return Kind(checkpoint, model, {key: goal.removeprefix("base_model.model.") for key, goal in loaded.items()})


@kind
def lightning_vlm_with_lora() -> Kind:
    """The guide's own layout: the language model is wrapped inside a Lightning module."""
    modules = targets("model.")
    inner = under("base_model.model.", {**wrapped(causal(), modules), **lora(modules, "default")})
    model = {**under("vision_encoder.", vision()), **under("language_model.", inner)}
    return moved(model, lambda key: f"model.{key}")


@kind
def lightning_vlm_with_lora_in_a_plain_model() -> Kind:
    modules = targets("model.")
    inner = under("base_model.model.", {**wrapped(causal(), modules), **lora(modules, "default")})
    checkpoint = under("model.", {**under("vision_encoder.", vision()), **under("language_model.", inner)})
    plain = {**under("vision_encoder.", vision()), **under("language_model.", causal())}
    loaded = {}
    for key in plain:
        name = (
            f"language_model.base_model.model.{wrap(key.removeprefix('language_model.'), modules)}"
            if key.startswith("language")
            else key
        )
        loaded[f"model.{name}"] = key
    return Kind(checkpoint, plain, loaded, problems=frozenset({"no-adapter-slot"}))


@kind
def saved_head() -> Kind:
    checkpoint, loaded = peft_file()
    checkpoint["base_model.model.score.weight"] = (2, 32)
    loaded["base_model.model.score.weight"] = "base_model.model.score.modules_to_save.default.weight"
    model = {
        **peft_causal(),
        "base_model.model.score.original_module.weight": (2, 32),
        "base_model.model.score.modules_to_save.default.weight": (2, 32),
    }
    return Kind(checkpoint, model, loaded, options={"adapter_config": {"modules_to_save": ["score"]}})


@kind
def deep_saved_head() -> Kind:
    checkpoint, loaded = peft_file()
    model = peft_causal()
    for name in ("dense", "out_proj"):
        for parameter, shape in (("weight", (32, 32)), ("bias", (32,))):
            key = f"base_model.model.classifier.{name}.{parameter}"
            checkpoint[key] = shape
            for copy in ("original_module", "modules_to_save.default"):
                model[f"base_model.model.classifier.{copy}.{name}.{parameter}"] = shape
            loaded[key] = f"base_model.model.classifier.modules_to_save.default.{name}.{parameter}"
    return Kind(checkpoint, model, loaded)


@kind
def full_state_with_saved_head() -> Kind:
    model = {
        **peft_causal(),
        "base_model.model.score.original_module.weight": (2, 32),
        "base_model.model.score.modules_to_save.default.weight": (2, 32),
    }
    return moved(model, lambda key: f"module.{key}")


@kind
def full_state_with_saved_head_in_plain_model() -> Kind:
    modules = targets("model.")
    plain = {**causal(), "score.weight": (2, 32)}
    checkpoint = {
        **peft_causal(),
        "base_model.model.score.original_module.weight": (2, 32),
        "base_model.model.score.modules_to_save.default.weight": (2, 32),
    }
    loaded = {f"base_model.model.{wrap(key, modules)}": key for key in plain if "score" not in key}
    loaded["base_model.model.score.modules_to_save.default.weight"] = "score.weight"
    return Kind(checkpoint, plain, loaded, problems=frozenset({"no-adapter-slot"}))


@kind
def plain_checkpoint_in_model_with_saved_head() -> Kind:
    plain = {**causal(), "score.weight": (2, 32)}
    modules = targets("model.")
    model = {
        **peft_causal(),
        "base_model.model.score.original_module.weight": (2, 32),
        "base_model.model.score.modules_to_save.default.weight": (2, 32),
    }
    loaded = {key: f"base_model.model.{wrap(key, modules)}" for key in plain if "score" not in key}
    loaded["score.weight"] = "base_model.model.score.original_module.weight"
    return Kind(plain, model, loaded)


@kind
def head_moved_out() -> Kind:
    model = {**under("model.", decoder()), "score.weight": (2, 32)}
    return moved(model, lambda key: f"model.{key}" if key.startswith("score") else key)


@kind
def head_of_another_name() -> Kind:
    loaded = {f"model.{key}": f"model.{key}" for key in decoder()}
    checkpoint = {**under("model.", decoder()), "score.weight": (2, 32)}
    model = {**under("model.", decoder()), "classifier.weight": (2, 32)}
    return Kind(checkpoint, model, loaded)


@kind
def dora() -> Kind:
    modules = targets("base_model.model.model.")
    checkpoint = lora(modules)
    model = peft_causal()
    loaded = {key: key.replace(".weight", ".default.weight") for key in checkpoint}
    for path, (out, _) in modules.items():
        checkpoint[f"{path}.lora_magnitude_vector"] = (out,)
        model[f"{path}.lora_magnitude_vector.default.weight"] = (out,)
        loaded[f"{path}.lora_magnitude_vector"] = f"{path}.lora_magnitude_vector.default.weight"
    return Kind(checkpoint, model, loaded)


@kind
def dora_old_model() -> Kind:
    modules = targets("base_model.model.model.")
    model = peft_causal()
    model |= {f"{path}.lora_magnitude_vector.default": (out,) for path, (out, _) in modules.items()}
    return moved(model, lambda key: f"{key}.weight" if "magnitude" in key else key)


@kind
def embedding_lora() -> Kind:
    checkpoint, loaded = peft_file()
    model = peft_causal()
    path = "base_model.model.model.embed_tokens"
    model[f"{path}.base_layer.weight"] = model.pop(f"{path}.weight")
    for name, shape in (("A", (RANK, 100)), ("B", (32, RANK))):
        checkpoint[f"{path}.lora_embedding_{name}"] = shape
        model[f"{path}.lora_embedding_{name}.default"] = shape
        loaded[f"{path}.lora_embedding_{name}"] = f"{path}.lora_embedding_{name}.default"
    return Kind(checkpoint, model, loaded)


@kind
def trainable_tokens() -> Kind:
    checkpoint, loaded = peft_file()
    model = peft_causal()
    path = "base_model.model.model.embed_tokens"
    model[f"{path}.token_adapter.base_layer.weight"] = model.pop(f"{path}.weight")
    model[f"{path}.token_adapter.trainable_tokens_delta.default"] = (3, 32)
    checkpoint[f"{path}.token_adapter.trainable_tokens_delta"] = (3, 32)
    loaded[f"{path}.token_adapter.trainable_tokens_delta"] = f"{path}.token_adapter.trainable_tokens_delta.default"
    return Kind(checkpoint, model, loaded)


@kind
def lora_with_bias() -> Kind:
    checkpoint, loaded = peft_file()
    model = peft_causal()
    for path, (out, _) in targets("base_model.model.model.").items():
        checkpoint[f"{path}.lora_B.bias"] = (out,)
        model[f"{path}.lora_B.default.bias"] = (out,)
        loaded[f"{path}.lora_B.bias"] = f"{path}.lora_B.default.bias"
    return Kind(checkpoint, model, loaded)


# ------------------------------------------------------------------------------------------------ experts


def experts(prefix: str = "", layers: int = 2, count: int = 3) -> Shapes:
    return {
        f"{prefix}layers.{n}.mlp.experts.{e}.{name}": shape
        for n in range(layers)
        for e in range(count)
        for name, shape in (("w1", (64, 32)), ("w2", (32, 64)), ("w3", (64, 32)))
    }


@kind
def lora_per_expert() -> Kind:
    checkpoint = lora(experts("base_model.model.model."))
    model = lora(experts("base_model.model.model."), "default")
    return Kind(
        under("module.", checkpoint),
        model,
        {f"module.{key}": key.replace(".weight", ".default.weight") for key in checkpoint},
    )


@kind
def lora_on_fused_experts() -> Kind:
    """Two adapted parameters of one module: PEFT nests the second one's wrapper in `base_layer`."""
    names = [f"base_model.model.model.layers.{n}.mlp.experts{m}" for n in range(2) for m in ("", ".base_layer")]
    checkpoint = {f"{m}.lora_{x}.weight": (8, 32) if x == "A" else (32, 8) for m in names for x in "AB"}
    model = {k.replace(".weight", ".default.weight"): s for k, s in checkpoint.items()}
    return Kind(checkpoint, model, dict(zip(checkpoint, model, strict=True)))


# ------------------------------------------------------------------------------------------------ conventions


def convention(a: str, b: str, *, parameter: str = ".weight") -> Kind:
    modules = targets("model.")
    checkpoint: Shapes = {}
    loaded: dict[str, str] = {}
    for path, (out, into) in modules.items():
        for name, factor, shape in ((a, "A", (RANK, into)), (b, "B", (out, RANK))):
            checkpoint[f"{path}.{name}{parameter}"] = shape
            loaded[f"{path}.{name}{parameter}"] = f"base_model.model.{path}.lora_{factor}.default.weight"
    return Kind(checkpoint, peft_causal(), loaded)


@kind
def names_of_torchtune() -> Kind:
    return convention("lora_a", "lora_b")


@kind
def names_down_up() -> Kind:
    return convention("lora_down", "lora_up")


@kind
def names_lora_dot_down() -> Kind:
    return convention("lora.down", "lora.up")


@kind
def names_lora_linear_layer() -> Kind:
    return convention("lora_linear_layer.down", "lora_linear_layer.up")


@kind
def names_lora_dot_a() -> Kind:
    return convention("lora.A", "lora.B")


@kind
def names_of_loralib() -> Kind:
    return convention("lora_A", "lora_B", parameter="")


@kind
def alpha_beside_the_factors() -> Kind:
    made = convention("lora_down", "lora_up")
    made.checkpoint |= {f"{path}.alpha": () for path in targets("model.")}
    return made


@kind
def first_processors_of_diffusers() -> Kind:
    checkpoint: Shapes = {}
    model: Shapes = {}
    loaded: dict[str, str] = {}
    for n in range(2):
        for name, place in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0")):
            for old, new, shape in (("down", "lora_A", (4, 32)), ("up", "lora_B", (32, 4))):
                key = f"mid_block.attentions.0.transformer_blocks.{n}.attn1.processor.{name}_lora.{old}.weight"
                goal = f"unet.mid_block.attentions.0.transformer_blocks.{n}.attn1.{place}.{new}.default.weight"
                checkpoint[key] = model[goal] = shape
                loaded[key] = goal
    return Kind(checkpoint, model, loaded)


def kohya(
    component: str, model_prefix: str, modules: Mapping[str, tuple[int, int]]
) -> tuple[Shapes, Shapes, dict[str, str]]:
    checkpoint: Shapes = {}
    model: Shapes = {}
    loaded: dict[str, str] = {}
    for path, (out, into) in modules.items():
        flat = f"lora_{component}_{path.replace('.', '_')}"
        checkpoint[f"{flat}.alpha"] = ()
        for old, new, shape in (("lora_down", "lora_A", (4, into)), ("lora_up", "lora_B", (out, 4))):
            checkpoint[f"{flat}.{old}.weight"] = shape
            model[f"{model_prefix}{path}.{new}.default.weight"] = shape
            loaded[f"{flat}.{old}.weight"] = f"{model_prefix}{path}.{new}.default.weight"
    return checkpoint, model, loaded


def unet_modules() -> dict[str, tuple[int, int]]:
    return {
        f"down_blocks.{n}.attentions.{m}.transformer_blocks.0.attn{a}.{name}": (32, 32)
        for n in (1, 2)
        for m in (0, 1)
        for a in (1, 2)
        for name in ("to_q", "to_k", "to_v", "to_out.0")
    }


def text_modules(layers: int, width: int = 32) -> dict[str, tuple[int, int]]:
    return {
        f"text_model.encoder.layers.{n}.self_attn.{name}": (width, width)
        for n in range(layers)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    }


@kind
def kohya_unet() -> Kind:
    return Kind(*kohya("unet", "", unet_modules()))


@kind
def kohya_pipeline() -> Kind:
    parts = [
        kohya("unet", "unet.", unet_modules()),
        kohya("te1", "text_encoder.", text_modules(2)),
        kohya("te2", "text_encoder_2.", text_modules(2)),
    ]
    sides: tuple[Shapes, Shapes, dict[str, str]] = ({}, {}, {})
    for part in parts:
        for whole, own in zip(sides, part, strict=True):
            whole.update(own)  # type: ignore[arg-type]
    return Kind(*sides)


@kind
def kohya_language_model() -> Kind:
    return Kind(*kohya("unet", "base_model.model.", targets("model.")))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ what no renaming mends


@kind
def fused_qkv_in_the_model() -> Kind:
    plain = causal()
    model = {k: s for k, s in plain.items() if not any(f".{n}_proj" in k for n in "qkv")}
    model |= {f"model.layers.{n}.self_attn.qkv_proj.weight": (64, 32) for n in range(2)}
    same = {key: key for key in plain if key in model}
    return Kind(plain, model, same, problems=frozenset({"fused-qkv"}))


@kind
def fused_qkv_in_the_checkpoint() -> Kind:
    made = fused_qkv_in_the_model()
    return Kind(
        under("module.", made.model),
        made.checkpoint,
        {f"module.{k}": k for k in made.loaded},
        problems=frozenset({"fused-qkv"}),
    )


@kind
def fused_gate_and_up() -> Kind:
    plain = causal()
    model = {k: s for k, s in plain.items() if "gate_proj" not in k and "up_proj" not in k}
    model |= {f"model.layers.{n}.mlp.gate_up_proj.weight": (128, 32) for n in range(2)}
    return Kind(plain, model, {k: k for k in plain if k in model}, problems=frozenset({"fused-gate-up"}))


@kind
def fused_experts() -> Kind:
    plain = {f"model.{k}.weight": s for k, s in experts().items()}
    model = {
        f"model.layers.{n}.mlp.experts.{w}": s
        for n in range(2)
        for w, s in (("w1", (3, 64, 32)), ("w2", (3, 32, 64)), ("w3", (3, 64, 32)))
    }
    return Kind(plain, model, {}, problems=frozenset({"fused-experts"}))


@kind
def transposed_factors() -> Kind:
    checkpoint, loaded = peft_file()
    turned = {key: shape[::-1] for key, shape in checkpoint.items()}
    return Kind(turned, peft_causal(), {}, loaded, problems=frozenset({"transposed"}))


@kind
def transposed_weights() -> Kind:
    names = {f"transformer.h.{n}.mlp.c_fc.weight": (32, 128) for n in range(2)}
    rest = {f"transformer.h.{n}.ln_1.weight": (32,) for n in range(2)}
    model = {**rest, **{key: shape[::-1] for key, shape in names.items()}}
    return Kind(
        {**names, **rest}, model, {key: key for key in rest}, {k: k for k in names}, problems=frozenset({"transposed"})
    )


@kind
def empty_tensors() -> Kind:
    checkpoint, loaded = peft_file()
    return Kind(dict.fromkeys(checkpoint, (0,)), peft_causal(), {}, loaded, problems=frozenset({"size-0"}))


@kind
def other_rank() -> Kind:
    checkpoint = lora(targets("base_model.model.model."), rank=8)
    return Kind(
        checkpoint,
        peft_causal(),
        {},
        {key: key.replace(".weight", ".default.weight") for key in checkpoint},
        problems=frozenset({"rank-mismatch"}),
    )


@kind
def other_rank_and_other_prefix() -> Kind:
    old, new = targets("language_model.model."), targets("model.language_model.")
    checkpoint = under("base_model.model.", lora(old, rank=8))
    model = under("base_model.model.", {**wrapped(vlm_new(), new), **lora(new, "default")})
    met = {}
    for o, n in zip(old, new, strict=True):
        for x in "AB":
            met[f"base_model.model.{o}.lora_{x}.weight"] = f"base_model.model.{n}.lora_{x}.default.weight"
    return Kind(checkpoint, model, {}, met, problems=frozenset({"rank-mismatch"}))


@kind
def resized_vocabulary() -> Kind:
    grown = {**under("model.", decoder(vocabulary=120)), "lm_head.weight": (120, 32)}
    model = causal()
    met = {key: key for key in model if grown[key] != model[key]}
    return Kind(grown, model, {k: k for k in model if k not in met}, met, problems=frozenset({"resized-vocabulary"}))


@kind
def resized_vocabulary_and_refactor() -> Kind:
    model = vlm_new()
    checkpoint, loaded = renamed(model, old_name)
    met = {}
    for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        checkpoint[key] = (120, 32)
        met[key] = loaded.pop(key)
    return Kind(checkpoint, model, loaded, met, problems=frozenset({"resized-vocabulary"}))


@kind
def merged_linear() -> Kind:
    """loralib's MergedLinear: one A per enabled part, stacked, over one B."""
    checkpoint = {}
    model = {}
    met = {}
    for n in range(2):
        path = f"transformer.h.{n}.attn.c_attn"
        for name, mine, theirs in (("lora_A", (8, 32), (4, 32)), ("lora_B", (64, 4), (96, 4))):
            checkpoint[f"{path}.{name}"] = mine
            model[f"base_model.model.{path}.{name}.default.weight"] = theirs
            met[f"{path}.{name}"] = f"base_model.model.{path}.{name}.default.weight"
    return Kind(checkpoint, model, {}, met, problems=frozenset({"merged-linear"}))


@kind
def fewer_layers_in_the_model() -> Kind:
    checkpoint = under("module.model.", decoder(4))
    model = under("model.", decoder(2))
    return Kind(checkpoint, model, {f"module.{key}": key for key in model}, problems=frozenset({"extra-layers"}))


@kind
def more_layers_in_the_model() -> Kind:
    checkpoint = under("module.model.", decoder(2))
    model = under("model.", decoder(4))
    return Kind(
        checkpoint, model, {k: k.removeprefix("module.") for k in checkpoint}, problems=frozenset({"missing-layers"})
    )


@kind
def narrowed_targets() -> Kind:
    modules = targets("base_model.model.model.")
    mlp = {f"base_model.model.model.layers.{n}.mlp.{name}": shape for n in range(2) for name, shape in MLP.items()}
    checkpoint = lora({**modules, **mlp})
    loaded = {key: key.replace(".weight", ".default.weight") for key in lora(modules)}
    return Kind(checkpoint, peft_causal(), loaded, problems=frozenset({"no-adapter-slot"}))


# ------------------------------------------------------------------------------------------------ aliases


@kind
def tied_head_in_the_model_only() -> Kind:
    checkpoint = under("model.", decoder())
    return Kind(
        checkpoint,
        causal(),
        {k: k for k in checkpoint},
        options={"aliases": [("lm_head.weight", "model.embed_tokens.weight")]},
    )


@kind
def aliased_module_in_the_checkpoint() -> Kind:
    inner = {f"blocks.{n}.{p}.weight": (32, 32) for n in range(2) for p in ("proj", "fc")}
    twice = {**under("resampler_module.resampler.", inner), **under("resampler.", inner)}
    groups = [(f"resampler_module.resampler.{k}", f"resampler.{k}") for k in inner]
    loaded = {f"resampler.{k}": f"resampler.{k}" for k in inner}
    loaded |= {f"resampler_module.resampler.{k}": f"resampler.{k}" for k in inner}
    return Kind(twice, under("resampler.", inner), loaded, options={"aliases": groups})


@kind
def same_module_twice_without_alias() -> Kind:
    """The same names and shapes twice, and no alias: only the literal one may be paired."""
    inner = {f"blocks.{n}.{p}.weight": (32, 32) for n in range(2) for p in ("proj", "fc")}
    twice = {**under("ema.resampler.", inner), **under("resampler.", inner)}
    return Kind(twice, under("resampler.", inner), {f"resampler.{k}": f"resampler.{k}" for k in inner})


@kind
def two_places_for_one_module() -> Kind:
    inner = {f"blocks.{n}.{p}.weight": (32, 32) for n in range(2) for p in ("proj", "fc")}
    return Kind(inner, {**under("left.", inner), **under("right.", inner)}, {}, ambiguous=True)


@kind
def two_modules_for_one_place() -> Kind:
    inner = {f"blocks.{n}.{p}.weight": (32, 32) for n in range(2) for p in ("proj", "fc")}
    return Kind({**under("left.", inner), **under("right.", inner)}, inner, {}, ambiguous=True)


# ------------------------------------------------------------------------------------------------ odd names


@kind
def submodule_called_model() -> Kind:
    model = {"model.a.weight": (8, 8), "model.model.a.weight": (8, 8)}
    return moved(model, lambda key: key.removeprefix("model."))


@kind
def submodule_called_module() -> Kind:
    model = {"fc.weight": (8, 8), "module.fc.weight": (8, 8), "encoder.module.fc.weight": (8, 8)}
    return moved(model, lambda key: f"net.{key}")


@kind
def submodule_called_default() -> Kind:
    model = {"default.fc.weight": (8, 8), "default.default.fc.weight": (8, 8), "fc.weight": (8, 8)}
    return moved(model, lambda key: f"module.{key}")


@kind
def submodule_called_base_layer() -> Kind:
    model = {
        "base_layer.fc.weight": (8, 8),
        "fc.weight": (8, 8),
        "head.base_layer.weight": (8, 8),
        "head.weight": (8, 8),
    }
    return moved(model, lambda key: f"module.{key}")


@kind
def numeric_names() -> Kind:
    model = {"0.weight": (8, 8), "2.weight": (8, 8), "2.bias": (8,), "4.0.weight": (8, 8)}
    return moved(model, lambda key: f"module.{key}")


@kind
def key_that_begins_another() -> Kind:
    model = {"a": (2,), "a.b": (2,), "a.b.c": (2,), "a.b.c.weight": (2,)}
    return Kind(model, model, {key: key for key in model})


@kind
def disjoint() -> Kind:
    return Kind({"a.b.weight": (3, 3)}, {"c.d.weight": (3, 3)}, {})


@kind
def equal_shapes_only() -> Kind:
    return Kind(
        {"head.fc1.weight": (8, 8), "head.fc1.bias": (8,)}, {"head.dense.weight": (8, 8), "head.dense.bias": (8,)}, {}
    )


@kind
def one_norm_in_unrelated_models() -> Kind:
    return Kind(
        {"vision.norm.weight": (32,), "vision.patch.weight": (32, 3)},
        {"norm.weight": (32,), "tokens.weight": (9, 32)},
        {},
    )


@kind
def norm_left_over_in_a_known_tower() -> Kind:
    blocks = {f"blocks.{n}.fc{m}.weight": (32, 32) for n in range(2) for m in (1, 2)}
    layers = {f"layers.{n}.q{m}.weight": (32, 32) for n in range(2) for m in (1, 2)}
    checkpoint = {**under("vision.", blocks), "vision.norm.weight": (32,), **under("lm.", layers)}
    model = {**under("vision.", blocks), "norm.weight": (32,), **layers}
    loaded = {f"vision.{k}": f"vision.{k}" for k in blocks} | {f"lm.{k}": k for k in layers}
    return Kind(checkpoint, model, loaded)


# --------------------------------------------------------------------------------- whole checkpoints of wrapped models


def panorama(*, peft: bool) -> Shapes:
    """A vision-language model whose language model is a whole causal LM, under PEFT or not."""
    text = peft_causal() if peft else causal()
    return {
        **under("vision_encoder.encoder.", vision()),
        **under("projector.", projector()),
        **under("language_model.", text),
    }


def unwrapped(outer: str, model_outer: str, *rules: str) -> Kind:
    """A whole checkpoint with LoRA inside of the language model, for the model without LoRA."""
    checkpoint = under(outer, panorama(peft=True))
    model = under(model_outer, panorama(peft=False))
    loaded = {}
    for key in checkpoint:
        plain = key.removeprefix(outer).replace("base_model.model.", "").replace("base_layer.", "")
        if "lora_" not in key:
            loaded[key] = f"{model_outer}{plain}"
    return Kind(checkpoint, model, loaded, problems=frozenset({"no-adapter-slot"}), rules=rules)


def whole(outer: str, model_outer: str, *rules: str) -> Kind:
    """A whole checkpoint with LoRA inside of the language model, for the same model below another wrapper."""
    inner = panorama(peft=True)
    loaded = {f"{outer}{key}": f"{model_outer}{key}" for key in inner}
    return Kind(under(outer, inner), under(model_outer, inner), loaded, rules=rules)


_UNWRAP = ("strip base_model.model.", "strip base_layer.")


@kind
def peft_inside_a_vlm_for_the_plain_model() -> Kind:
    return unwrapped("", "", *_UNWRAP)


@kind
def peft_inside_a_vlm_below_lightning() -> Kind:
    return unwrapped("model.", "", "strip base_model.model.", "strip model.", "strip base_layer.")


@kind
def peft_inside_a_vlm_below_ddp() -> Kind:
    return unwrapped("module.", "", "strip base_model.model.", "strip module.", "strip base_layer.")


@kind
def peft_inside_a_compiled_vlm() -> Kind:
    return unwrapped("_orig_mod.", "", "strip base_model.model.", "strip _orig_mod.", "strip base_layer.")


@kind
def peft_inside_a_vlm_for_a_compiled_plain_model() -> Kind:
    rules = ("strip base_model.model.", "rename module to _orig_mod", "strip base_layer.")
    return unwrapped("module.", "_orig_mod.", *rules)


@kind
def peft_inside_a_vlm_for_a_plain_model_below_model() -> Kind:
    return unwrapped("", "model.", "strip base_model.model.", "insert model. in front", "strip base_layer.")


@kind
def whole_vlm_below_lightning() -> Kind:
    return whole("model.", "", "strip model.")


@kind
def whole_vlm_below_ddp_and_compile() -> Kind:
    return whole("module._orig_mod.", "", "strip module._orig_mod.")


@kind
def whole_vlm_for_a_compiled_model() -> Kind:
    return whole("", "_orig_mod.", "insert _orig_mod. in front")


@kind
def whole_vlm_below_lightning_for_ddp() -> Kind:
    return whole("model.", "module.", "rename model to module")


@kind
def peft_around_a_vlm_for_the_plain_model() -> Kind:
    modules = targets("model.language_model.")
    checkpoint = under("base_model.model.", {**wrapped(vlm_new(), modules), **lora(modules, "default")})
    loaded = {f"base_model.model.{wrap(key, modules)}": key for key in vlm_new()}
    return Kind(checkpoint, vlm_new(), loaded, problems=frozenset({"no-adapter-slot"}), rules=_UNWRAP)


# ------------------------------------------------------------------------------------------ names of other libraries

TORCHTUNE = {
    "model.embed_tokens.": "tok_embeddings.",
    "model.norm.weight": "norm.scale",
    "lm_head.": "output.",
    "model.layers.": "layers.",
    "self_attn.o_proj": "attn.output_proj",
    "self_attn.": "attn.",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
    "post_attention_layernorm.weight": "mlp_norm.scale",
    "input_layernorm.weight": "sa_norm.scale",
}
LLAMA = {
    "model.embed_tokens.": "tok_embeddings.",
    "model.norm.": "norm.",
    "lm_head.": "output.",
    "model.layers.": "layers.",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "post_attention_layernorm.": "ffn_norm.",
    "input_layernorm.": "attention_norm.",
}
GGUF = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm.": "ffn_norm.",
    "input_layernorm.": "attn_norm.",
}


def spelled(names: Mapping[str, str]) -> Callable[[str], str]:
    """Return what writes a key of `causal` in another library's names."""

    def rename(key: str) -> str:
        for old, new in names.items():
            key = key.replace(old, new)
        return key

    return rename


def inverse(made: Kind) -> Kind:
    """The same pairs the other way round."""
    return Kind(made.model, made.checkpoint, {goal: key for key, goal in made.loaded.items()})


@kind
def torchtune_model_in_transformers() -> Kind:
    return moved(causal(), spelled(TORCHTUNE))


@kind
def transformers_model_in_torchtune() -> Kind:
    return inverse(moved(causal(), spelled(TORCHTUNE)))


@kind
def llama_model_in_transformers() -> Kind:
    return moved(causal(), spelled(LLAMA))


@kind
def transformers_model_in_llama() -> Kind:
    return inverse(moved(causal(), spelled(LLAMA)))


@kind
def gguf_names_in_transformers() -> Kind:
    return moved(causal(), spelled(GGUF))


@kind
def torchtune_adapter_on_gate_and_up() -> Kind:
    """Equal shapes: only the library's names tell the gate from the other projection."""
    inner = {f"layers.{n}.mlp.{name}": MLP[name] for n in range(2) for name in ("gate_proj", "up_proj", "down_proj")}
    modules = under("model.", inner)
    model = under("base_model.model.", {**wrapped(causal(), modules), **lora(modules, "default")})
    checkpoint, loaded = {}, {}
    for path, (out, into) in inner.items():
        tune = spelled(TORCHTUNE)(path)
        for mine, theirs, shape in (("lora_a", "lora_A", (RANK, into)), ("lora_b", "lora_B", (out, RANK))):
            checkpoint[f"{tune}.{mine}.weight"] = shape
            loaded[f"{tune}.{mine}.weight"] = f"base_model.model.model.{path}.{theirs}.default.weight"
    return Kind(checkpoint, model, loaded)


@kind
def mixtral_experts_in_the_newer_names() -> Kind:
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    model, loaded = {}, {}
    for n in range(2):
        model[f"model.layers.{n}.mlp.gate.weight"] = (3, 32)
        loaded[f"model.layers.{n}.block_sparse_moe.gate.weight"] = f"model.layers.{n}.mlp.gate.weight"
        for e in range(3):
            for name, shape in MLP.items():
                model[f"model.layers.{n}.mlp.experts.{e}.{name}.weight"] = shape
                old = f"model.layers.{n}.block_sparse_moe.experts.{e}.{names[name]}.weight"
                loaded[old] = f"model.layers.{n}.mlp.experts.{e}.{name}.weight"
    return Kind({key: model[goal] for key, goal in loaded.items()}, model, loaded)


@kind
def megatron_adapter_of_all_it_fuses() -> Kind:
    """What Megatron does not fuse is renamed; the fused projections stay behind."""
    model = peft_causal()
    for n in range(2):
        model |= lora({f"base_model.model.model.layers.{n}.mlp.down_proj": (32, 64)}, "default")
    checkpoint, loaded = {}, {}
    for n in range(2):
        layer, host = f"decoder.layers.{n}", f"base_model.model.model.layers.{n}"
        for name, place, into in (
            ("self_attention.linear_proj", "self_attn.o_proj", 32),
            ("mlp.linear_fc2", "mlp.down_proj", 64),
        ):
            checkpoint[f"{layer}.{name}.adapter.linear_in.weight"] = (RANK, into)
            checkpoint[f"{layer}.{name}.adapter.linear_out.weight"] = (32, RANK)
            loaded[f"{layer}.{name}.adapter.linear_in.weight"] = f"{host}.{place}.lora_A.default.weight"
            loaded[f"{layer}.{name}.adapter.linear_out.weight"] = f"{host}.{place}.lora_B.default.weight"
        for name, out in (("self_attention.linear_qkv", 96), ("mlp.linear_fc1", 128)):
            checkpoint[f"{layer}.{name}.adapter.linear_in.weight"] = (RANK, 32)
            checkpoint[f"{layer}.{name}.adapter.linear_out.weight"] = (out, RANK)
    rules = (
        "rename adapter.linear_in to lora_A",
        "rename adapter.linear_out to lora_B",
        "rename decoder to base_model.model.model",
        "rename self_attention.linear_proj to self_attn.o_proj",
        "rename linear_fc2 to down_proj",
        "insert the adapter's name default",
    )
    return Kind(checkpoint, model, loaded, rules=rules)


def adapter_for(modules: Mapping[str, tuple[str, int, int]], a: str, b: str) -> Kind:
    """An adapter (path -> path in the model, output, input) for a model with PEFT's layers."""
    checkpoint, model, loaded = {}, {}, {}
    for path, (goal, out, into) in modules.items():
        for mine, theirs, shape in ((a, "lora_A", (RANK, into)), (b, "lora_B", (out, RANK))):
            checkpoint[f"{path}.{mine}"] = shape
            model[f"{goal}.{theirs}.default.weight"] = shape
            loaded[f"{path}.{mine}"] = f"{goal}.{theirs}.default.weight"
    return Kind(checkpoint, model, loaded)


@kind
def megatron_adapter_for_each_part_of_what_it_fuses() -> Kind:
    modules = {}
    for n in range(2):
        layer, host = f"decoder.layers.{n}", f"base_model.model.model.layers.{n}"
        for part, out in (("q", 32), ("k", 16), ("v", 16)):
            modules[f"{layer}.self_attention.linear_qkv.adapter.adapter_{part}"] = (
                f"{host}.self_attn.{part}_proj",
                out,
                32,
            )
        for part in ("gate", "up"):
            modules[f"{layer}.mlp.linear_fc1.adapter.adapter_{part}"] = (f"{host}.mlp.{part}_proj", 64, 32)
    return adapter_for(modules, "linear_in.weight", "linear_out.weight")


@kind
def wan_adapter_in_diffusers() -> Kind:
    modules = {}
    for n in range(2):
        for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for part, place in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")):
                modules[f"diffusion_model.blocks.{n}.{old}.{part}"] = (f"blocks.{n}.{new}.{place}", 32, 32)
    return adapter_for(modules, "lora_A.weight", "lora_B.weight")


@kind
def flux_adapter_in_diffusers() -> Kind:
    modules = {}
    for n in range(2):
        for old, new in (("img_attn.proj", "attn.to_out.0"), ("txt_attn.proj", "attn.to_add_out")):
            modules[f"double_blocks.{n}.{old}"] = (f"transformer_blocks.{n}.{new}", 32, 32)
        for old, new in (("img_mod.lin", "norm1.linear"), ("txt_mod.lin", "norm1_context.linear")):
            modules[f"double_blocks.{n}.{old}"] = (f"transformer_blocks.{n}.{new}", 192, 32)
        modules[f"single_blocks.{n}.linear2"] = (f"single_transformer_blocks.{n}.proj_out", 32, 96)
        modules[f"single_blocks.{n}.modulation.lin"] = (f"single_transformer_blocks.{n}.norm.linear", 96, 32)
    return adapter_for(modules, "lora_A.weight", "lora_B.weight")


@kind
def open_clip_tower_in_transformers() -> Kind:
    names = {
        "ln_1": ("layer_norm1", (32,)),
        "ln_2": ("layer_norm2", (32,)),
        "attn.out_proj": ("self_attn.out_proj", (32, 32)),
        "mlp.c_fc": ("mlp.fc1", (64, 32)),
        "mlp.c_proj": ("mlp.fc2", (32, 64)),
    }
    checkpoint, model, loaded = {}, {}, {}
    for n in range(2):
        for old, (new, shape) in names.items():
            for parameter, own in (("weight", shape), ("bias", shape[:1])):
                key = f"visual.transformer.resblocks.{n}.{old}.{parameter}"
                goal = f"vision_model.encoder.layers.{n}.{new}.{parameter}"
                checkpoint[key], model[goal], loaded[key] = own, own, goal
    return Kind(checkpoint, model, loaded)


@kind
def one_norm_of_another_library_left_over() -> Kind:
    """A tensor that only a translation gives a place: whatever is decided, nothing raises."""
    checkpoint = {"decoder.final_layernorm.weight": (32,), "decoder.a.weight": (4, 4)}
    return Kind(checkpoint, {"model.norm.weight": (32,), "model.b.weight": (4, 4)}, {})


@kind
def gguf_adapter_in_peft() -> Kind:
    modules = targets("model.", names=("q_proj", "o_proj"))
    model = under("base_model.model.", {**wrapped(causal(), modules), **lora(modules, "default")})
    checkpoint, loaded = {}, {}
    for path, (out, into) in modules.items():
        flat = spelled(GGUF)(f"{path}.").removesuffix(".")
        for mine, theirs, shape in (("lora_a", "lora_A", (RANK, into)), ("lora_b", "lora_B", (out, RANK))):
            checkpoint[f"{flat}.weight.{mine}"] = shape
            loaded[f"{flat}.weight.{mine}"] = f"base_model.model.{path}.{theirs}.default.weight"
    rules = (
        "rename lora_a to lora_A",
        "rename lora_b to lora_B",
        "rename blk to base_model.model.model.layers",
        "rename attn_q to self_attn.q_proj",
        "rename attn_output to self_attn.o_proj",
        "insert the adapter's name default",
    )
    return Kind(checkpoint, model, loaded, rules=rules)


def litgpt(*, lora_layers: bool) -> Shapes:
    level = ".linear" if lora_layers else ""
    shapes: Shapes = {"transformer.wte.weight": (100, 32), f"lm_head{level}.weight": (100, 32)}
    for n in range(2):
        layer = f"transformer.h.{n}"
        shapes[f"{layer}.norm_1.weight"] = (32,)
        for name, shape in (("attn.proj", (32, 32)), ("mlp.fc_1", (64, 32)), ("mlp.fc_2", (64, 32))):
            shapes[f"{layer}.{name}{level}.weight"] = shape
            shapes[f"{layer}.{name}{level}.bias"] = shape[:1]
        if lora_layers:
            shapes[f"{layer}.attn.proj.lora_A"] = (RANK, 32)
            shapes[f"{layer}.attn.proj.lora_B"] = (32, RANK)
    return shapes


@kind
def base_weights_of_litgpt_in_a_lora_model() -> Kind:
    checkpoint = litgpt(lora_layers=False)
    model = litgpt(lora_layers=True)
    plain = {key.replace(".linear", ""): key for key in model if "lora_" not in key}
    rules = ("insert linear. after fc_1 and 3 more.",)
    return Kind(checkpoint, model, {key: plain[key] for key in checkpoint}, rules=rules)


@kind
def lora_checkpoint_of_litgpt_in_the_plain_model() -> Kind:
    checkpoint = litgpt(lora_layers=True)
    loaded = {key: key.replace(".linear", "") for key in checkpoint if "lora_" not in key}
    return Kind(checkpoint, litgpt(lora_layers=False), loaded, problems=frozenset({"no-adapter-slot"}))


@kind
def linear_is_a_module_of_its_own_without_lora() -> Kind:
    """Without LoRA next to it, `linear` is any module's name."""
    checkpoint = {f"blocks.{n}.fc.linear.weight": (8, 8) for n in range(2)}
    return Kind(checkpoint, {f"blocks.{n}.fc.weight": (8, 8) for n in range(2)}, {})


@kind
def diffusers_output_projection_of_another_model() -> Kind:
    modules = {f"layers.{n}.attention.{name}": (32, 32) for n in range(2) for name in ("qkv", "out")}
    model = {**{f"{path}.weight": shape for path, shape in modules.items()}, **lora(modules)}
    checkpoint = lora({f"layers.{n}.attention.{m}": (32, 32) for n in range(2) for m in ("to_out.0", "to_q")})
    loaded = {key: key.replace("to_out.0", "out") for key in checkpoint if "to_out" in key}
    return Kind(checkpoint, model, loaded)


@kind
def bottleneck_adapters_are_not_lora() -> Kind:
    """Megatron's names for the factors, on a module that is none of Megatron's."""
    model = {}
    for n in range(2):
        model[f"layers.{n}.attn.adapter.linear_in.weight"] = (4, 32)
        model[f"layers.{n}.attn.adapter.linear_out.weight"] = (32, 4)
        model[f"layers.{n}.attn.proj.weight"] = (32, 32)
    return moved(model, lambda key: f"module.{key}")


@kind
def own_w1_and_w2_are_left_alone() -> Kind:
    """`w1` is a gate in the libraries that are known; a model that has both names keeps them apart."""
    model = {f"layers.{n}.mlp.{name}.weight": (32, 32) for n in range(2) for name in ("w1", "w2", "gate_proj")}
    checkpoint = {key: shape for key, shape in model.items() if "gate_proj" not in key}
    return Kind(checkpoint, model, {key: key for key in checkpoint})
