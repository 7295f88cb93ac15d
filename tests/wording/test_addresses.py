"""What of an address is shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lora_ckpt.wording import block, line, printable, sentence
from pytest_lora_ckpt.wording.addresses import redacted

HIDDEN = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        "https://me:s3cr3t@host/a.pt": "https://***@host/a.pt",
        "https://s3cr3t@host:8080/a.pt": "https://***@host:8080/a.pt",
        "https://host/a.pt?X-Amz-Signature=s3cr3t&versionId=3": "https://host/a.pt?X-Amz-Signature=***&versionId=3",
        "https://host/a.pt?sv=2024&sig=s3cr3t%3D": "https://host/a.pt?sv=***&sig=***",
        "https://host/a.pt?s3cr3t": "https://host/a.pt?***",
        "https://host/a.pt?download": "https://host/a.pt?download",
        "https://host/a.pt?download=true&token=": "https://host/a.pt?download=true&token=",
        "https://host/a.pt#access_token=s3cr3t": "https://host/a.pt#***",
        "https://host/docs#chapter": "https://host/docs#chapter",
        "zip://a::https://me:s3cr3t@host/b.zip?k=s3cr3t": "zip://a::https://***@host/b.zip?k=***",
        "GET 'ftp://me:s3cr3t@host/a' and \"http://x/?a=s3cr3t\"": "GET 'ftp://***@host/a' and \"http://x/?a=***\"",
        "/path?X-Amz-Security-Token=s3cr3t&x=1": "/path?X-Amz-Security-Token=***&x=1",
        '{"a": "http://x/?t=s3cr3t\\"", "b": 1}': '{"a": "http://x/?t=***\\"", "b": 1}',
    }.items(),
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    for show in (printable, line, sentence, block):
        assert HIDDEN not in show(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://org/name@main/a.safetensors",
        "s3://bucket/run@7/a.ckpt",
        "me@host.org wrote: see https://host/a.pt",
        "model.layers.0.weight",
        "https://host/a%20b/c.pt?revision=refs%2Fpr%2F1",
    ],
)
def test_all_else_stays(text: str) -> None:
    assert redacted(text) == text


@given(st.text(st.sampled_from("ab:/?#@&= '\"\\.-X"), max_size=60))
@example("://" * 20)
def test_it_is_the_same_the_second_time(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


def test_a_long_text_takes_no_time() -> None:
    for text in ("://" * 200_000, "://a?" * 200_000, "a" * 1_000_000, "://a@" * 200_000, "X-Amz-" * 200_000):
        redacted(text)
