"""Which faults to try, and which of them a project accepts: what the options and arguments may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from pytest_lora_ckpt.faults import FAULTS, Fault, find_fault

Faults: TypeAlias = "str | Fault | Iterable[str | Fault] | None"
Accepted: TypeAlias = "Mapping[str, str] | Iterable[str] | None"

ALL = "all"


def choose_faults(faults: Faults) -> list[Fault] | None:
    """Return the chosen faults; None for all that apply.

    Args:
        faults: A name, a `Fault`, a list of them, or None.

    Raises:
        ValueError: There is no fault of such a name, or the list is empty.

    Example:
        >>> [fault.name for fault in choose_faults(["nan", "inf"])]
        ['nan', 'inf']
    """
    if faults is None or faults == ALL:
        return None
    listed: list[object] = [faults] if isinstance(faults, (str, Fault)) else [*faults]
    if not listed:
        raise ValueError("faults= is empty: give names of pytest_lora_ckpt.faults.FAULTS, or None for all that apply.")
    return list(dict.fromkeys(map(_fault, listed)))


def _fault(given: object) -> Fault:
    if not isinstance(given, (str, Fault)):
        raise ValueError(f"faults= takes names and Fault objects, and was given {type(given).__name__}.")  # noqa: TRY004
    return find_fault(given) if isinstance(given, str) else given


def choose_accepted(accepted: Accepted) -> dict[str, str]:
    """Return the faults that a project accepts, by name, with the reason.

    Raises:
        ValueError: There is no fault of such a name.
    """
    names = [accepted] if isinstance(accepted, str) else accepted or ()
    reasons = names if isinstance(names, Mapping) else dict.fromkeys(names, "no reason given")
    return {find_fault(name).name: reason for name, reason in reasons.items()}


def parse_fault_names(text: str) -> list[str]:
    """Read `--lora-faults[=NAME,…]`.

    Args:
        text: The value; empty or `all` for all that apply.

    Returns:
        Names of `FAULTS`; every one where all are asked for.

    Raises:
        ValueError: There is no such fault; the message lists similar names.

    Example:
        >>> parse_fault_names("nan, inf")
        ['nan', 'inf']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or names == [ALL]:
        return list(FAULTS)
    return list(dict.fromkeys(find_fault(name).name for name in names))


def parse_accepted(lines: Iterable[str]) -> dict[str, str]:
    """Read the ini option `lora_accepted_faults`: one `slug: reason` a line.

    Args:
        lines: As pytest gives a `linelist`.

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
