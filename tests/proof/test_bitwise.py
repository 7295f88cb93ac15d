"""Bits are compared in place, and other threads run meanwhile."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from pytest_lora_ckpt.proof.bitwise import as_bytes, same_bits, same_memory


@pytest.mark.parametrize("elements", [0, 1, 7, 8, 9, 1 << 20])
def test_every_byte_counts(elements: int) -> None:
    one = torch.arange(elements).to(torch.uint8)
    assert same_bits(one, one.clone())
    for at in {0, elements // 2, elements - 1} if elements else ():
        other = one.clone()
        other[at] ^= 128
        assert not same_bits(one, other)
        assert not same_bits(other, one)


def test_strides_do_not_count() -> None:
    tensor = torch.randn(5, 7)
    assert same_bits(tensor.T, tensor.T.contiguous())
    assert not same_bits(tensor, tensor[:, :6])
    assert not same_bits(tensor, tensor.view(torch.int32))


def test_others_run_meanwhile() -> None:
    """Where the interpreter takes turns from no thread, another gets one only if the comparison lets it."""
    one, other = as_bytes(torch.zeros(1 << 20)), as_bytes(torch.zeros(1 << 20))
    here, there, length = one.ctypes.data, other.ctypes.data, one.size
    gate, ran = threading.Lock(), []
    gate.acquire()

    def run() -> None:
        with gate:
            ran.append(1)

    waiting = threading.Thread(target=run)
    waiting.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        gate.release()
        rounds = 0
        while not ran and rounds < 10_000:
            assert same_memory(here, there, length)
            rounds += 1
        assert ran
    finally:
        sys.setswitchinterval(before)
        waiting.join()
