# ruff: noqa: C901, PLR0912, PLR0915, PTH100, PTH112, PTH118, PTH119, PTH120, PTH123, PTH208, T201, UP031
# fmt: off
# Kept as it came with the cases, so that the copy can be compared with theirs.
"""Read, expand and check the case files of this folder (Python standard library only).

    python expand.py [FOLDER_OR_FILE ...]     check every *.json (default: ./cases, else .)
    from tests.cases.expand import expand, load_case      use in a test

expand(pattern)    -> list of names.  {a..b} is an inclusive integer range, {x,y} a choice;
                      several groups give the cartesian product, groups may nest.
load_case(path)    -> dict with fully expanded keys and the expected truth; raises CaseError
                      when the file disagrees with itself.
"""
from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

VERDICTS = ("loads", "loads-after-remap", "partial", "noop", "incompatible")
LAYOUTS = ("peft_adapter", "lightning", "torch", "safetensors", "diffusers", "kohya", "deepspeed", "fsdp")
SIGNALS = ("none", "warning", "error")

# A name counts as LoRA-related when it carries one of these marks.
_LORA_RE = re.compile(
    r"(^|[._])lora([._]|$)|lora_|_lora\b|\.lora[._]|(^|\.)(lokr|hada|oft|ia3)_"
    r"|\.modules_to_save\.|trainable_tokens_delta|\.dora_scale$|\.alpha$",
    re.IGNORECASE,
)
# The parameter names after which PEFT puts the adapter name.
_PEFT_PARAM_RE = re.compile(
    r"^(?P<head>.*\.(?:lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|trainable_tokens_delta))(?P<tail>\.weight|\.bias)?$"
)


class CaseError(ValueError):
    pass


