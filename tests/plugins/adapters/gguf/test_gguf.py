from __future__ import annotations

import numpy as np
import pytest

from ferrule.errors import LoadError, MatchError
from ferrule.matching import match


def test_f6_llama_names_are_translated_and_q_and_k_unpermuted(tensors, llama_gguf, assert_reads_as):
    found = assert_reads_as(llama_gguf(), tensors)
    assert [adapter.name for adapter in found.adapters] == ["gguf-llama"]
    assert found.architecture.name == "llama"


def test_f6_f17_biases_of_a_llama_are_unpermuted_with_their_weights(
    tensors, llama_gguf, assert_reads_as
):
    for layer in range(2):
        for part, rows in (("q", 8), ("k", 4), ("v", 4)):
            name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
            tensors[name] = np.arange(rows, dtype="<f4")
    found = assert_reads_as(llama_gguf(), tensors)
    assert found.config.qkv_bias


def test_f6_qwen2_is_not_permuted(tensors, qwen2_gguf, assert_reads_as):
    stored = qwen2_gguf()
    found = assert_reads_as(stored, tensors)
    assert found.architecture.name == "qwen2"
    assert found.config.qkv_bias
    assert all(source.rows is None for source in found.sources.values())


def test_f6_packed_rows_are_permuted_whole(tensors, llama_gguf, plugins):
    """The row order is that of the dense weight, whatever a row's bytes mean."""
    found = match(llama_gguf(), plugins)
    name = "model.layers.0.self_attn.q_proj.weight"
    rows = found.read(name)
    assert rows.shape == (8, 8 * 4)
    assert rows.flags.c_contiguous
    assert np.array_equal(rows, tensors[name].view(np.uint8).reshape(8, -1))


def test_f8_without_an_output_tensor_the_head_is_tied(llama_gguf, plugins):
    found = match(llama_gguf(untied=False), plugins)
    assert found.config.tie_word_embeddings
    assert found.notes == ()


def test_f7_rope_frequencies_are_read_from_their_tensor(llama_gguf, plugins):
    stored = llama_gguf(more={"rope_freqs.weight": np.array([1, 8], "<f4")})
    found = match(stored, plugins)
    assert found.config.rope.freq_factors == (1.0, 8.0)
    assert found.ignored == {"rope_freqs.weight": "gguf-llama: rope_freqs.weight"}


def test_w11_stored_frequencies_of_old_converters_are_left_out(llama_gguf, plugins):
    found = match(llama_gguf(more={"blk.0.attn_rot_embd.weight": np.ones(2, "<f4")}), plugins)
    assert "blk.0.attn_rot_embd.weight" in found.ignored


def test_a_tensor_of_another_kind_of_model_reaches_the_accounting(llama_gguf, plugins):
    found = match(llama_gguf(more={"blk.0.ffn_gate_exps.weight": np.ones(2, "<f4")}), plugins)
    assert "blk.0.ffn_gate_exps.weight" in found.checkpoint.tensors


def test_a_hugging_face_name_among_ggmls_is_an_error(tensors, llama_gguf, plugins):
    name = "model.layers.9.self_attn.q_proj.weight"
    with pytest.raises(LoadError, match="bear canonical names already"):
        match(llama_gguf(more={name: np.ones((8, 8), "<f4")}), plugins)


def test_another_architecture_is_refused_by_name(llama_gguf, plugins):
    stored = llama_gguf({"general.architecture": "gemma3"})
    with pytest.raises(MatchError, match=r"general\.architecture 'gemma3'") as error:
        match(stored, plugins)
    assert "gguf-llama (ferrule" in str(error.value)


def test_rows_that_are_no_heads_are_an_error_naming_the_tensor(llama_gguf, plugins):
    stored = llama_gguf({"llama.attention.head_count": 3, "llama.attention.key_length": 4})
    with pytest.raises(LoadError, match=r"blk\.0\.attn_q\.weight of shape \[8, 8\].*3 heads"):
        match(stored, plugins)
