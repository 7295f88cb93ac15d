"""Which faults, and which of them a project accepts: what the options and arguments may hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import pytest

from pytest_lora_ckpt.faults import FAULTS, Fault

Faults: TypeAlias = "str | Fault | Iterable[str | Fault] | None"
Accepted: TypeAlias = "Mapping[str, str] | Iterable[str] | None"

ALL = "all"


def choose_faults(faults: Faults) -> list[Fault] | None:
    """Give the faults that are meant; None where all that apply are.

    Args:
        faults: A name, a `Fault`, a list of them, or None.

    Raises:
        ValueError: There is no fault of such a name, or none is given; lists those of similar names.

    Example:
        >>> [fault.name for fault in choose_faults(["nan", "inf"])]
        ['nan', 'inf']
    """
    if faults is None or faults == ALL:
        return None
    listed = [faults] if isinstance(faults, (str, Fault)) else list(faults)
    if not listed:
        raise ValueError("faults= is empty: give names of pytest_lora_ckpt.faults.FAULTS, or None for all that apply.")
    unknown = [each for each in listed if isinstance(each, str) and each not in FAULTS]
    if unknown:
        raise ValueError(_unknown(unknown))
    given: list[object] = [*listed]  # Not everybody runs a type checker.
    odd = [each for each in given if not isinstance(each, (str, Fault))]
    if odd:
        raise ValueError(f"faults= takes names and Fault objects, and was given {type(odd[0]).__name__}.")
    return list(dict.fromkeys(FAULTS[each] if isinstance(each, str) else each for each in listed))


def choose_accepted(accepted: Accepted) -> dict[str, str]:
    """Give the faults that a project accepts, by name, with the reason.

    Raises:
        ValueError: There is no fault of such a name.
    """
    if accepted is None:
        return {}
    if isinstance(accepted, str):
        accepted = [accepted]
    found = dict(accepted) if isinstance(accepted, Mapping) else dict.fromkeys(accepted, "no reason given")
    if unknown := [name for name in found if name not in FAULTS]:
        raise ValueError(_unknown(unknown))
    return found


def parse_fault_names(text: str | None) -> list[str] | None:
    """Read `--lora-faults[=NAME,…]`.

    Args:
        text: The value; empty or `all` for all that apply; None where the option was not given.

    Returns:
        Names of `FAULTS`; every one where all are asked for. None where the option was not given.

    Raises:
        pytest.UsageError: There is no such fault; lists those of similar names.

    Example:
        >>> parse_fault_names("nan, inf")
        ['nan', 'inf']
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or names == [ALL]:
        return list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        raise pytest.UsageError(f"--lora-faults={text}: {_unknown(unknown)}")
    return list(dict.fromkeys(names))


def parse_accepted(lines: Iterable[str], where: str = "ini") -> dict[str, str]:
    """Read the ini option `lora_accepted_faults`: one `slug: reason` a line.

    Args:
        lines: As pytest gives a `linelist`.
        where: Name of the file, for the message.

    Raises:
        pytest.UsageError: A line has no reason, or names no fault.

    Example:
        >>> parse_accepted(["other-base-name: the base is always ours"])
        {'other-base-name': 'the base is always ours'}
    """
    found: dict[str, str] = {}
    for line in lines:
        name, _, reason = (part.strip() for part in line.partition(":"))
        told = f"lora_accepted_faults (from: {where}): {line!r}"
        if not name or not reason:
            raise pytest.UsageError(f"{told} should be `slug: reason`: why does the project accept this fault?")
        if name not in FAULTS:
            raise pytest.UsageError(f"{told}: {_unknown([name])}")
        if name in found:
            raise pytest.UsageError(f"{told}: {name} comes twice.")
        found[name] = reason
    return found


def _unknown(names: Iterable[str]) -> str:
    told = []
    for name in names:
        near = difflib.get_close_matches(name, FAULTS, n=3, cutoff=0.5)
        near = near or [fault for fault in FAULTS if name and name in fault][:3]
        told.append(f"there is no fault {name!r}" + (f" (near to it: {', '.join(near)})" if near else ""))
    return f"{'; '.join(told)}. The faults are pytest_lora_ckpt.faults.FAULTS: {', '.join(FAULTS)}."
