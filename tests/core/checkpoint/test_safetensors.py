import json
import struct
import time
import tracemalloc

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.checkpoint.safetensors import merge, read_index, read_safetensors, read_sharded
from ferrule.errors import CheckpointError

FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = (
    *(np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32),
    *(np.uint64, np.int64, np.float16, np.float32, np.float64, np.complex64),
)


@pytest.fixture
def full(tmp_path):
    arrays = {
        f"tensor.{np.dtype(dtype).name}": (np.arange(6).reshape(2, 3) % 2).astype(dtype)
        for dtype in DTYPES
    }
    arrays |= {"scalar": np.array(3, np.int64), "empty": np.zeros((0, 4), np.float32)}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_tensors_are_what_the_library_reads(full):
    tensors = read_safetensors(full)
    checkpoint = Checkpoint(location="", kind="safetensors", config={}, tensors=tensors)
    theirs = load_file(full)
    assert tensors.keys() == theirs.keys()
    for name, array in theirs.items():
        assert tensors[name].shape == array.shape
        assert checkpoint.read(name).tobytes() == array.tobytes()


def test_formats_are_the_dtypes_of_the_header(full):
    tensors = read_safetensors(full)
    with safetensors.safe_open(full, "numpy") as theirs:
        for name in theirs.keys():  # noqa: SIM118 - it is no mapping
            assert tensors[name].format == theirs.get_slice(name).get_dtype()


