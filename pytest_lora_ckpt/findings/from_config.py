"""adapter_config.json against the tensors: what PEFT would drop, overwrite or scale wrongly without a warning."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_pairs
from pytest_lora_ckpt.lora.paths import module_ends, modules_around
from pytest_lora_ckpt.lora.patterns import PatternError
from pytest_lora_ckpt.vocabulary.lora import MAGNITUDE
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS, SEQUENCE_HEADS, TWIN_PROJECTIONS
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.keys import ParsedKey
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

_FILE = "adapter_config.json"
_VOCABULARY = EMBEDDINGS | LM_HEADS


def config_findings(content: AdapterConfig | Mapping[str, Any], keys: KeySet) -> list[Finding]:
    """Compare the fields of a PEFT LoRA config with the tensors of its adapter.

    Checked: the types of the fields, `peft_type`, `r` with `rank_pattern`, `use_dora`, `target_modules` with
    `exclude_modules` and `layers_to_transform`, `modules_to_save`, `bias` where it is `"none"`, and whether the regular
    expressions can be matched. What a state dict cannot show (`lora_alpha`, `use_rslora`) is not checked; nor whether
    biases are lost, for a base model without any (Llama) has none to save.

    Args:
        content: The content of `adapter_config.json`.
        keys: The adapter's keys.
    """
    config = AdapterConfig.of(content)
    pairs = [pair for pair in lora_pairs(keys) if (pair.down or pair.up) and not pair.product]
    if not config.is_lora:
        broken = list(_broken_fields(config))
        kind = f"{_FILE} has peft_type {printable(config.method, 40)!r}"
        if not config.names_lora_factors and pairs:
            message = f"{kind}, and the file holds LoRA ({count(len(pairs), 'module')})."
            return [*broken, finding("config-type-wrong", message, [key for pair in pairs for key in pair.keys])]
        return [*broken, finding("config-type", f"{kind}: its fields were not checked.")]
    return [
        *_broken_fields(config),
        *_rank(config, pairs),
        *_dora(config, keys),
        *_targets(config, pairs),
        *_modules_to_save(config, keys),
        *_bias(config, keys),
        *_patterns(config, pairs),
    ]


def intruder_findings(content: AdapterConfig | Mapping[str, Any], keys: KeySet) -> list[Finding]:
    """Find base weights in an adapter file that its config does not announce: loading overwrites the base model's.

    Embeddings that PEFT saves by itself are announced: those that the adapter adapts (`embed_tokens.base_layer`), and
    input and output embedding together, as `save_embedding_layers` writes them where the vocabulary was resized
    (`get_peft_model_state_dict` in peft/utils/save_and_load.py).

    Args:
        content: The content of `adapter_config.json`: `modules_to_save` and `bias` announce what is trained whole.
        keys: The adapter's keys.
    """
    config = AdapterConfig.of(content)
    if not config.is_lora:
        return []  # Other kinds of adapters have parameters of other names.
    parsed = parse_keys(keys)
    stacked = {name.rpartition(".")[2] for name in config.parameters}
    heads = tuple(SEQUENCE_HEADS)
    unannounced = [
        key
        for key, own in parsed.items()
        if not own.is_adapter
        # A trained bias that the config does not mention belongs to `_bias`.
        and (not key.endswith(".bias") or _is_of_whole(key, keys) or _is_of_head(own, config))
        and not config.is_saved(key)
        and not any(path.endswith(heads) for path in modules_around(key))
        and stacked.isdisjoint(own.segments)
        and "trainable_tokens" not in key
    ]
    adapted = {pair.module for pair in lora_pairs(keys)}
    in_vocabulary = {key for key in unannounced if _is_embedding(parsed[key].modules)}
    others = [key for key in unannounced if key not in in_vocabulary]
    embeddings = [key for key in unannounced if key in in_vocabulary and parsed[key].module_path not in adapted]
    findings = []
    if others:
        message = f"{len(others)} of {count(len(keys), 'tensor')} of the adapter file are weights of the base model"
        message += f", such as {printable(others[0])}: loading overwrites them."
        findings.append(finding("base-weights-in-adapter", message, others))
    # Of two that are tied, PEFT saves the second as well where one was trained.
    tied = config.tied and any(_is_embedding(own.modules) and config.is_saved(key) for key, own in parsed.items())
    if embeddings and not tied and not _are_input_and_output(keys, embeddings):
        message = f"The adapter file holds {len(embeddings)} embeddings or heads of the base model"
        findings.append(
            finding("base-embedding-in-adapter", f"{message}, such as {printable(embeddings[0])}.", embeddings)
        )
    return findings


def _is_of_head(own: ParsedKey, config: AdapterConfig) -> bool:
    return config.bias in {None, "none"} and _is_embedding(own.modules)


def _is_of_whole(key: str, keys: KeySet) -> bool:
    """Whether a bias is that of a module whose weight is in the file as well: then all of it is, and not its bias."""
    return key.endswith(".bias") and f"{key.removesuffix('.bias')}.weight" in keys


def _is_embedding(modules: tuple[str, ...]) -> bool:
    """Return whether a module is, by its name, an embedding or a head with a row for each token."""
    return bool(modules) and modules[-1] in _VOCABULARY


def _are_input_and_output(keys: KeySet, embeddings: list[str]) -> bool:
    """Return whether these are two weights, for as many tokens each."""
    rows = [keys[key].shape[:1] for key in embeddings if key.endswith(".weight")]
    return len(rows) == 2 and rows[0] == rows[1]  # noqa: PLR2004


def _broken_fields(config: AdapterConfig) -> Iterator[Finding]:
    """Name the fields that hold something else than they should; the other recognisers take them for not known."""
    for name, why in sorted(config.problems.items()):
        yield finding("config-field-broken", f"{printable(name, 100)} in {_FILE} {why}.")


def _rank(config: AdapterConfig, pairs: list[LoraPair]) -> Iterator[Finding]:
    # For a parameter that stacks experts, PEFT stacks their factors: r rows for each expert.
    # A name without a module may be in any.
    stacked = {name.rpartition(".")[0] for name in config.parameters}
    outliers = []
    for pair in pairs:
        expected = config.expected_rank(pair.module)
        if expected is None or not pair.rank or pair.rank == expected:
            continue
        multiple = pair.rank % max(config.rank or 1, 1) == 0
        if not (multiple and any(end in stacked for end in (*module_ends(pair.module), ""))):
            outliers.append(pair)
    if outliers:
        ranks = Counter(pair.rank for pair in outliers).most_common()
        message = f"{_FILE} has r = {config.rank}, and {len(outliers)} of {len(pairs)} adapted modules have rank "
        message += ", ".join(f"{rank} ({number}x)" for rank, number in ranks)
        yield finding("config-rank", f"{message}.", [key for pair in outliers for key in pair.keys])


def _dora(config: AdapterConfig, keys: KeySet) -> Iterator[Finding]:
    magnitudes = [key for key, parsed in parse_keys(keys).items() if parsed.lora == MAGNITUDE]
    if magnitudes and config.dora is False:
        message = f"{_FILE} has use_dora false, and the file holds {len(magnitudes)} DoRA magnitude vectors."
        yield finding("config-dora", message, magnitudes)
    if not magnitudes and config.dora:
        yield finding("config-dora", f"{_FILE} has use_dora true, and the file has no magnitude vector.")


def _targets(config: AdapterConfig, pairs: list[LoraPair]) -> Iterator[Finding]:
    # The modules around stacked experts are adapted for their parameters, whatever these fields say.
    if config.parameters:
        return
    by_field: dict[str, list[LoraPair]] = {}
    for pair in pairs:
        if name := config.left_out_by(pair.module):
            by_field.setdefault(name, []).append(pair)
    for name, left in by_field.items():
        message = f"{name} in {_FILE} leaves out {len(left)} of {len(pairs)} adapted modules"
        yield _such_as(message, left)
    outside = [pair for pair in pairs if config.is_target(pair.module) is False and not _is_meant(config, pair, pairs)]
    if outside:
        message = f"target_modules in {_FILE} does not name {len(outside)} of {len(pairs)} adapted modules"
        yield _such_as(message, outside)
    if pairs and isinstance(config.targets, frozenset):
        unused, adapted, twins_known = set(config.targets), set[str](), frozenset().union(*TWIN_PROJECTIONS)
        for pair in pairs:
            ends = set(module_ends(pair.module))
            unused -= ends
            adapted |= twins_known & ends
        unused = {name for name in unused if config.left_out_by(name) != "exclude_modules"}
        # Lists that serve many models are common, and PEFT needs one of their names in the base model.
        halves = {name for twins in TWIN_PROJECTIONS if twins & adapted for name in twins & unused}
        if unused:
            names = listed(sorted(halves or unused), 6)
            message = f"target_modules names {names}, and the file has no adapter for it."
            remedy = None if halves else "Fine if the base model has no such module; otherwise its adapter is lost."
            yield finding("config-targets", message, remedy=remedy, severity="error" if halves else "warning")


def _is_meant(config: AdapterConfig, pair: LoraPair, pairs: list[LoraPair]) -> bool:
    """Return whether PEFT adapts a module for the sake of another that `target_modules` names.

    With a MultiheadAttention it adapts the `out_proj` inside of it (peft/tuners/lora/layer.py), and with
    `ensure_weight_tying` the head that is tied to an embedding.
    """
    around = [key.split(".base_layer.")[0] for key in pair.keys if ".base_layer." in key]
    if any(config.is_target(module) for module in around):
        return True
    if not config.tied or not _is_table(pair):  # Of all pairs few are: no look at all others for each.
        return False
    return any(_is_table(each) and config.is_target(each.module) for each in pairs)


def _is_table(pair: LoraPair) -> bool:
    return _is_embedding((pair.module.rpartition(".")[2],))


def _such_as(message: str, pairs: list[LoraPair]) -> Finding:
    keys = [key for pair in pairs for key in pair.keys]
    return finding("config-targets", f"{message}, such as {printable(pairs[0].module)}.", keys)


def _modules_to_save(config: AdapterConfig, keys: KeySet) -> Iterator[Finding]:
    if not config.saved:
        return
    held: set[str] = set()
    has_head = False
    for key, parsed in parse_keys(keys).items():
        for path in () if parsed.is_lora else modules_around(key):
            try:
                held |= config.saved_names(path)
            except PatternError:
                return
            has_head = has_head or path.endswith(config.trained_heads)
    lacking = [name for name in config.saved if name not in held and not (has_head and name in config.trained_heads)]
    if lacking:
        message = f"modules_to_save in {_FILE} names {listed(lacking, 6)}, and the file does not hold it."
        yield finding("config-modules-to-save", message)


def _bias(config: AdapterConfig, keys: KeySet) -> Iterator[Finding]:
    biases = [
        key
        for key, parsed in parse_keys(keys).items()
        # PEFT saves a whole head with `save_embedding_layers`, its bias included.
        if key.endswith(".bias") and not (parsed.is_adapter or config.is_saved(key) or _is_embedding(parsed.modules))
        if not _is_of_whole(key, keys)
    ]
    if config.bias == "none" and biases:
        message = f"{_FILE} has bias 'none', and the file holds {count(len(biases), 'trained bias', 'trained biases')}."
        yield finding("config-bias", message, biases)


def _patterns(config: AdapterConfig, pairs: list[LoraPair]) -> Iterator[Finding]:
    """Name the fields whose regular expressions cannot be matched; the other recognisers leave them out."""
    for pair in pairs if config.alpha_pattern else ():
        config.scaling(pair.module)  # The one pattern that no recogniser above has matched.
    for name, why in sorted(config.patterns.failures.items()):
        what = "The list" if name == "modules_to_save" else "The regular expression"
        yield finding("config-pattern", f"{what} in {name} of {_FILE} {why}: the field was not checked.")
