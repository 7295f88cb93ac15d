"""Why a remote file cannot be read: one problem, one remedy."""

from __future__ import annotations

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.wording import beginning, printable, size

_FILE = "a checkpoint under this address"
# Of pyproject.toml; of other schemes fsspec's own message names the package.
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CREDENTIALS = (
    "Look at your credentials: they are fsspec's, from the environment or from its config files"
    " (https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration)."
)


def _about(address: str) -> str:
    """Say what else helps with an address on the Hub."""
    if not address.startswith("hf://"):
        return ""
    name = printable("/".join(address.removeprefix("hf://").partition("@")[0].split("/")[:2]), 200)
    return (
        f" `{name}` is an id on the Hub, as there is no such path here. A private or gated model needs a login"
        f" (`hf auth login`); what `hf download {name}` has fetched is read without a network."
    )


def missing(address: str, found: str = "nothing under this address") -> CheckpointError:
    """Return the error for an address under which nothing lies."""
    remedy = f"Look at the address, and whether your credentials let you see what lies there.{_about(address)}"
    return CheckpointError("missing", address, expected=_FILE, found=found, remedy=remedy)


def no_address(address: str, why: BaseException) -> CheckpointError:
    """Return the error for an address that cannot be followed."""
    found = printable(f"no address that can be followed: {type(why).__name__}: {beginning(str(why))}", 300)
    return missing(address, found)


def forbidden(address: str, found: str) -> CheckpointError:
    """Return the error for a server that wants other credentials."""
    remedy = f"{_CREDENTIALS}{_about(address) or ' A signed address may have expired.'}"
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
        remedy=f"Look at the address, at the network, and at the settings of a proxy.{_about(address)}",
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
    extra = _EXTRAS.get(address.partition(":")[0])
    return CheckpointError(
        "missing-package",
        address,
        expected="the package that reads such addresses",
        found=printable(beginning(str(why)), 300),
        remedy=f"`pip install 'pytest-lora-ckpt[{extra}]'`." if extra else "Install it.",
    )
