"""Many arrays to the device in one copy."""

from __future__ import annotations

import numpy as np
import torch

from ferrule.runtime.packet import send

CPU = torch.device("cpu")
DTYPES = {np.int64: torch.int64, np.int32: torch.int32, np.float32: torch.float32}


def numbers(count, dtype, seed=0):
    """Numbers that use every byte of their type."""
    raw = np.random.default_rng(seed).integers(0, 120, count * np.dtype(dtype).itemsize)
    return raw.astype(np.uint8).view(dtype)


def check(arrays):
    sent = send(arrays, CPU)
    assert len(sent) == len(arrays)
    for array, tensor in zip(arrays, sent, strict=True):
        assert tensor.dtype is DTYPES[array.dtype.type]
        assert tensor.shape == array.shape
        assert tensor.numpy().tobytes() == array.tobytes()
    return sent


def test_arrays_of_mixed_types_and_odd_sizes_arrive_as_they_were():
    kinds = [np.int32, np.int64, np.float32, np.int64, np.int32, np.float32]
    sizes = [1, 3, 5, 1, 7, 2]
    made = zip(kinds, sizes, strict=True)
    check([numbers(size, kind, seed) for seed, (kind, size) in enumerate(made)])


def test_shapes_stay():
    check([numbers(6, np.int64).reshape(2, 3), numbers(24, np.float32).reshape(4, 1, 6)])


def test_empty_arrays_are_among_them():
    empty = np.zeros((0, 4), dtype=np.int32)
    check([empty, numbers(3, np.int64), empty.reshape(3, 0), numbers(1, np.float32)])
    check([empty])
    assert send([], CPU) == []


def test_extremes_and_values_that_equal_nothing():
    check([np.array([-(2**63), 2**63 - 1, -1]), np.array([-(2**31), 2**31 - 1], dtype=np.int32)])
    check([np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], dtype=np.float32)])


def test_what_is_changed_afterwards_changes_nothing_that_was_sent():
    array = np.arange(5)
    (first,) = send([array], CPU)
    (second,) = send([array], CPU)
    array += 1
    first += 10
    assert second.tolist() == [0, 1, 2, 3, 4]


def test_one_piece_of_memory_holds_them_all_aligned_for_vector_loads():
    sent = check([numbers(size, np.int32) for size in (1, 2, 3, 4, 5)])
    assert len({tensor.untyped_storage().data_ptr() for tensor in sent}) == 1
    assert all((t.data_ptr() - sent[0].data_ptr()) % 16 == 0 for t in sent)
