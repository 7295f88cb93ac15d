"""The adapters of a live model, one record per module and adapter: factors, scaling, and whether they are applied.

Layers are recognised by their attributes; neither torch nor a library of adapters is imported.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt.keys import ParsedKey, parse_key
from pytest_lora_ckpt.lora.config import scaling_of
from pytest_lora_ckpt.lora.pairs import lora_factor, stacked_blocks
from pytest_lora_ckpt.lora.update import factors_of_update
from pytest_lora_ckpt.models import attribute, is_module, is_tensor
from pytest_lora_ckpt.vocabulary.lora import IMPORTANCE, PRODUCT_FACTORS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import torch

Kind = Literal["linear", "conv", "embedding", "stacked"]

_MATRIX = 2  # A factor of more dimensions belongs to a convolution.


@dataclass(frozen=True, slots=True, eq=False)
class AdapterLayer:
    """One adapter in one module of a live model.

    Attributes:
        module: Path of the adapted module, as `named_modules` gives it.
        adapter: Name of the adapter, or None where the library has none.
        kind: `"linear"`, `"conv"`, `"embedding"`, or `"stacked"` for a parameter that stacks experts
            (PEFT's `target_parameters`).
        down: The factor A: rank x in, for a convolution rank x in x kernel, for an embedding rank x vocabulary, for
            stacked experts (experts * rank) x in, expert after expert.
        up: The factor B: out x rank, for a convolution out x (rank / groups) x 1, for stacked experts
            out x (rank * experts), the experts of each rank side by side.
        weight: The base weight that the adapter changes, None where it was not found.
        parameter: What the module calls that weight.
        scaling: The number in force that B A is multiplied by, None where it is not known.
        rank: The rank (for stacked experts that of one expert).
        alpha: What the layer says of `lora_alpha`, which need not be what the scaling was computed from.
        rslora: Whether the layer says that it scales by alpha / sqrt(rank); None where it says nothing.
        dora: Whether it has a magnitude vector, or says so; None where it says nothing.
        active: Whether the adapter is among the active ones of its layer.
        enabled: Whether the adapters of the layer are switched on.
        merged: How many times the adapter was added to the base weight.
        applied: Whether the forward pass holds the update: merged, or active while nothing is merged, and enabled.
            PEFT leaves out an active adapter where another one is merged.
        others: Further parameters of the adapter by name: magnitude vector, bias of B …
    """

    module: str
    adapter: str | None
    kind: Kind
    down: torch.Tensor = field(repr=False)
    up: torch.Tensor = field(repr=False)
    weight: torch.Tensor | None = field(default=None, repr=False)
    parameter: str = "weight"
    scaling: float | None = None
    rank: int | None = None
    alpha: float | None = None
    rslora: bool | None = None
    dora: bool | None = None
    active: bool = True
    enabled: bool = True
    merged: int = 0
    applied: bool = True
    others: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All parameters of the adapter in this module."""
        return (self.down, self.up, *self.others.values())

    @property
    def has_data(self) -> bool:
        """Whether the values are there, and not on the meta device."""
        return not any(tensor.is_meta for tensor in self.tensors)

    @property
    def finite(self) -> bool:
        """Whether no parameter of the adapter, nor the scaling, holds NaN or Inf, as far as there are values."""
        return (self.scaling is None or math.isfinite(self.scaling)) and all(
            bool(each.isfinite().all()) for each in self.tensors if not each.is_meta
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether the update is zero since a factor is (B as initialised; for an embedding A), or the scaling is.

        With a bias on B that is not zero, or on the meta device, it is not.
        """
        if not self.has_data or any(name.endswith("bias") and each.any() for name, each in self.others.items()):
            return False
        return self.scaling == 0 or not self.up.any() or not self.down.any()


def adapter_layers(model: torch.nn.Module) -> list[AdapterLayer]:
    """List every adapter of every module, in the model's order.

    PEFT's layers are recognised by their attributes, those of other libraries by the names of their parameters
    (`lora_A`, `lora_a`, `lora_down`, `lora.down` …).

    Args:
        model: Any module; parameters may be on the meta device.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(8, 4)
        >>> layer.lora_a, layer.lora_b = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)
        >>> layer.alpha, layer.rank = 16, 2
        >>> [(each.module, each.rank, each.scaling) for each in adapter_layers(nn.Sequential(layer))]
        [('0', 2, 8.0)]
    """
    modules = dict(model.named_modules())
    peft = {path for path, module in modules.items() if _is_peft_layer(module)}
    others = _by_names(modules, peft)
    layers: list[AdapterLayer] = []
    for path, module in modules.items():
        layers += _of_peft(path, module) if path in peft else _of_another(path, module, others.get(path, ()))
    return layers


def active_adapters(model: object) -> tuple[str, ...]:
    """Return the names of the adapters that PEFT's layers have switched on, sorted; none for what is not a module."""
    modules: Iterable[Any] = model.modules() if is_module(model) else ()  # type: ignore[attr-defined]  # An nn.Module.
    names = (module.active_adapters for module in modules if _is_peft_layer(module))
    return tuple(sorted({str(name) for own in names for name in ([own] if isinstance(own, str) else own)}))


def active_adapter(model: object) -> str | None:
    """Return the name of the one adapter that is active in a model with PEFT's layers; None without exactly one."""
    active = active_adapters(model)
    return active[0] if len(active) == 1 else None


def merged_modules(model: torch.nn.Module) -> frozenset[str]:
    """Return the plain paths of the modules into whose weight an adapter, of whatever kind, is merged."""
    merged = [path for path, module in model.named_modules() if attribute(module, "merged", default=False) is True]
    return frozenset(parse_key(f"{path}.weight").module_path for path in merged)


def idle_copies(model: torch.nn.Module, adapters: Collection[str]) -> tuple[str, ...]:
    """List the modules whose trained copy for one of these adapters takes no part in the forward pass.

    They are PEFT's `ModulesToSaveWrapper` (peft/utils/other.py), recognised by its attributes.
    """
    idle = []
    for path, module in model.named_modules():
        copies: Any = attribute(module, "modules_to_save")
        if attribute(module, "original_module") is None or not is_module(copies):
            continue
        held = [name for name in copies if name in adapters]
        off = attribute(module, "disable_adapters", default=False)
        if held and (off or not set(held) & {*attribute(module, "active_adapters", held)}):
            idle.append(path)
    return tuple(idle)


def _is_peft_layer(module: object) -> bool:
    """Return whether a module is one of PEFT's LoRA layers, of whatever version."""
    return attribute(module, "merged_adapters") is not None and attribute(module, "lora_B") is not None


def _of_peft(path: str, module: Any) -> Iterator[AdapterLayer]:
    """Read `LoraLayer` (peft/tuners/lora/layer.py) by its attributes."""
    active, merged = list(module.active_adapters), list(module.merged_adapters)
    enabled = not attribute(module, "disable_adapters", default=False)
    parameter, weight = _base_weight(module)
    stacked = attribute(module, "num_experts", 1) > 1 and attribute(module, "parameter_name") is not None
    for suffix in ("", "_embedding"):
        downs, ups = (attribute(module, f"lora{suffix}_{factor}", {}) for factor in "AB")
        for name in [name for name in downs if name in ups]:
            down, up = _tensor(downs[name]), _tensor(ups[name])
            scaling = _number(_of(module, "scaling", name))
            if (importance := _of(module, IMPORTANCE, name)) is not None:
                # AdaLoRA: B (A * E) scaling / (rank number + 1e-5), peft/tuners/adalora/layer.py.
                down, up = factors_of_update(down, up, {IMPORTANCE: _tensor(importance)})
                number = _of(module, "ranknum", name)
                scaling = None if scaling is None or number is None else scaling / (float(number) + 1e-5)
            bias = attribute(ups[name], "bias")
            magnitude = _of(module, "lora_magnitude_vector", name)
            extras = {"lora_B.bias": bias, "lora_magnitude_vector": None if magnitude is None else _tensor(magnitude)}
            yield AdapterLayer(
                module=path,
                adapter=name,
                kind="stacked" if stacked else "embedding" if suffix else _linear_or_conv(down),
                down=down,
                up=up,
                weight=weight,
                parameter=parameter,
                scaling=scaling,
                rank=_of(module, "r", name),
                alpha=_number(_of(module, "lora_alpha", name)),
                rslora=_of(module, "use_rslora", name),
                dora=True if magnitude is not None else _of(module, "use_dora", name),
                active=name in active,
                enabled=enabled,
                merged=merged.count(name),
                applied=enabled and (name in merged or (name in active and not merged)),
                others={key: each.data for key, each in extras.items() if is_tensor(each)},
            )


def _by_names(
    modules: Mapping[str, torch.nn.Module], peft: set[str]
) -> dict[str, list[tuple[ParsedKey, torch.Tensor]]]:
    """Gather the adapter parameters that are not PEFT's, by the path of the module that holds them."""
    by_module: dict[str, list[tuple[ParsedKey, torch.Tensor]]] = defaultdict(list)
    for holder, module in modules.items():
        for name, parameter in module.named_parameters(recurse=False):
            parsed = parse_key(f"{holder}.{name}" if holder else name)
            if parsed.is_lora:
                path = ".".join(parsed.segments[: parsed.roles.index("lora")])
                if path not in peft:
                    by_module[path].append((parsed, parameter.data))
    return by_module


def _of_another(path: str, module: Any, parameters: Sequence[tuple[ParsedKey, torch.Tensor]]) -> Iterator[AdapterLayer]:
    """Pair the factors of a library that has no switches of its own, or none that is known here."""
    by_adapter: dict[str | None, dict[str, torch.Tensor]] = defaultdict(dict)
    for parsed, tensor in parameters:
        by_adapter[parsed.adapter][f"{parsed.lora}.bias" if parsed.parameter == "bias" else parsed.lora or ""] = tensor
    for adapter, own in by_adapter.items():
        down, up = (next((own[kind] for kind in own if lora_factor(kind) == word), None) for word in ("down", "up"))
        if down is None or up is None:
            continue
        rank = down.shape[0] // stacked_blocks(down.shape, up.shape) if down.ndim and "lokr_w2" not in own else None
        with contextlib.suppress(KeyError):  # Half of a product.
            down, up = factors_of_update(down, up, own)
        merged = attribute(module, "merged", default=False) is True
        enabled = attribute(module, "disabled", default=False) is not True
        yield AdapterLayer(
            module=path,
            adapter=adapter,
            kind="embedding" if attribute(module, "num_embeddings") is not None else _linear_or_conv(down),
            down=down,
            up=up,
            weight=_weight_next_to(module, down, up),
            scaling=_scaling_of_another(module),
            rank=rank,
            alpha=_number(attribute(module, "lora_alpha", attribute(module, "alpha"))),
            enabled=enabled,
            merged=int(merged),
            applied=enabled,
            others={kind: tensor for kind, tensor in own.items() if kind in PRODUCT_FACTORS or not lora_factor(kind)},
        )


def _scaling_of_another(module: Any) -> float | None:
    """Read the scaling as each library keeps it.

    loralib and litgpt keep it in `scaling`, torchtune as `alpha` and `rank` (torchtune/modules/peft/lora.py), kohya in
    `scale` (networks/lora.py).
    """
    alpha, rank = _number(attribute(module, "alpha")), _number(attribute(module, "rank"))
    if (scaling := _number(attribute(module, "scaling"))) is not None:
        return scaling
    return scaling_of(alpha, rank) if alpha is not None and rank else _number(attribute(module, "scale"))


def _base_weight(module: Any) -> tuple[str, torch.Tensor | None]:
    base = module
    while attribute(base, "base_layer") is not None:
        base = base.base_layer
    # A MultiheadAttention has one for query, key and value together.
    names = [attribute(module, "parameter_name", "weight"), "in_proj_weight"]
    for name in names:
        weight: object = attribute(base, name)
        if is_tensor(weight):
            return name, weight.data
    return names[0], None


def _weight_next_to(module: Any, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor | None:
    """Find the weight that the factors fit: the module's own, or that of a layer inside of it."""
    # By shapes alone: to index a sharded tensor asks the other ranks.
    size = up.shape[0] * math.prod(down.shape[1:]) if up.ndim and down.ndim and down.shape[0] else 0
    for holder in (module, *module.children()):
        weight: object = attribute(holder, "weight")
        if is_tensor(weight) and weight.numel() == size and weight is not down and weight is not up:
            return weight.data
    return None


def _linear_or_conv(down: torch.Tensor) -> Kind:
    return "conv" if down.ndim > _MATRIX else "linear"


def _of(module: Any, table: str, name: str) -> Any:
    """Look an adapter up in one of the layer's tables, which another version may not have."""
    held = attribute(module, table)
    return held[name] if held is not None and name in held else None


def _tensor(holder: Any) -> torch.Tensor:
    """Take the weight of a layer, or a bare parameter."""
    tensor: torch.Tensor = attribute(holder, "weight", holder).data
    return tensor


def _number(value: Any) -> float | None:
    """Take a number, or a tensor that holds one."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or is_tensor(value)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # A tensor of several numbers, or without data.
        return None
