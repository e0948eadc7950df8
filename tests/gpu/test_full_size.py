"""An 8B checkpoint: it loads, answers, and computes what transformers computes on the same GPU."""

from __future__ import annotations

import os
import time

import pytest
import torch

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint():
    """The directory of a full-size Llama checkpoint, random weights being enough."""
    path = os.environ.get("FERRULE_TEST_FULL_SIZE")
    if path is None:
        pytest.skip("FERRULE_TEST_FULL_SIZE names no full-size checkpoint (16 GB) to test with")
    return path


def test_full_size_checkpoint_loads_answers_and_equals_transformers(checkpoint, capsys):
    from transformers import AutoModelForCausalLM

    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    llm = LLM(checkpoint, devices="gpu", max_length=8192, device_memory_utilization=0.5)
    loaded = time.perf_counter() - started
    weights_peak = torch.cuda.max_memory_allocated()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(5, 100000, (n,), generator=generator).tolist() for n in (40, 300)]
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, prompt_logprobs=1)
    started = time.perf_counter()
    results = llm.generate(prompts, params)
    answered = time.perf_counter() - started
    with capsys.disabled():
        print(
            f"\nload {loaded:.1f} s, peak {weights_peak / 1e9:.2f} GB with "
            f"{llm.info.weight_bytes / 1e9:.2f} GB of weights and "
            f"{llm.info.kv_bytes / 1e9:.2f} GB of KV cache; 2 x 32 tokens in {answered:.2f} s"
        )
    assert weights_peak < 1.1 * (llm.info.weight_bytes + llm.info.kv_bytes) + 1e9
    del llm
    torch.cuda.empty_cache()
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda()
    for prompt, result in zip(prompts, results, strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([prompt], device="cuda")).logits[0].float()
        reference = logits.log_softmax(-1).cpu()
        found = torch.tensor([one.logprob for one in result.prompt_logprobs[1:]])
        expected = reference[:-1].gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]
        # Both are bfloat16 runs of 32 layers; float32 would be some hundredths away from either.
        error = (found - expected).abs()
        assert error.median() < 0.03, error.median()
        assert error.max() < 0.3, error.max()
