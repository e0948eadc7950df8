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
from ferrule.layers import Decoder
from ferrule.loading import account, formats_by_owner
from ferrule.model_config import ModelConfig, RopeConfig
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


CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope": RopeConfig(rotary_dim=32),
    "max_position_embeddings": 64,
    "windows": (None, None),
}


def packed_model(is_tied):
    """A decoder with room for packed matrices, and its tensors' headers."""
    model = Decoder(ModelConfig(**CONFIG, tie_word_embeddings=is_tied))
    homes = account(model, {}).homes
    tensors = {
        name: info("Q4_0" if len(home.shape) == 2 else "F32", *home.shape)
        for name, home in homes.items()
    }
    for owner, formats in formats_by_owner(account(model, tensors), tensors):
        owner.allocate(formats, dtype=TYPE, device=CPU)
        owner.finish()
    return model, tensors


def held_bytes(model):
    """Of all planes, copies and plain parameters."""
    held = list(model.parameters())
    for module in model.modules():
        for storage in [*getattr(module, "storages", []), getattr(module, "storage", None)]:
            if storage is not None:
                held += [*storage.weight.planes, storage.weight.copy]
    return sum(tensor.nbytes for tensor in held if tensor is not None)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_what_is_reckoned_is_what_a_model_holds(is_tied, monkeypatch):
    # As on a GPU, in the host's memory; only the kernel that would fill the copies is not there.
    monkeypatch.setattr("ferrule.quantization.formats._has_planes", lambda dtype, device: True)
    monkeypatch.setattr(
        PackedStorage,
        "dense",
        lambda storage: torch.empty(storage.num_rows, storage.num_cols, dtype=storage.dtype),
    )
    model, tensors = packed_model(is_tied)
    alone = held_bytes(model)
    assert weight_bytes(tensors, TYPE, GPU) == alone
    keep_copies(model)
    assert copy_bytes(tensors, TYPE, GPU) == held_bytes(model) - alone
    assert weight_bytes(tensors, TYPE, GPU, has_copies=True) == held_bytes(model)
