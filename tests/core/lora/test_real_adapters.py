"""The adapters of tests/data/loras on the real model that they were trained on."""

from __future__ import annotations

import json

import pytest
import torch

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