def stored(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_formats_that_numpy_lacks_are_read(tmp_path):
    file = tmp_path / "model.safetensors"
    header = {
        "a": entry((3,), (0, 6), "BF16"),
        "b": entry((2, 2), (6, 10), "F8_E4M3"),
        "c": entry((4,), (10, 12), "F4"),
    }
    file.write_bytes(stored(header, bytes(12)))
    assert [info.format for info in read_safetensors(file).values()] == ["BF16", "F8_E4M3", "F4"]


CORRUPT = {
    "is empty": b"",
    "not a safetensors file": b"PK\3\4",
    "a safetensors file: it": b"<!DOCTYPE html>" * 100,
    "is truncated: its header alone calls for": struct.pack("<Q", 1000) + b"{}",
    "8 bytes are missing": stored({"a": entry()}),
    "3 bytes follow": stored({"a": entry()}, bytes(11)),
    "Expecting": stored(b"{]"),
    "'a' twice": stored(b'{"a": 1, "b": 2, "a": 3}'),
    "utf-8": stored(b'{"\xff": 1}'),
    "surrogates": stored(rb'{"\ud800": 1}'),
    "NaN is not JSON": stored(b'{"a": NaN}'),
    "recursion": stored(b'{"a":' + b"[" * 200_000),
    "digits": stored(b'{"a": ' + b"1" * 5000 + b"}"),
    "__metadata__ is not": stored({"__metadata__": {"a": 1}}),
    "lacks dtype, shape": stored({"a": {"dtype": "F32", "shape": [2]}}),
    "lacks dtype, shape or": stored({"a": [1, 2]}),
    r"shape \[-2\]": stored({"a": entry((-2,))}, bytes(8)),
    r"shape \[True\]": stored({"a": entry((True,), (0, 4))}, bytes(4)),
    r"shape \[9223372036854775808\]": stored({"a": entry((2**63,))}, bytes(8)),
    "unknown dtype 'F99'. Known: BF16": stored({"a": entry(dtype="F99")}, bytes(8)),
    "cannot have 12 bytes": stored({"a": entry(offsets=(0, 12))}, bytes(12)),
    "cannot have -8 bytes": stored({"a": entry(offsets=(8, 0))}, bytes(8)),
    "of shape": stored({"a": entry((2,) * 100)}, bytes(8)),
    "cannot have 1 bytes": stored({"a": entry((3,), (0, 1), "F4")}, bytes(1)),
    "'b' overlaps": stored({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "'b' leaves a gap": stored({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
}


@pytest.mark.parametrize(("message", "data"), CORRUPT.items(), ids=CORRUPT)
def test_corrupt_file_is_named(message, data, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(file)
    assert str(file) in caught.value.message


def test_truncated_file_says_how_many_bytes_are_missing(full):
    data = full.read_bytes()
    full.write_bytes(data[:-21])
    with pytest.raises(CheckpointError, match=f"has {len(data) - 21:,}; 21 bytes are missing"):
        read_safetensors(full)


def read_or_refuse(file, data: bytes):
    """Reads a small file; fails if that takes ten seconds or 50 MB."""
    file.write_bytes(data)
    tracemalloc.start()
    start = time.monotonic()
    try:
        return read_safetensors(file)
    except CheckpointError as error:
        return error
    finally:
        seconds = time.monotonic() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < 10
        assert peak < 50_000_000


def test_every_truncation_is_an_error(full):
    data = full.read_bytes()
    for length in range(0, len(data), 5):
        assert isinstance(read_or_refuse(full, data[:length]), CheckpointError), length


def agree_with_the_library(file, data):
    """What is read here, the library reads too, and finds the same."""
    result = read_or_refuse(file, data)
    if isinstance(result, CheckpointError):
        return
    with safetensors.safe_open(file, "numpy") as theirs:
        assert set(theirs.keys()) == result.keys()
        for name, info in result.items():
            part = theirs.get_slice(name)
            assert (tuple(part.get_shape()), part.get_dtype()) == (info.shape, info.format)


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3))
def test_flipped_bytes_give_what_the_library_reads_or_an_error(full, changes):
    data = bytearray(full.read_bytes())
    for position, byte in changes:
        data[position % len(data)] = byte
    agree_with_the_library(full.with_name("flipped.safetensors"), bytes(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | JSON,
    }
)


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=5), ENTRY | JSON, max_size=3) | JSON,
    data=st.binary(max_size=64),
)
def test_arbitrary_headers_give_what_the_library_reads_or_an_error(tmp_path, header, data):
    agree_with_the_library(tmp_path / "arbitrary.safetensors", stored(header, data))


@pytest.fixture
def sharded(save_safetensors, tmp_path):
    save_safetensors(tmp_path / "model-00001-of-00002.safetensors", a=(2, 2), b=(3,))
    save_safetensors(tmp_path / "model-00002-of-00002.safetensors", c=(4,))
    write_index(tmp_path, {"a": 1, "b": 1, "c": 2})
    return tmp_path / "model.safetensors.index.json"


def write_index(folder, shards):
    weight_map = {
        name: f"model-{number:05d}-of-00002.safetensors" for name, number in shards.items()
    }
    index = {"metadata": {"total_size": 44}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_put_together(sharded):
    tensors = read_sharded(sharded)
    assert {name: info.file.name[6:11] for name, info in tensors.items()} == {
        "a": "00001",
        "b": "00001",
        "c": "00002",
    }


def test_tensor_that_its_shard_lacks_is_an_error(sharded):
    write_index(sharded.parent, {"a": 1, "b": 2, "c": 2})
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors has no tensor 'b'"):
        read_sharded(sharded)


def test_tensor_that_the_index_leaves_out_is_taken_along(sharded):
    write_index(sharded.parent, {"a": 1, "c": 2})
    assert read_sharded(sharded).keys() == {"a", "b", "c"}


def test_index_decides_between_two_copies_of_a_tensor(sharded, save_safetensors):
    save_safetensors(sharded.parent / "model-00002-of-00002.safetensors", c=(4,), b=(9,))
    assert read_sharded(sharded)["b"].shape == (3,)


def test_two_copies_of_a_tensor_without_a_word_from_the_index_are_an_error(
    sharded, save_safetensors
):
    save_safetensors(sharded.parent / "model-00002-of-00002.safetensors", c=(4,), b=(9,))
    write_index(sharded.parent, {"a": 1, "c": 2})
    with pytest.raises(CheckpointError, match="Tensor 'b' is in both"):
        read_sharded(sharded)


@pytest.mark.parametrize("shard", ["../secret", "/etc/passwd", "..", "", "a/b", "a\0b", 7])
def test_index_may_only_name_files_beside_it(tmp_path, shard):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="name of a file in the same directory"):
        read_index(index)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_index_without_a_weight_map_is_an_error(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_index(index)


def test_files_with_different_tensors_merge(sharded):
    first, second = (
        read_safetensors(file) for file in sorted(sharded.parent.glob("*.safetensors"))
    )
    assert merge([first, second]) == first | second
