"""Files that were written, read by ferrule, by transformers and by the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, Qwen2Config

from ferrule.errors import ConfigError, LoadError, OptionError
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

from .conftest import CONFIGS, SIZES

PROMPT = torch.randint(3, 200, (60,), generator=torch.Generator().manual_seed(1)).tolist()


def logprobs(path):
    """Of each prompt token, and greedy tokens after the prompt."""
    llm = LLM(path, devices="cpu", dtype="float32", kv_cache_page_size=8)
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, prompt_logprobs=0)
    (result,) = llm.generate([PROMPT], params)
    return result.tokens, [each.logprob for each in result.prompt_logprobs[1:]]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_16_bits_is_the_same_after_writing(saved, quantised, tmp_path, name):
    source, out = saved(name), tmp_path / "out.gguf"
    quantised(source, "bf16", out)
    tokens, expected = logprobs(source)
    assert logprobs(out)[0] == tokens
    assert logprobs(out)[1] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("name", ["llama", "llama tied", "mistral", "qwen2"])
def test_transformers_reads_the_same_model(saved, quantised, tmp_path, name):
    source = saved(name)
    quantised(source, "bf16", tmp_path / "out.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype=torch.float32)
    own = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        assert torch.allclose(read(ids).logits, own(ids).logits, atol=1e-4)


@pytest.mark.parametrize("recipe", ["q8_0", "q4_0", "q4_k_m", "q6_k", "f16"])
def test_the_gguf_package_reads_tensors_near_the_weights(saved, quantised, tmp_path, recipe):
    wide = {**SIZES, "hidden_size": 256, "intermediate_size": 512}
    source, out = saved("wide", Qwen2Config(**wide)), tmp_path / "out.gguf"
    steps = []
    written = quantised(source, recipe, out, lambda *step: steps.append(step))
    own = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 3)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert written.num_bytes == sum(int(tensor.n_bytes) for tensor in tensors.values())
    assert sum(written.formats.values()) == len(tensors) == len(own)
    for name, expected in own.items():
        tensor = tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        found = dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
        error = np.sqrt(np.mean((found - expected.numpy()) ** 2)) / 0.2
        assert error < (1e-6 if expected.dim() == 1 else 0.1)
    total = sum(each.numel() for each in own.values())
    assert (steps[0][0], steps[-1][0], steps[-1][1]) == (0, total, total)


def test_a_quantised_source_is_refused(saved, quantised, tmp_path):
    quantised(saved("llama"), "q8_0", tmp_path / "once.gguf")
    with pytest.raises(LoadError, match="stored as Q8_0"):
        quantised(tmp_path / "once.gguf", "q4_0", tmp_path / "twice.gguf")
    assert not (tmp_path / "twice.gguf").exists()


def test_a_gguf_of_16_bits_is_a_source(saved, quantised, tmp_path):
    source = saved("llama biases")
    quantised(source, "bf16", tmp_path / "wide.gguf")
    quantised(source, "q8_0", tmp_path / "direct.gguf")
    quantised(tmp_path / "wide.gguf", "q8_0", tmp_path / "small.gguf")
    assert logprobs(tmp_path / "small.gguf") == logprobs(tmp_path / "direct.gguf")


def test_numbers_beyond_f16_are_refused_and_nothing_stays(saved, quantised, tmp_path, monkeypatch):
    source = saved("llama")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.lm_head.weight.data[3, 4] = 1e6
    model.save_pretrained(source)
    with pytest.raises(LoadError, match=r"lm_head.weight .* range of F16"):
        quantised(source, "f16", tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_windows_by_layer_are_refused(saved, quantised, tmp_path):
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    with pytest.raises(ConfigError, match="windows of None, 9, 9"):
        quantised(saved("windows", config), "q8_0", tmp_path / "out.gguf")


def test_an_existing_file_is_kept(saved, quantised, tmp_path):
    (tmp_path / "out.gguf").write_text("precious")
    with pytest.raises(OptionError, match="exists already"):
        quantised(saved("llama"), "q8_0", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "precious"
