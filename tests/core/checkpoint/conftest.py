"""Writers of small checkpoints with the formats' own packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def save_safetensors():
    def save(file: Path, **tensors) -> Path:
        """Float32 tensors of the given shapes, or the arrays given, under the given names."""
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            name.replace("__", "."): np.ones(value, np.float32)
            if isinstance(value, tuple)
            else value
            for name, value in tensors.items()
        }
        save_file(arrays, file)
        return file

    return save


@pytest.fixture
def save_model(save_safetensors):
    def save(folder: Path) -> Path:
        """A directory with config, tokenizer and one file of weights."""
        save_safetensors(folder / "model.safetensors", model__embed_tokens__weight=(4, 2))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return save


@pytest.fixture
def write_gguf():
    def write(
        file: Path,
        tensors: Mapping[str, np.ndarray] | None = None,
        fill: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
        kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    ) -> Path:
        """A GGUF file by the gguf package; ``kinds`` are the types of tensors given as uint8."""
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(file, "llama")
        fill(writer)
        for name, array in (tensors or {}).items():
            writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return write


@pytest.fixture
def hub_model(save_model, tmp_path: Path) -> dict[str, bytes]:
    """The files of a small model, as a repository has them, with what should not be fetched."""
    folder = save_model(tmp_path / "hub-model")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "README.md": b"# A model",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"the same weights again",
        "original/tokenizer.model": b"",
        "onnx/model.onnx": b"another form",
    }
