"""Small random models as transformers saves them, and a way to quantise one."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from ferrule.checkpoint.open import open_checkpoint
from ferrule.matching import match
from ferrule.plugins import Plugins
from ferrule.quantize.recipe import find_recipe
from ferrule.quantize.write import write_gguf

SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama head_dim": LlamaConfig(**SIZES, head_dim=32),
    "llama biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama linear": LlamaConfig(**SIZES, rope_parameters=LINEAR),
    "llama llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama yarn attention": LlamaConfig(**SIZES, rope_parameters={**YARN, "attention_factor": 0.9}),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral window": MistralConfig(**SIZES, sliding_window=7),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2 tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
}


@pytest.fixture
def saved(tmp_path):
    """``saved("qwen2")``: the directory of a random model in bfloat16, norms and biases too."""

    def save(name, config=None):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config or CONFIGS[name], dtype=torch.bfloat16)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
        path = tmp_path / "model"
        model.save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def quantised():
    """``quantised(directory, "q4_k_m", out)``: writes the file and tells what is in it."""

    def quantise(source, recipe, out, report=lambda done, total, name: None):
        chosen = match(open_checkpoint(str(source)), Plugins.installed())
        return write_gguf(chosen, find_recipe(recipe), out, report)

    return quantise
