"""Every built-in architecture against transformers on small random checkpoints.

Prompts are longer than 20 tokens and longer than the sliding windows: short ones do not show a
wrong rotation or a wrong window (case F9). A vocabulary without a tokenizer serves token ids.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

SIZES = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PROMPT = torch.randint(3, 199, (60,), generator=torch.Generator().manual_seed(1)).tolist()
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama head_dim": LlamaConfig(**SIZES, head_dim=32),
    "llama biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama one kv head": LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "llama linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0}),
    "llama llama3": LlamaConfig(**SIZES, rope_parameters={**LLAMA3, "rope_theta": 5e5}),
    "llama yarn": LlamaConfig(**SIZES, rope_parameters={**YARN, "rope_theta": 1e6}),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral window": MistralConfig(**SIZES, sliding_window=7),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2 tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 windows from layer 1": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen2 window unused": Qwen2Config(**SIZES, sliding_window=9, max_window_layers=0),
}


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request, tmp_path_factory):
    """A random model and its directory; biases and norms are random too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CASES[request.param], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    return model.eval(), path


@pytest.fixture(scope="module")
def expected(checkpoint):
    model, _ = checkpoint
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPT])).logits[0].double().log_softmax(-1)
        continued = list(PROMPT)
        for _ in range(16):
            continued.append(int(model(torch.tensor([continued])).logits[0, -1].argmax()))
    return logprobs, continued[len(PROMPT) :]


@pytest.mark.parametrize("max_batch_input_tokens", [512, 16], ids=["whole", "in chunks"])
def test_logprobs_and_greedy_tokens_equal_transformers(
    checkpoint, expected, max_batch_input_tokens
):
    logprobs, continued = expected
    llm = LLM(
        checkpoint[1],
        devices="cpu",
        max_batch_size=4,
        max_batch_input_tokens=max_batch_input_tokens,
        kv_cache_page_size=8,
    )
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, prompt_logprobs=3)
    (result,) = llm.generate([PROMPT], params)
    assert result.tokens == continued
    assert result.prompt_logprobs[0] is None
    for position, described in enumerate(result.prompt_logprobs[1:]):
        reference = logprobs[position]
        assert described.logprob == pytest.approx(reference[PROMPT[position + 1]].item(), abs=2e-4)
        assert described.top_ids[0] == int(reference.argmax())


def test_sequences_in_one_batch_do_not_touch_each_other(checkpoint, expected):
    llm = LLM(checkpoint[1], devices="cpu", kv_cache_page_size=8, max_batch_input_tokens=40)
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    others = [PROMPT[i : i + 5 + 9 * i] for i in range(5)]
    alone = [llm.generate([prompt], params)[0].tokens for prompt in others]
    together = llm.generate([*others, PROMPT], params)
    assert [one.tokens for one in together] == [*alone, expected[1]]


def test_v5_and_v4_spellings_of_rope_give_the_same_model(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CASES["llama llama3"])
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0)
    new = LLM(tmp_path, devices="cpu").generate([PROMPT], params)[0].answers[0]
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = LLM(tmp_path, devices="cpu").generate([PROMPT], params)[0].answers[0]
    assert (old.tokens, old.logprobs) == (new.tokens, new.logprobs)
