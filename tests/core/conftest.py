"""A checkpoint that is whole and tiny, llama.cpp's vocabularies, and a SentencePiece trainer."""

from __future__ import annotations

import functools
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ferrule.checkpoint.gguf import read_gguf

_WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "while", "3", "dogs,", "über-quick,", "ran", "past"),
    *("42", "trees", "naïve", "café"),
]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 272,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "torch_dtype": "float32",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_tensors(config: dict = CONFIG) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names."""
    rng = np.random.default_rng(7)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items()
        }
    shapes["model.norm.weight"] = (hidden,)
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.normal(0, 0.08, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def _tokenizer() -> Tokenizer:
    """One token for each byte, then BOS and EOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="session")
def _tiny_llama_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tiny_tensors(), folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE})
    )
    return folder


@pytest.fixture
def tiny_llama(_tiny_llama_made_once: Path, tmp_path: Path) -> Path:
    """The test's own directory with a Llama of two layers, a tokenizer and a chat template."""
    return Path(shutil.copytree(_tiny_llama_made_once, tmp_path / "tiny-llama"))


@pytest.fixture
def change_tensors():
    """``change_tensors(folder, drop=[...], add={...})`` rewrites a checkpoint's weights."""

    def change(folder: Path, *, drop=(), add=None, rename=lambda name: name) -> None:
        tensors = {**tiny_tensors(), **(add or {})}
        kept = {rename(name): each for name, each in tensors.items() if name not in drop}
        save_file(kept, folder / "model.safetensors")

    return change


@pytest.fixture(scope="session")
def vocab_metadata(data, tmp_path_factory) -> Callable[[str], Mapping[str, Any]]:
    """``vocab_metadata("qwen2")``: the metadata of one of llama.cpp's vocabulary files."""

    @functools.cache
    def read(name: str) -> Mapping[str, Any]:
        file = tmp_path_factory.mktemp("vocab") / f"{name}.gguf"
        file.write_bytes(gzip.decompress((data / f"vocab/ggml-vocab-{name}.gguf.gz").read_bytes()))
        return read_gguf(file).metadata

    return read


@pytest.fixture(scope="session")
def train_sentencepiece() -> Callable[..., bytes]:
    """``train_sentencepiece(model_type="unigram")``: a small model of the real trainer's making."""

    def train(**options: Any) -> bytes:
        rng = random.Random(0)
        lines = [" ".join(rng.choices(_WORDS, k=rng.randrange(3, 12))) for _ in range(300)]
        lines += ["".join(rng.choices("ab ", k=30)) for _ in range(100)]
        model = io.BytesIO()
        llama = {
            "model_type": "bpe",
            "vocab_size": 420,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "minloglevel": 2,
            # As in Llama's own model: several spaces may be one piece.
            "allow_whitespace_only_pieces": True,
            "split_by_whitespace": False,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **{**llama, **options}
        )
        return model.getvalue()

    return train


@pytest.fixture(scope="session")
def vectors(data) -> Callable[[str], list[tuple[str, list[int]]]]:
    """``vectors("qwen2")``: texts and the ids that llama.cpp's repository says are right."""

    def read(name: str) -> list[tuple[str, list[int]]]:
        base = data / f"vocab/ggml-vocab-{name}.gguf"
        texts = base.with_suffix(".gguf.inp").read_bytes().decode()
        lines = base.with_suffix(".gguf.out").read_text().splitlines()
        texts = texts.split("\n__ggml_vocab_test__\n")[:-1]
        return [
            (text, [int(token) for token in line.split()])
            for text, line in zip(texts, lines, strict=True)
        ]

    return read
