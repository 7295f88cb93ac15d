"""Why a remote file cannot be read: one problem, one remedy."""

from __future__ import annotations

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.wording import beginning, printable, size

_FILE = "a checkpoint under this address"
_CREDENTIALS = (
    "Look at your credentials: they are fsspec's, from the environment or from its config files"
    " (https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration)."
)


def missing(address: str, found: str = "nothing under this address") -> CheckpointError:
    """Return the error for an address under which nothing lies."""
    remedy = "Look at the address, and whether your credentials let you see what lies there."
    return CheckpointError("missing", address, expected=_FILE, found=found, remedy=remedy)


def forbidden(address: str, found: str) -> CheckpointError:
    """Return the error for a server that wants other credentials."""
    remedy = f"{_CREDENTIALS} A signed address may have expired."
    return CheckpointError("forbidden", address, expected="a file that may be read", found=found, remedy=remedy)


def refused(address: str, found: str) -> CheckpointError:
    """Return the error for any other answer of a server."""
    remedy = "Try again later; if it stays so, download the checkpoint and give the path of the copy."
    return CheckpointError("server-error", address, expected=_FILE, found=found, remedy=remedy)


def no_ranges(address: str, whole: int | None) -> CheckpointError:
    """Return the error for a server that gives whole files only."""
    amount = "all of the file" if whole is None else f"all {size(whole)} of the file"
    return CheckpointError(
        "no-ranges",
        address,
        expected="a server that gives parts of a file (HTTP range requests)",
        found=f"it answers a request for a part with {amount}, which was not downloaded",
        remedy="Download it and give the path of the copy.",
    )


def timed_out(address: str, seconds: float) -> CheckpointError:
    """Return the error for a server that does not answer in time."""
    return CheckpointError(
        "timeout",
        address,
        expected=f"an answer within {seconds:g} s, the limit `request_seconds`",
        found="none",
        remedy="Try again; for a slow server raise the limit in the ini file, under `lora_limits`:"
        f" `request_seconds = {2 * round(seconds)}`.",
    )


def unreachable(address: str, why: object) -> CheckpointError:
    """Return the error for a server to which there is no way."""
    return CheckpointError(
        "no-connection",
        address,
        expected="a server that can be reached",
        found=printable(beginning(str(why)), 300),
        remedy="Look at the address, at the network, and at the settings of a proxy.",
    )


def cut_off(address: str, why: object) -> CheckpointError:
    """Return the error for a connection that ended in the middle of an answer."""
    return CheckpointError(
        "connection-lost",
        address,
        expected="a whole answer",
        found=f"the connection ended in the middle of it: {printable(beginning(str(why)), 200)}",
        remedy="Try again; if it happens again, download the checkpoint and give the path of the copy.",
    )


def unknown_scheme(address: str, why: object) -> CheckpointError:
    """Return the error for a scheme that fsspec does not know."""
    return CheckpointError(
        "unknown-scheme",
        address,
        expected="an address that fsspec knows: https://, s3://, gs://, hf://, …",
        found=printable(beginning(str(why)), 300),
        remedy="Look at the address, or download the checkpoint and give the path of the copy.",
    )


def missing_package(address: str, why: object) -> CheckpointError:
    """Return the error for a scheme whose package is not installed."""
    return CheckpointError(
        "missing-package",
        address,
        expected="the package that reads such addresses",
        found=printable(beginning(str(why)), 300),
        remedy="Install it: `pip install 'pytest-lora-ckpt[remote]'` has those for https://, s3:// and gs://.",
    )
