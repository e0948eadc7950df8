"""The formats that load."""

from __future__ import annotations

import gguf
import pytest
import torch

from ferrule.quantization.formats import FORMATS


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "F64"])
def test_block_sizes_are_those_of_the_gguf_package(name):
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    format = FORMATS[name]
    assert (format.block_size, format.block_bytes) == (block_size, block_bytes)
    assert format.row_bytes(512) == 512 // block_size * block_bytes


def test_every_format_of_the_requirements_loads():
    wanted = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS"
    assert set(wanted.split()) <= FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_an_allocated_storage_takes_the_formats_own_rows(name):
    format = FORMATS[name]
    storage = format.allocate(3, 512, dtype=torch.float32, device=torch.device("cpu"))
    data = torch.zeros(3, format.row_bytes(512), dtype=torch.uint8)
    storage.write(0, data, format)
    storage.finish()
    assert torch.equal(storage.dense(), format.dequantize(data).float())
