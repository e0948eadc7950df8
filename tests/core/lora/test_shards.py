from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ferrule.lora.shards import Planned, write_shards

ARRAYS = {f"t{n}": np.arange(n * 4, dtype=np.float32).reshape(n, 4) for n in range(1, 5)}


def planned():
    return [
        Planned(
            name=name,
            format="F32",
            shape=array.shape,
            nbytes=array.nbytes,
            make=lambda array=array: array.reshape(-1).view(np.uint8),
        )
        for name, array in ARRAYS.items()
    ]


def test_one_file_needs_no_index(tmp_path):
    assert write_shards(tmp_path, planned(), max_bytes=1000) == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(("max_bytes", "sizes"), [(100, [3, 1]), (48, [2, 1, 1]), (1, [1] * 4)])
def test_shards_keep_to_the_limit_unless_one_tensor_exceeds_it(tmp_path, max_bytes, sizes):
    said = []
    names = write_shards(
        tmp_path, planned(), max_bytes=max_bytes, progress=lambda *done: said.append(done)
    )
    assert [len(load_file(tmp_path / name)) for name in names] == sizes
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 160
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(load_file(tmp_path / file)[name], ARRAYS[name])
    assert said[-1] == (160, 160)
