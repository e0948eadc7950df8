"""What a GGUF file's vocabulary costs at start: reading it, and making a tokenizer of it.

pytest tests/benchmarks/test_vocabulary.py --benchmark-enable --benchmark-only
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ferrule.checkpoint.gguf import read_gguf
from ferrule.tokenizer.gguf import from_gguf_metadata

VOCABULARIES = Path(__file__).parents[1] / "data/vocab"
pytestmark = [
    pytest.mark.benchmark(group="vocabulary"),
    pytest.mark.parametrize("name", ["llama-bpe", "llama-spm", "qwen2"]),
]


@pytest.fixture
def file(name, tmp_path):
    file = tmp_path / f"{name}.gguf"
    file.write_bytes(gzip.decompress((VOCABULARIES / f"ggml-vocab-{name}.gguf.gz").read_bytes()))
    return file


def test_reading(benchmark, file):
    benchmark(read_gguf, file)


def test_making_a_tokenizer(benchmark, file):
    benchmark.pedantic(from_gguf_metadata, (read_gguf(file).metadata,), rounds=3, warmup_rounds=1)
