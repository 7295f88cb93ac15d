"""S3: `s3fs` against moto's server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from tests.helpers.tiny_adapters import adapted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.foreign

KEY, SECRET = "AKIA-not-a-real-one", "not-a-real-secret"


class Bucket:
    """A bucket, and what was asked of it."""

    def __init__(self, fs: s3fs.S3FileSystem) -> None:
        self.fs, self.requests = fs, []

    def put(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.fs.pipe_file(f"bucket/{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        self.fs.invalidate_cache()
        self.requests.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """moto's server, with the requests that it was asked."""
    import logging

    asked: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asked.append(record.getMessage())

    logger = logging.getLogger("werkzeug")
    logger.setLevel(logging.INFO)
    note = Note()
    logger.addHandler(note)
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}", asked
    running.stop()
    logger.removeHandler(note)


@pytest.fixture
def bucket(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket whose credentials come from the environment, as fsspec has them."""
    address, asked = server
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    if not fs.exists("bucket"):
        fs.mkdir("bucket")
    made = Bucket(fs)
    made.requests = asked
    return made


def test_a_big_file_takes_four_requests(bucket: Bucket, tmp_path: Path) -> None:
    state = {f"model.layers.{i}.q_proj.weight": torch.full((64, 64), float(i)) for i in range(2000)}
    save_file(state, tmp_path / "model.safetensors")
    bucket.put(tmp_path, "one")
    checkpoint = open_checkpoint("s3://bucket/one/model.safetensors")
    assert len(checkpoint.keys) == 2000
    assert str(checkpoint.path) == "s3://bucket/one/model.safetensors"
    assert len([each for each in bucket.requests if "GET" in each and "model.safetensors" in each]) == 2
    assert len(bucket.requests) <= 4, bucket.requests
    assert checkpoint.read("model.layers.7.q_proj.weight")[0, 0] == 7


def test_an_adapter(bucket: Bucket, tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path)
    bucket.put(tmp_path, "adapter")
    for address in ("s3://bucket/adapter", "s3://bucket/adapter/"):
        checkpoint = open_checkpoint(address)
        assert checkpoint.layout == "peft_adapter"
        assert str(checkpoint.path) == "s3://bucket/adapter"
    here = open_checkpoint(tmp_path)
    checkpoint.expect(here.keys)
    assert all(torch.equal(checkpoint.read(key), here.read(key)) for key in here.keys)
    result = audit("s3://bucket/adapter")
    assert not result.named("failed")


def test_shards_take_two_requests_each(bucket: Bucket, tmp_path: Path) -> None:
    weight_map = {}
    for number in range(1, 7):
        name = f"model-{number:05d}-of-00006.safetensors"
        state = {f"layers.{number}.{i}.weight": torch.ones(2, 2) for i in range(3)}
        save_file(state, tmp_path / name)
        weight_map |= dict.fromkeys(state, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    bucket.put(tmp_path, "sharded")
    assert len(open_checkpoint("s3://bucket/sharded").keys) == 18
    assert len(bucket.requests) <= 2 + 2 * 6 + 2, bucket.requests


def test_a_file_that_changes_is_told(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"layers.{i}.weight": torch.ones(256, 256) for i in range(20)}, path)
    bucket.put(tmp_path, "changing")
    checkpoint = open_checkpoint("s3://bucket/changing/a.safetensors")
    save_file({f"layers.{i}.weight": torch.zeros(256, 256) for i in range(20)}, path)
    bucket.put(tmp_path, "changing")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("layers.15.weight")
    assert caught.value.problem in {"changed", "connection-lost", "server-error"}


@pytest.mark.parametrize("address", ["s3://bucket/no/such.safetensors", "s3://bucket/no/such", "s3://no-bucket/a.ckpt"])
def test_what_is_not_there(bucket: Bucket, address: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(address)
    assert caught.value.problem == "missing"
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


def test_no_server(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("s3://bucket/a.safetensors")
    assert caught.value.problem in {"no-connection", "timeout"}
