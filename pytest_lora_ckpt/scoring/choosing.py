"""Which faults to try, and which of them a project accepts: what the options and arguments may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pytest_lora_ckpt.faults import FAULTS, Fault, find_fault

Faults: TypeAlias = "str | Fault | Iterable[str | Fault] | None"
Accepted: TypeAlias = "Mapping[str, str] | Iterable[str] | None"

ALL = "all"


def choose_faults(faults: Faults) -> list[Fault] | None:
    """Return the chosen faults, which are given by name or as a `Fault`, one or more; None for all that apply.

    Raises:
        ValueError: There is no fault of such a name, or the list is empty.

    Example:
        >>> [fault.name for fault in choose_faults(["nan", "inf"])]
        ['nan', 'inf']
    """
    if faults is None or faults == ALL:
        return None
    listed: list[Any] = [faults] if isinstance(faults, (str, Fault)) else [*faults]
    if not listed:
        raise ValueError("faults= is empty: give names of pytest_lora_ckpt.faults.FAULTS, or None for all that apply.")
    for each in listed:
        if not isinstance(each, (str, Fault)):
            raise ValueError(f"faults= takes names and Fault objects, and was given {type(each).__name__}.")  # noqa: TRY004
    return list(dict.fromkeys(find_fault(each) if isinstance(each, str) else each for each in listed))


def choose_accepted(accepted: Accepted) -> dict[str, str]:
    """Return the faults that a project accepts, by name, with the reason; ValueError where there is no such fault."""
    names = [accepted] if isinstance(accepted, str) else accepted or ()
    reasons = names if isinstance(names, Mapping) else dict.fromkeys(names, "no reason given")
    return {find_fault(name).name: reason for name, reason in reasons.items()}


def parse_fault_names(text: str) -> list[str]:
    """Read `--lora-faults[=NAME,…]`: names of `FAULTS`, every one where it is empty or `all`.

    Raises:
        ValueError: There is no such fault; the message lists similar names.

    Example:
        >>> parse_fault_names("nan, inf")
        ['nan', 'inf']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    return list(FAULTS) if names in ([], [ALL]) else [fault.name for fault in choose_faults(names) or ()]


def parse_accepted(lines: Iterable[str]) -> dict[str, str]:
    """Read the ini option `lora_accepted_faults`: one `slug: reason` a line.

    Raises:
        ValueError: A line has no reason, or does not name a fault.

    Example:
        >>> parse_accepted(["other-base-name: the base is always ours"])
        {'other-base-name': 'the base is always ours'}
    """
    accepted: dict[str, str] = {}
    for line in lines:
        name, _, reason = (part.strip() for part in line.partition(":"))
        if not name or not reason:
            raise ValueError(f"{line!r} should be `slug: reason`: why does the project accept this fault?")
        name = find_fault(name).name
        if name in accepted:
            raise ValueError(f"{name} is listed twice.")
        accepted[name] = reason
    return accepted
