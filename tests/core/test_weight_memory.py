"""What weights take, and when packed ones get a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ferrule import weight_memory
from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.quantization.packed import PackedStorage
from ferrule.weight_memory import (
    check_weights_fit,
    copy_bytes,
    copy_note,
    keep_copies,
    keeps_copies,
    scratch_bytes,
    weight_bytes,
)

CPU, GPU, TYPE = torch.device("cpu"), torch.device("cuda", 0), torch.bfloat16
GIB = 1 << 30


def info(format, *shape):
    return TensorInfo(name="any", shape=shape, format=format, file=Path("any"), offset=0, nbytes=0)


@pytest.fixture
def tensors(monkeypatch):
    monkeypatch.setattr("ferrule.quantization.formats.has_triton", lambda: True)
    return {
        "big": info("Q4_0", 32768, 32768),
        "small": info("Q8_0", 64, 128),
        "plain": info("BF16", 64, 128),
        "norm": info("F32", 128),
    }


def test_packed_weights_count_as_planes_on_a_gpu_only(tensors):
    packed = 32768 * 32768 // 32 * 18 + 64 * 128 // 32 * 34
    assert weight_bytes(tensors, TYPE, GPU) == packed + 64 * 128 * 2 + 128 * 2
    assert copy_bytes(tensors, TYPE, GPU) == (32768 * 32768 + 64 * 128) * 2
    assert scratch_bytes(tensors, TYPE, GPU) == 2 * 32768 * 32768 * 2
    assert copy_bytes(tensors, TYPE, CPU) == scratch_bytes(tensors, TYPE, CPU) == 0
    numbers = 32768 * 32768 + 2 * 64 * 128 + 128
    assert weight_bytes(tensors, torch.float32, GPU) == numbers * 4


@pytest.mark.parametrize(
    ("choice", "budget", "keeps"),
    [
        ("auto", 10, True),
        ("auto", 2.5, False),
        ("auto", -1, False),
        ("on", 0, True),
        ("off", 100, False),
    ],
)
def test_a_copy_is_kept_where_it_leaves_room_for_the_cache(
    tensors, monkeypatch, choice, budget, keeps
):
    monkeypatch.setattr(
        weight_memory, "kv_budget", lambda share, device, reserve, not_loaded: int(budget * GIB)
    )
    options = EngineOptions(model="m", gguf_resident_copy=choice)
    assert keeps_copies(options, tensors, TYPE, GPU, reserve=0) is keeps


def test_nothing_is_kept_where_nothing_is_packed(tensors):
    options = EngineOptions(model="m", gguf_resident_copy="on")
    assert not keeps_copies(options, tensors, TYPE, CPU, reserve=0)
    assert copy_note(tensors, TYPE, CPU, has_copies=False) == []


def test_an_unknown_choice_is_refused(tensors):
    options = EngineOptions(model="m", gguf_resident_copy="maybe")
    with pytest.raises(OptionError, match="maybe"):
        keeps_copies(options, tensors, TYPE, GPU, reserve=0)


def test_the_user_is_told(tensors):
    assert "2.00 GiB" in copy_note(tensors, TYPE, GPU, has_copies=True)[0]
    assert "no copy" in copy_note(tensors, TYPE, GPU, has_copies=False)[0]


def test_a_copy_that_does_not_fit_is_refused_with_the_way_out(tensors, monkeypatch):
    monkeypatch.setattr(weight_memory, "free_memory", lambda device: GIB)
    check_weights_fit(tensors, TYPE, GPU, has_copies=False)
    with pytest.raises(OutOfMemoryError) as caught:
        check_weights_fit(tensors, TYPE, GPU, has_copies=True)
    assert "--gguf-resident-copy off" in str(caught.value.hint)


def test_every_storage_of_a_model_keeps_its_copy(monkeypatch):
    storages = [
        PackedStorage(4, 32, type="Q4_0", dtype=torch.float32, device=CPU) for _ in range(3)
    ]
    model = nn.Sequential(nn.Module(), nn.Module())
    model[0].storages, model[1].storage = storages[:2], storages[2]
    kept = []
    monkeypatch.setattr(PackedStorage, "keep_copy", lambda storage: kept.append(storage))
    keep_copies(model)
    assert kept == storages
