import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.checkpoint.gguf import GgufHeader, read_gguf
from ferrule.checkpoint.gguf_types import GGML_TYPES
from ferrule.errors import CheckpointError

FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fill(writer):
    """One key of every type."""
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60_000)
    writer.add_int16("test.i16", -30_000)
    writer.add_uint32("test.u32", 4_000_000_000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 2**63 + 1)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.string", "Straße 東京 🦙")
    writer.add_array("test.strings", ["", "a", "Ġthe", "▁the"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_array("test.bools", [True, False, True])
    writer.add_array("test.bytes", b"\x00\x01\xff")


def tensors():
    rng = np.random.default_rng(0)
    return {
        "token_embd.weight": rng.standard_normal((6, 64), dtype=np.float32),
        "blk.0.attn_q.weight": rng.integers(0, 256, (8, 2 * 144), dtype=np.uint8),
        "blk.0.attn_k.weight": rng.integers(0, 256, (8, 34), dtype=np.uint8),
        "blk.0.attn_norm.weight": rng.standard_normal(5).astype(np.float16),
        "blk.0.experts.weight": rng.standard_normal((3, 2, 4), dtype=np.float32),
    }


KINDS = {"blk.0.attn_q.weight": Kind.Q4_K, "blk.0.attn_k.weight": Kind.Q8_0}


@pytest.fixture
def full(write_gguf, tmp_path):
    return write_gguf(tmp_path / "full.gguf", tensors(), fill, KINDS)


def test_metadata_is_what_the_gguf_package_reads(full):
    theirs = {
        name: field.contents()
        for name, field in gguf.GGUFReader(full).fields.items()
        if not name.startswith("GGUF.")
    }
    assert read_gguf(full).metadata == theirs


def test_tensors_are_what_the_gguf_package_reads(full):
    header = read_gguf(full)
    checkpoint = Checkpoint(location="", kind="gguf", config={}, tensors=header.tensors)
    theirs = gguf.GGUFReader(full).tensors
    assert [tensor.name for tensor in theirs] == list(header.tensors)
    for tensor in theirs:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(tensor.shape.tolist()[::-1])
        assert (ours.format, ours.nbytes) == (tensor.tensor_type.name, tensor.n_bytes)
        assert checkpoint.read(tensor.name).tobytes() == tensor.data.tobytes()


def test_version_2_is_read_alike(full):
    expected = read_gguf(full)
    data = full.read_bytes()
    full.write_bytes(data[:4] + struct.pack("<I", 2) + data[8:])
    assert read_gguf(full) == expected


def test_alignment_of_the_file_is_followed(write_gguf, tmp_path):
    file = write_gguf(
        tmp_path / "aligned.gguf", tensors(), lambda writer: writer.add_custom_alignment(256), KINDS
    )
    theirs = {tensor.name: tensor.data_offset for tensor in gguf.GGUFReader(file).tensors}
    assert {info.name: info.offset for info in read_gguf(file).tensors.values()} == theirs


def test_arrays_of_arrays_are_lists_of_lists(write_gguf, tmp_path):
    file = write_gguf(
        tmp_path / "nested.gguf",
        fill=lambda writer: writer.add_array("test.nested", [[1, 2], [3], [4, 5, 6]]),
    )
    assert read_gguf(file).metadata["test.nested"] == [[1, 2], [3], [4, 5, 6]]


def test_file_without_tensors_ends_with_its_header(write_gguf, tmp_path):
    assert read_gguf(write_gguf(tmp_path / "vocab.gguf", fill=fill)).tensors == {}


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def info(name="w", dims=(4,), kind=0, offset=0):
    return (
        string(name)
        + struct.pack("<I", len(dims))
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


def crafted(*, magic=b"GGUF", version=3, num_tensors=0, num_pairs=0, body=b"", data=0):
    header = magic + struct.pack("<IQQ", version, num_tensors, num_pairs) + body
    return header + bytes(-len(header) % 32 + data)


def pair(key="k", kind=4, value=b"\0\0\0\0"):
    return string(key) + struct.pack("<I", kind) + value


HUGE = 2**62
HOSTILE = {
    "not a GGUF file": crafted(magic=b"PK\3\4"),
    "before GGUF": crafted(magic=b"tjgg"),
    "version 1": crafted(version=1),
    "version 4": crafted(version=4),
    "big-endian": crafted(version=3 << 24),
    "tensors and 0 metadata": crafted(num_tensors=HUGE),
    f"{HUGE:,} metadata": crafted(num_pairs=HUGE),
    "70,000 metadata pairs": crafted(num_pairs=70_000, body=bytes(13 * 70_000)),
    "key 0 of 1": crafted(num_pairs=1, body=struct.pack("<Q", HUGE) + bytes(16)),
    "'k' claims": crafted(num_pairs=1, body=pair(kind=9, value=struct.pack("<IQ", 8, HUGE))),
    "elements with": crafted(num_pairs=1, body=pair(kind=9, value=struct.pack("<IQ", 12, HUGE))),
    "deep": crafted(num_pairs=1, body=pair(kind=9, value=struct.pack("<IQ", 9, 1) * 50)),
    "value type 13": crafted(num_pairs=1, body=pair(kind=13)),
    "neither 0 nor 1": crafted(num_pairs=1, body=pair(kind=7, value=b"\2\0\0\0")),
    "not UTF-8": crafted(num_pairs=1, body=pair(kind=8, value=struct.pack("<Q", 2) + b"\xff\xfe")),
    "element 0 of the value of 'k' is not UTF-8": crafted(
        num_pairs=1, body=pair(kind=9, value=struct.pack("<IQQ", 8, 1, 2) + b"\xff\xfe")
    ),
    "element 1 of the value of 'k' lies": crafted(
        num_pairs=1,
        body=pair(kind=9, value=struct.pack("<IQ", 8, 2) + string("a") + struct.pack("<Q", HUGE)),
    ),
    "'k' twice": crafted(num_pairs=2, body=pair() + pair()),
    "general.alignment is 48": crafted(
        num_pairs=1, body=pair("general.alignment", value=struct.pack("<I", 48))
    ),
    "general.alignment is 0": crafted(num_pairs=1, body=pair("general.alignment")),
    "5 dimensions": crafted(num_tensors=1, body=info(dims=(1,) * 5)),
    "impossible shape": crafted(num_tensors=1, body=info(dims=(HUGE, 0, HUGE))),
    "unknown ggml type 99": crafted(num_tensors=1, body=info(kind=99)),
    "IQ3_S, which cannot be run. Supported: F32": crafted(num_tensors=1, body=info(kind=21)),
    "whole blocks of 32": crafted(num_tensors=1, body=info(dims=(48,), kind=2)),
    "'w' twice": crafted(num_tensors=2, body=info() + info(offset=32), data=64),
    "not a multiple of 32": crafted(num_tensors=1, body=info(offset=8), data=64),
    "'w' and 'v' overlap": crafted(
        num_tensors=2, body=info(dims=(16,)) + info("v", offset=32), data=128
    ),
    "16 bytes are missing": crafted(num_tensors=1, body=info()),
    "bytes are missing": crafted(num_tensors=1, body=info(dims=(2**40,))),
    "is truncated": crafted(num_tensors=1, body=info(offset=2**63)),
}


@pytest.mark.parametrize(("message", "data"), HOSTILE.items(), ids=HOSTILE)
def test_hostile_header_is_named_at_once(message, data, tmp_path):
    file = tmp_path / "hostile.gguf"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        bounded(file)
    assert str(file) in caught.value.message


def test_error_names_every_supported_type(tmp_path):
    file = tmp_path / "iq3.gguf"
    file.write_bytes(crafted(num_tensors=1, body=info(kind=21)))
    with pytest.raises(CheckpointError) as caught:
        read_gguf(file)
    assert all(kind.name in caught.value.message for kind in GGML_TYPES.values())


def bounded(file) -> GgufHeader:
    """Reads a file of a few kilobytes; fails if that takes ten seconds or 50 MB."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        return read_gguf(file)
    finally:
        seconds = time.monotonic() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < 10
        assert peak < 50_000_000


def read_or_refuse(file, data: bytes):
    file.write_bytes(data)
    try:
        return bounded(file)
    except CheckpointError as error:
        return error


def test_every_truncation_is_an_error(full):
    data = full.read_bytes()
    for length in range(0, len(data), 7):
        assert isinstance(read_or_refuse(full, data[:length]), CheckpointError), length


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 1900), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_give_a_header_or_an_error(full, changes):
    data = bytearray(full.read_bytes())
    for position, byte in changes:
        data[position % len(data)] = byte
    file = full.with_name("flipped.gguf")
    result = read_or_refuse(file, bytes(data))
    if isinstance(result, GgufHeader):
        assert all(info.offset + info.nbytes <= len(data) for info in result.tensors.values())


@FUZZ
@given(
    num_tensors=st.integers(0, 3) | st.integers(0, 2**64 - 1),
    num_pairs=st.integers(0, 3) | st.integers(0, 2**64 - 1),
    body=st.binary(max_size=300),
)
def test_arbitrary_bodies_give_a_header_or_an_error(tmp_path, num_tensors, num_pairs, body):
    data = crafted(num_tensors=num_tensors, num_pairs=num_pairs, body=body)
    result = read_or_refuse(tmp_path / "arbitrary.gguf", data)
    assert isinstance(result, GgufHeader | CheckpointError)


@FUZZ
@given(
    kind=st.integers(0, 14),
    element=st.integers(0, 14),
    length=st.integers(0, 20) | st.integers(0, 2**64 - 1),
    rest=st.binary(max_size=100),
)
def test_arbitrary_arrays_give_a_header_or_an_error(tmp_path, kind, element, length, rest):
    body = pair(kind=kind, value=struct.pack("<IQ", element, length) + rest)
    result = read_or_refuse(tmp_path / "array.gguf", crafted(num_pairs=1, body=body))
    assert isinstance(result, GgufHeader | CheckpointError)
