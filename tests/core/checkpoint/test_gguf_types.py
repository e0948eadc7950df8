import gguf
import pytest

from ferrule.checkpoint.gguf_types import GGML_TYPES, UNSUPPORTED_GGML_TYPES


@pytest.mark.parametrize("number", GGML_TYPES)
def test_names_and_block_sizes_are_those_of_the_gguf_package(number):
    kind = gguf.GGMLQuantizationType(number)
    ours = GGML_TYPES[number]
    assert ours.name == kind.name
    assert (ours.block_size, ours.block_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_every_type_of_the_gguf_package_is_known():
    for kind in gguf.GGMLQuantizationType:
        assert kind in GGML_TYPES or UNSUPPORTED_GGML_TYPES[kind] == kind.name


def test_a_type_is_either_supported_or_not():
    assert not GGML_TYPES.keys() & UNSUPPORTED_GGML_TYPES.keys()


def test_bytes_of_a_row_count_whole_blocks():
    assert GGML_TYPES[12].num_bytes(4096) == 4096 // 256 * 144
