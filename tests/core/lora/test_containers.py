from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ferrule.errors import CheckpointError, ConfigError, LoadError
from ferrule.lora import open_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HEADS = {"q_proj": 4, "k_proj": 2}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MISTRAL_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def interleaved(b: torch.Tensor, heads: int) -> torch.Tensor:
    """Hugging Face's rows (a head's halves) as rotary pairs side by side."""
    out, rank = b.shape
    return b.reshape(heads, 2, out // heads // 2, rank).transpose(1, 2).reshape(out, rank)


def rows(trained, names, *, turn: bool = True):
    """``(stored name, "A" or "B", tensor)`` of each linear layer under other names."""
    for name, tensor in trained.tensors.items():
        _, _, rest = name.partition("model.layers.")
        layer, _, rest = rest.partition(".")
        module, _, part = rest.partition(".lora_")
        last = module.rpartition(".")[2]
        if turn and part[0] == "B" and last in HEADS:
            tensor = interleaved(tensor, HEADS[last])
        yield layer, names[module], part[0], tensor.contiguous()


@pytest.fixture
def check(open_base, logits_with):
    def run(trained, location):
        adapter = open_adapter(str(location), base=open_base(trained.base))
        found = logits_with(trained.base, adapter)
        torch.testing.assert_close(found, trained.logits, rtol=1e-4, atol=1e-4)
        return adapter

    return run


def write_gguf(path, architecture, tensors, alpha=6.0, **strings):
    writer = gguf.GGUFWriter(path, architecture)
    strings = {"general.type": "adapter", "adapter.type": "lora", **strings}
    for key, value in strings.items():
        writer.add_string(key, value)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(trained, *, turn=True):
    return {
        f"blk.{layer}.{name}.weight.lora_{part.lower()}": tensor
        for layer, name, part, tensor in rows(trained, GGUF_NAMES, turn=turn)
    }


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_L21_F6_llamas_rows_are_turned_back_in_b_only(check, train, tmp_path, family):
    trained = train(family, target_modules=ALL)
    write_gguf(tmp_path / "a.gguf", "llama", gguf_tensors(trained))
    adapter = check(trained, tmp_path / "a.gguf")
    assert adapter.report.container == "gguf"
    assert "use_rslora" in adapter.report.notes[0]


def test_qwen2s_rows_stay_as_they_are(check, train, tmp_path):
    trained = train("qwen2", target_modules=ALL)
    write_gguf(tmp_path / "a.gguf", "qwen2", gguf_tensors(trained, turn=False))
    check(trained, tmp_path / "a.gguf")


def test_a_gguf_of_embedding_and_head(check, train, tmp_path):
    trained = train(target_modules=["embed_tokens", "lm_head"])
    tensors = trained.tensors
    # llama.cpp's converter turns the embedding's A, and nothing else.
    stored = {
        "token_embd.weight.lora_a": tensors[
            "base_model.model.model.embed_tokens.lora_embedding_A"
        ].T,
        "token_embd.weight.lora_b": tensors["base_model.model.model.embed_tokens.lora_embedding_B"],
        "output.weight.lora_a": tensors["base_model.model.lm_head.lora_A.weight"],
        "output.weight.lora_b": tensors["base_model.model.lm_head.lora_B.weight"],
    }
    write_gguf(tmp_path / "a.gguf", "llama", stored)
    check(trained, tmp_path / "a.gguf")


def test_a_gguf_without_alpha_has_scale_one(train, open_base, tmp_path):
    trained = train()
    write_gguf(tmp_path / "a.gguf", "llama", gguf_tensors(trained), alpha=None)
    adapter = open_adapter(str(tmp_path / "a.gguf"), base=open_base(trained.base))
    assert {update.scale for update in adapter.modules.values()} == {1.0}


def test_a_gguf_of_another_architecture_is_refused(train, open_base, tmp_path):
    trained = train()
    write_gguf(tmp_path / "a.gguf", "gpt2", gguf_tensors(trained))
    with pytest.raises(LoadError, match=r"blk\.0\.attn_q"):
        open_adapter(str(tmp_path / "a.gguf"), base=open_base(trained.base))


@pytest.mark.parametrize(
    ("strings", "match"),
    [
        ({"general.type": "model"}, "general.type is 'model'"),
        ({"adapter.type": "control_vector"}, "adapter.type 'control_vector'"),
    ],
)
def test_other_ggufs_are_no_adapters(train, open_base, tmp_path, strings, match):
    trained = train()
    write_gguf(tmp_path / "a.gguf", "llama", gguf_tensors(trained), **strings)
    with pytest.raises(CheckpointError, match=match):
        open_adapter(str(tmp_path / "a.gguf"), base=open_base(trained.base))


def test_norms_in_a_gguf_are_listed_and_not_dropped(train, open_base, tmp_path):
    trained = train()
    tensors = {**gguf_tensors(trained), "blk.0.attn_norm.weight": torch.ones(32)}
    write_gguf(tmp_path / "a.gguf", "llama", tensors)
    with pytest.raises(LoadError, match=r"blk\.0\.attn_norm\.weight"):
        open_adapter(str(tmp_path / "a.gguf"), base=open_base(trained.base))


@pytest.fixture
def mistral(train, tmp_path):
    """What mistral-finetune saves of an adapter whose scale is 1.5."""
    trained = train("mistral", target_modules=ALL)
    folder = tmp_path / "native"
    folder.mkdir()
    tensors = {
        f"layers.{layer}.{name}.lora_{part}.weight": tensor
        for layer, name, part, tensor in rows(trained, MISTRAL_NAMES)
    }
    save_file(tensors, folder / "lora.safetensors")
    params = {"dim": 32, "lora": {"enable": True, "rank": 4, "dropout": 0.0, "scaling": 1.5}}
    (folder / "params.json").write_text(json.dumps(params))
    return trained, folder


def test_F5_mistral_finetune(check, mistral):
    adapter = check(*mistral)
    assert adapter.report.container == "mistral"
    assert len(adapter.modules) == 21


@pytest.mark.parametrize("params", [None, {}, {"lora": {"rank": 4}}, {"lora": {"scaling": "2"}}])
def test_F5_the_scale_is_not_guessed(mistral, open_base, params):
    trained, folder = mistral
    (folder / "params.json").unlink()
    if params is not None:
        (folder / "params.json").write_text(json.dumps(params))
    with pytest.raises(ConfigError, match=r"no lora\.scaling"):
        open_adapter(str(folder), base=open_base(trained.base))


def test_an_empty_file_is_refused(train, open_base):
    trained = train()
    trained.rename(lambda name: None)
    with pytest.raises(CheckpointError, match="no tensors"):
        open_adapter(str(trained.adapter), base=open_base(trained.base))
