from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from ferrule.lora import open_adapter
from ferrule.lora.naming import Spelled, find_homes

META = """
from ferrule import Permute, WeightAdapter, hookimpl

_LAYER = "model.layers.{n}"
names = {
    "student.tok.weight": "model.embed_tokens.weight",
    "student.out.weight": "lm_head.weight",
    "student.norm.weight": "model.norm.weight",
    "student.layers.{n}.wq.{kind}": _LAYER + ".self_attn.q_proj.{kind}",
    "student.layers.{n}.wk.{kind}": _LAYER + ".self_attn.k_proj.{kind}",
    "student.layers.{n}.wv.{kind}": _LAYER + ".self_attn.v_proj.{kind}",
    "student.layers.{n}.wo.{kind}": _LAYER + ".self_attn.o_proj.{kind}",
    "student.layers.{n}.{rest*}": _LAYER + ".{rest*}",
}

@hookimpl
def weight_adapters():
    return [
        WeightAdapter(
            name="student",
            matches=lambda checkpoint: "student.tok.weight" in checkpoint.tensors,
            names=names,
            rows={
                _LAYER + ".self_attn.q_proj.{kind}": Permute(heads="num_attention_heads"),
                _LAYER + ".self_attn.k_proj.{kind}": Permute(heads="num_key_value_heads"),
            },
        )
    ]
"""
RENAMED = {
    "model.embed_tokens.": "student.tok.",
    "lm_head.": "student.out.",
    "model.norm.": "student.norm.",
    "model.layers.": "student.layers.",
    ".self_attn.q_proj.": ".wq.",
    ".self_attn.k_proj.": ".wk.",
    ".self_attn.v_proj.": ".wv.",
    ".self_attn.o_proj.": ".wo.",
}


def student(name: str) -> str:
    for before, after in RENAMED.items():
        name = name.replace(before, after)
    return name


def interleaved(name: str, rows: torch.Tensor) -> torch.Tensor:
    heads = 4 if ".wq." in name else 2 if ".wk." in name else 0
    if not heads or ".lora_A." in name:
        return rows
    out, cols = rows.shape
    turned = rows.reshape(heads, 2, out // heads // 2, cols).transpose(1, 2)
    return turned.reshape(out, cols).contiguous()


@pytest.fixture
def open_student(tmp_path):
    from ferrule.checkpoint.open import open_checkpoint
    from ferrule.lora import Base
    from ferrule.matching import match
    from ferrule.plugins import Plugins

    (tmp_path / "student.py").write_text(META)
    plugins = Plugins.installed([tmp_path / "student.py"])
    return lambda folder: Base(match=match(open_checkpoint(str(folder)), plugins), plugins=plugins)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_the_bases_own_weight_adapter_reads_the_adapters_names(
    train, open_student, logits_with, prefix
):
    """A pipeline's odd names, its order of rows included, are no obstacle to its adapters."""
    trained = train(target_modules=["q_proj", "k_proj", "v_proj", "gate_proj", "down_proj"])
    weights = load_file(trained.base / "model.safetensors")
    plain = trained.base.rename(trained.base.with_name("plain"))
    odd = {student(name): weight for name, weight in weights.items()}
    trained.base.mkdir()
    (trained.base / "config.json").write_bytes((plain / "config.json").read_bytes())
    save_file({n: interleaved(n, w) for n, w in odd.items()}, trained.base / "model.safetensors")
    tensors = {
        prefix + student(name.removeprefix("base_model.model.")): each
        for name, each in trained.tensors.items()
    }
    save_file(
        {name: interleaved(name, each) for name, each in tensors.items()},
        trained.adapter / "adapter_model.safetensors",
    )
    trained.change_config(target_modules=["wq", "wk", "wv", "gate_proj", "down_proj"])
    adapter = open_adapter(str(trained.adapter), base=open_student(trained.base))
    found = logits_with(plain, adapter)
    torch.testing.assert_close(found, trained.logits, rtol=1e-4, atol=1e-4)


def test_hugging_faces_names_fit_such_a_base_too(train, open_student, logits_with):
    trained = train()
    weights = load_file(trained.base / "model.safetensors")
    plain = trained.base.rename(trained.base.with_name("plain"))
    odd = {student(name): weight for name, weight in weights.items()}
    trained.base.mkdir()
    (trained.base / "config.json").write_bytes((plain / "config.json").read_bytes())
    save_file({n: interleaved(n, w) for n, w in odd.items()}, trained.base / "model.safetensors")
    adapter = open_adapter(str(trained.adapter), base=open_student(trained.base))
    found = logits_with(plain, adapter)
    torch.testing.assert_close(found, trained.logits, rtol=1e-4, atol=1e-4)


def test_what_the_base_lacks_has_no_home(train, open_base):
    base = open_base(train().base)
    spelled = [
        Spelled(name=name, num_rows=32, num_cols=32)
        for name in ("model.layers.0.self_attn.q_proj", "vision_tower.layers.0.self_attn.q_proj")
    ]
    homes = find_homes(spelled, base)
    assert list(homes) == ["model.layers.0.self_attn.q_proj"]
    assert homes["model.layers.0.self_attn.q_proj"][0].rows is None
