"""The installed plugin against transformers on small random checkpoints."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

SIZES = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
CASES = {
    "dense": Qwen3Config(**SIZES),
    "tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "biases": Qwen3Config(**SIZES, attention_bias=True),
    "windows from layer 1": Qwen3Config(**SIZES, **WINDOWS),
}
# Longer than 20 tokens and than the window: a wrong rotation or window does not show before.
PROMPT = torch.randint(3, 199, (60,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module", params=CASES)
def model(request):
    """A random model whose norms and biases are random too."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM._from_config(CASES[request.param], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("max_batch_input_tokens", [512, 16], ids=["whole", "in chunks"])
def test_logprobs_and_greedy_tokens_equal_transformers(model, checkpoint, max_batch_input_tokens):
    llm = LLM(
        checkpoint,
        devices="cpu",
        max_batch_size=4,
        max_batch_input_tokens=max_batch_input_tokens,
        kv_cache_page_size=8,
    )
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, prompt_logprobs=0)
    (result,) = llm.generate([PROMPT], params)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + result.tokens])).logits[0]
    logprobs = logits.double().log_softmax(-1)
    assert llm.info.architecture == "qwen3"
    assert result.tokens == logprobs[len(PROMPT) - 1 : -1].argmax(-1).tolist()
    found = [described.logprob for described in result.prompt_logprobs[1:]]
    expected = logprobs.gather(1, torch.tensor(PROMPT[1:])[:, None]).flatten().tolist()
    assert found == pytest.approx(expected, abs=2e-4)
