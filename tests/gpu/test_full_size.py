"""An 8B checkpoint: it loads, answers, and computes what transformers computes on the same GPU."""

from __future__ import annotations

import gc
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


def relative_error(found, reference):
    return ((found - reference).norm() / reference.norm()).item()


def logits_of(llm, prompts):
    """What the model gave for every token of prompts that are to be described."""
    model = llm.engine._runner.model
    seen, found, give = [], [], model.logits

    def listen(hidden):
        seen.append(give(hidden))
        return seen[-1]

    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, prompt_logprobs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "logits", listen)
        for prompt in prompts:
            seen.clear()
            llm.generate([prompt], params)
            rows = torch.cat([part for part in seen if part.shape[0] > 1])
            found.append(rows[: len(prompt) - 1].float().cpu())
    return found


def test_full_size_checkpoint_loads_answers_and_equals_transformers(checkpoint, capsys):
    from transformers import AutoModelForCausalLM

    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    llm = LLM(checkpoint, devices="gpu", max_length=8192, device_memory_utilization=0.5)
    loaded = time.perf_counter() - started
    weights_peak = torch.cuda.max_memory_allocated()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(5, 100000, (n,), generator=generator).tolist() for n in (40, 300)]
    ours = logits_of(llm, prompts)
    with capsys.disabled():
        print(
            f"\nload {loaded:.1f} s, peak {weights_peak / 1e9:.2f} GB with "
            f"{llm.info.weight_bytes / 1e9:.2f} GB of weights and "
            f"{llm.info.kv_bytes / 1e9:.2f} GB of KV cache"
        )
    assert weights_peak < 1.1 * (llm.info.weight_bytes + llm.info.kv_bytes) + 1e9
    del llm
    gc.collect()
    torch.cuda.empty_cache()
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda()

    def logits(prompt):
        with torch.no_grad():
            return theirs(torch.tensor([prompt], device="cuda")).logits[0, :-1].float().cpu()

    halves = [logits(prompt) for prompt in prompts]
    theirs = theirs.float()
    for mine, half, prompt in zip(ours, halves, prompts, strict=True):
        exact = logits(prompt)
        errors = relative_error(mine, exact), relative_error(half, exact)
        with capsys.disabled():
            print(
                f"{len(prompt)} tokens against float32: ours {errors[0]:.4f}, transformers' "
                f"bfloat16 {errors[1]:.4f}; ours against it {relative_error(mine, half):.4f}"
            )
        assert errors[0] < 2e-2
        assert errors[0] < 1.1 * errors[1]