# --------------------------------------------------------------------------- patterns
def _split_top(body: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, ch in enumerate(body):
        if ch == "{":
            depth += 1
        elif ch == "}":
            depth -= 1
        elif ch == "," and depth == 0:
            parts.append(body[start:i])
            start = i + 1
    parts.append(body[start:])
    return parts


def expand(pattern: str) -> list[str]:
    """All names a brace pattern stands for, in left-to-right order."""
    open_at = pattern.find("{")
    if open_at < 0:
        if "}" in pattern:
            raise CaseError(f"unbalanced braces: {pattern!r}")
        return [pattern]
    depth = 0
    for close_at in range(open_at, len(pattern)):
        if pattern[close_at] == "{":
            depth += 1
        elif pattern[close_at] == "}":
            depth -= 1
            if depth == 0:
                break
    else:
        raise CaseError(f"unbalanced braces: {pattern!r}")
    head, body, tail = pattern[:open_at], pattern[open_at + 1:close_at], pattern[close_at + 1:]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if span:
        low, high = int(span[1]), int(span[2])
        if high < low:
            raise CaseError(f"empty range in {pattern!r}")
        choices = [str(n) for n in range(low, high + 1)]
    else:
        choices = [name for part in _split_top(body) for name in expand(part)]
        if len(choices) < 2:
            raise CaseError(f"a group with one choice in {pattern!r}")
    tails = expand(tail)
    return [head + choice + rest for choice in choices for rest in tails]


def expand_keys(table: dict[str, list[int]]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for pattern, shape in table.items():
        if not isinstance(shape, list) or any(not isinstance(n, int) or n < 0 for n in shape):
            raise CaseError(f"bad shape {shape!r} for {pattern!r}")
        for name in expand(pattern):
            if name in out:
                raise CaseError(f"the name {name!r} comes twice (again from {pattern!r})")
            out[name] = list(shape)
    return out


def _expand_list(patterns: list[str], what: str) -> set[str]:
    out: set[str] = set()
    for pattern in patterns:
        for name in expand(pattern):
            if name in out:
                raise CaseError(f"{what}: {name!r} is listed twice")
            out.add(name)
    return out


# --------------------------------------------------------------------------- rules
def apply_rules(name: str, rules: list[list[str]]) -> str:
    """The checkpoint name after every mapping rule, in order.

    [src, dst]  plain src: every occurrence is replaced
                ^src: only at the start;  src$: only at the end;  ^src$: the whole name
                re:src: regular expression, dst may use \\1 ...
    """
    for src, dst in rules:
        if src.startswith("re:"):
            name = re.sub(src[3:], dst, name)
            continue
        start, end = src.startswith("^"), src.endswith("$")
        core = src[1 if start else 0: len(src) - 1 if end else len(src)]
        if not core:
            raise CaseError(f"empty rule {src!r}")
        if start and end:
            name = dst if name == core else name
        elif start:
            name = dst + name[len(core):] if name.startswith(core) else name
        elif end:
            name = name[: len(name) - len(core)] + dst if name.endswith(core) else name
        else:
            name = name.replace(core, dst)
    return name


def is_lora_name(name: str) -> bool:
    return bool(_LORA_RE.search(name))


def insert_adapter_name(name: str, adapter: str) -> str | None:
    """What the stock PEFT loader turns a saved LoRA name into (None: not such a name)."""
    hit = _PEFT_PARAM_RE.match(name)
    if not hit:
        return None
    tail = hit["tail"] or (".weight" if hit["head"].endswith("lora_magnitude_vector") else "")
    return f"{hit['head']}.{adapter}{tail}"


def _stock_peft_count(ckpt: dict, model: dict, adapter: str, modules_to_save: list[str]) -> int:
    n = 0
    for name, shape in ckpt.items():
        targets = [name, insert_adapter_name(name, adapter)]
        module, _, leaf = name.rpartition(".")
        if module.rpartition(".")[2] in modules_to_save:
            targets.append(f"{module}.modules_to_save.{adapter}.{leaf}")
        n += any(t in model and model[t] == shape for t in targets if t)
    return n


# --------------------------------------------------------------------------- check
def _verdict(case: dict[str, Any]) -> str:
    truth = case["truth"]
    if case["shape_mismatch"]:
        return "incompatible"
    if not case["loaded"]:
        return "noop"
    left_over = case["unexpected"] - case["benign_unexpected"]
    unfilled = {k for k in case["missing"] - case["benign_missing"]
                if case["scope"] == "full" or is_lora_name(k)}
    if left_over or unfilled:
        return "partial"
    exact = truth["loaded_by_name_as_is"] == len(case["loaded"])
    return "loads" if exact else "loads-after-remap"


def load_case(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as handle:
        text = handle.read()
    raw = json.loads(text)
    try:
        return _check(raw, text, path)
    except CaseError as err:
        raise CaseError(f"{os.path.basename(path)}: {err}") from None
    except KeyError as err:
        raise CaseError(f"{os.path.basename(path)}: no field {err}") from None


def _check(raw: dict[str, Any], text: str, path: str) -> dict[str, Any]:
    if raw["id"] != os.path.basename(path)[: -len(".json")]:
        raise CaseError(f"id {raw['id']!r} is not the file's name")
    if not re.match(r"https://[\w.-]+/\S+$", raw["source"]):
        raise CaseError("source is not an address")
    if re.search(r"(?<![\w.])/(home|root|tmp|work|mnt|opt|usr|data)/", text):
        raise CaseError("a machine's path in the file")
    for field in ("title", "symptom"):
        if not raw[field].strip():
            raise CaseError(f"empty {field}")
    if raw["signal"] not in SIGNALS or not isinstance(raw["silent"], bool):
        raise CaseError("signal / silent")
    if raw["silent"] and raw["signal"] == "error":
        raise CaseError("silent with signal error")
    ck, mo, truth = raw["checkpoint"], raw["model"], raw["truth"]
    if ck["layout"] not in LAYOUTS or ck["scope"] not in ("adapter", "full"):
        raise CaseError("layout / scope")
    if truth["verdict"] not in VERDICTS:
        raise CaseError(f"verdict {truth['verdict']!r}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", truth["cause"]) or not truth["remedy"].strip():
        raise CaseError("cause / remedy")

    ckpt_keys, model_keys = expand_keys(ck["keys"]), expand_keys(mo["keys"])
    if not model_keys:
        raise CaseError("no model keys")
    rules = truth["mapping_rules"]

    mapping: dict[str, str] = {}
    reverse: dict[str, str] = {}
    loaded: dict[str, str] = {}
    mismatch: dict[str, str] = {}
    unexpected: set[str] = set()
    for name, shape in ckpt_keys.items():
        target = apply_rules(name, rules)
        mapping[name] = target
        if target not in model_keys:
            unexpected.add(name)
            continue
        if target in reverse:
            raise CaseError(f"{name!r} and {reverse[target]!r} both map to {target!r}")
        reverse[target] = name
        (loaded if model_keys[target] == shape else mismatch)[name] = target
    missing = set(model_keys) - set(reverse)

    def same(found: set[str], field: str) -> None:
        told = _expand_list(truth.get(field, []), field)
        if told != found:
            raise CaseError(
                f"{field}: not listed {sorted(found - told)[:4]}, listed in error {sorted(told - found)[:4]} "
                f"({len(found)} found, {len(told)} listed)"
            )

    same(missing, "missing_after_correct_remap")
    same(unexpected, "unexpected_after_correct_remap")
    same(set(mismatch), "shape_mismatch")
    if truth["loaded_after_correct_remap"] != len(loaded):
        raise CaseError(f"loaded_after_correct_remap: {len(loaded)} found, {truth['loaded_after_correct_remap']} told")
    as_is = sum(1 for k, s in ckpt_keys.items() if model_keys.get(k) == s)
    if truth["loaded_by_name_as_is"] != as_is:
        raise CaseError(f"loaded_by_name_as_is: {as_is} found, {truth['loaded_by_name_as_is']} told")
    if len(loaded) + len(mismatch) + len(unexpected) != len(ckpt_keys):
        raise CaseError("checkpoint keys do not add up")
    if len(loaded) + len(mismatch) + len(missing) != len(model_keys):
        raise CaseError("model keys do not add up")

    benign_missing = _expand_list(truth.get("benign_missing", []), "benign_missing")
    benign_unexpected = _expand_list(truth.get("benign_unexpected", []), "benign_unexpected")
    if not benign_missing <= missing or not benign_unexpected <= unexpected:
        raise CaseError("a benign key is not missing / unexpected")
    for a, b in mo.get("tied", []):
        if a not in model_keys or b not in model_keys:
            raise CaseError(f"tied names {a!r}, {b!r} are not model keys")

    adapter = mo.get("adapter", "default")
    modules_to_save = (ck.get("adapter_config") or {}).get("modules_to_save") or []
    if "loaded_by_adapter_name_insertion" in truth:
        stock = _stock_peft_count(ckpt_keys, model_keys, adapter, modules_to_save)
        if truth["loaded_by_adapter_name_insertion"] != stock:
            raise CaseError(f"loaded_by_adapter_name_insertion: {stock} found")

    # every rule must do something, unless nothing can be loaded at all
    for i, rule in enumerate(rules):
        if loaded or mismatch:
            before = [apply_rules(k, rules[:i]) for k in ckpt_keys]
            if all(apply_rules(k, [rule]) == k for k in before):
                raise CaseError(f"the rule {rule} changes no key")

    case = {
        "id": raw["id"], "source": raw["source"], "title": raw["title"], "symptom": raw["symptom"],
        "silent": raw["silent"], "signal": raw["signal"], "provenance": raw.get("provenance"),
        "layout": ck["layout"], "scope": ck["scope"], "adapter_config": ck.get("adapter_config"),
        "model_class": mo.get("class"), "adapter": adapter, "tied": [list(p) for p in mo.get("tied", [])],
        "checkpoint_keys": ckpt_keys, "model_keys": model_keys,
        "mapping": mapping, "loaded": loaded, "shape_mismatch": mismatch,
        "missing": missing, "unexpected": unexpected,
        "benign_missing": benign_missing, "benign_unexpected": benign_unexpected,
        "loaded_lora": {k for k, t in loaded.items() if is_lora_name(k) or is_lora_name(t)},
        "missing_lora": {k for k in missing if is_lora_name(k)},
        "unexpected_lora": {k for k in unexpected if is_lora_name(k)},
        "truth": truth,
    }
    told, found = truth["verdict"], _verdict(case)
    if told != found:
        raise CaseError(f"verdict: the keys say {found!r}, the file {told!r}")
    return case


def find_cases(places: list[str]) -> list[str]:
    out: list[str] = []
    for place in places:
        if os.path.isdir(place):
            out += [os.path.join(place, f) for f in sorted(os.listdir(place)) if f.endswith(".json")]
        else:
            out.append(place)
    return out


def main(argv: list[str]) -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    inner = os.path.join(here, "cases")
    places = argv or [inner if os.path.isdir(inner) else here]
    bad, rows = 0, []
    for path in find_cases(places):
        try:
            case = load_case(path)
        except (CaseError, json.JSONDecodeError) as err:
            bad += 1
            print("BAD", err)
            continue
        rows.append((case["id"], case["truth"]["cause"], case["silent"], case["truth"]["verdict"],
                     len(case["checkpoint_keys"]), len(case["model_keys"]), len(case["loaded"])))
    for row in rows:
        print("ok   %-28s %-30s silent=%-5s %-18s ckpt=%-4d model=%-4d loaded=%d" % row)
    print(f"{len(rows)} good, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
