"""The adapters of tests/data/loras on the real model that they were trained on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ferrule.lora import merge_adapter, open_adapter

pytestmark = pytest.mark.realmodel


@pytest.mark.parametrize("stored", ["llama", "smollm2-135m.gguf"])
def test_L1_L2_L21_three_spellings_of_one_adapter_have_one_effect(
    smollm2, adapters, open_base, stored
):
    base = open_base(smollm2 / stored)
    pirate, rslora, ranks = (
        open_adapter(str(adapters / f"lora-{name}"), base=base)
        for name in ("pirate", "rslora", "ranks")
    )
    assert pirate.content == rslora.content
    assert (pirate.rank, ranks.rank) == (8, 16)
    assert len(pirate.modules) == len(ranks.modules) == 60
    for name, update in pirate.modules.items():
        torch.testing.assert_close(ranks.modules[name].delta(), update.delta(), rtol=0, atol=1e-8)


def test_L7_the_frozen_embedding_is_that_of_the_quantised_base(
    smollm2, adapters, open_base, tmp_path
):
    """peft saves the 16-bit embedding with its LoRA; the GGUF file has the same in Q8_0."""
    embedding = load_file(smollm2 / "llama" / "model.safetensors")["model.embed_tokens.weight"]
    name = "base_model.model.model.embed_tokens"
    rng = torch.Generator().manual_seed(1)
    noisy = embedding.float() * (1 + 0.01 * torch.randn(embedding.shape, generator=rng))
    tensors = {
        f"{name}.base_layer.weight": noisy.bfloat16(),
        f"{name}.lora_embedding_A": torch.randn(2, embedding.shape[0], generator=rng),
        f"{name}.lora_embedding_B": torch.randn(embedding.shape[1], 2, generator=rng),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["embed_tokens"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    quantised = open_base(smollm2 / "smollm2-135m.gguf")
    adapter = open_adapter(str(tmp_path), base=quantised)
    assert adapter.modules["model.embed_tokens"].full is None
    assert list(adapter.report.unused.values()) == [
        "the base's own weight, before it was quantised"
    ]
    # A dense base is compared exactly: there it is another weight.
    dense = open_adapter(str(tmp_path), base=open_base(smollm2 / "llama"))
    assert dense.modules["model.embed_tokens"].full is not None
    noisy[7] = torch.randn(embedding.shape[1], generator=rng)
    save_file(
        {**tensors, f"{name}.base_layer.weight": noisy.bfloat16()},
        tmp_path / "adapter_model.safetensors",
    )
    changed = open_adapter(str(tmp_path), base=quantised)
    assert changed.modules["model.embed_tokens"].full is not None


@pytest.mark.parametrize(
    ("name", "reference"), [("lora-pirate", "llama-lora"), ("lora-mlp", "llama-lora-mlp")]
)
def test_merged_models_answer_as_transformers_does_with_the_adapter(
    smollm2, adapters, open_base, golden, tmp_path, name, reference
):
    """In bf16, to which the merge rounds: golden's README gives the tolerances."""
    import transformers

    base = open_base(smollm2 / "llama")
    adapter = open_adapter(str(adapters / name), base=base, merging=True)
    merge_adapter(base, adapter, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").float().eval()
    for prompt in golden(reference)[:4]:
        tokens = prompt["prompt_ids"] + prompt["greedy_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, len(prompt["prompt_ids"]) - 1 : -1]
        for step, token in enumerate(logits.argmax(-1).tolist()):
            assert token == prompt["greedy_ids"][step] or prompt["gaps"][step] < 0.3
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
