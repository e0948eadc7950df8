import gzip
import mmap
import struct
from pathlib import Path

import pytest

from ferrule.checkpoint.gguf import read_gguf
from ferrule.checkpoint.gguf_cursor import Cursor
from ferrule.errors import CheckpointError

VOCABULARIES = Path(__file__).parents[2] / "data" / "vocab"


@pytest.fixture
def cursor_over(tmp_path):
    maps = []

    def over(data: bytes) -> Cursor:
        data_map = mmap.mmap(-1, len(data))
        data_map[:] = data
        maps.append(data_map)
        return Cursor(tmp_path / "file.gguf", data_map)

    yield over
    for data_map in maps:
        data_map.close()


def test_take_moves_over_bytes_up_to_the_end(cursor_over):
    cursor = cursor_over(bytes(8))
    assert (cursor.take(3, "a"), cursor.take(5, "b"), cursor.remaining) == (0, 3, 0)


def test_taking_beyond_the_end_says_what_was_read(cursor_over):
    cursor = cursor_over(bytes(8))
    cursor.take(6, "a")
    with pytest.raises(
        CheckpointError, match="the version at byte 6 needs 4 bytes, and 2 are left"
    ):
        cursor.u32("the version")
    assert cursor.position == 6


def test_numbers_are_little_endian(cursor_over):
    cursor = cursor_over(bytes([1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1]))
    assert cursor.u32("a") == 0x201
    assert cursor.u64("b") == (1 << 56) + 3


def test_longest_array_is_limited(cursor_over):
    # Empty strings take eight bytes each; more of them than any vocabulary has is refused unread.
    length = 2**22 + 1
    cursor = cursor_over(struct.pack("<IIQ", 9, 0, length) + bytes(length))
    with pytest.raises(CheckpointError, match="4,194,305 elements"):
        cursor.value("the value")


@pytest.mark.parametrize(
    ("name", "num_tokens"), [("llama-bpe", 128_256), ("llama-spm", 32_000), ("qwen2", 151_936)]
)
def test_whole_vocabularies_are_read(name, num_tokens, tmp_path):
    file = tmp_path / f"{name}.gguf"
    file.write_bytes(gzip.decompress((VOCABULARIES / f"ggml-vocab-{name}.gguf.gz").read_bytes()))
    metadata = read_gguf(file).metadata
    assert len(metadata["tokenizer.ggml.tokens"]) == num_tokens
    assert len(metadata["tokenizer.ggml.token_type"]) == num_tokens
