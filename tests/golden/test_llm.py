"""Reference outputs of a real model, in one process: alone, batched, chunked, cached, preempted.

What is compared, and how closely, is what tests/data/golden/README.md measured: all greedy tokens
before the first near-tie, and log probabilities of the first steps.
"""

from __future__ import annotations

import pytest

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.realmodel

# name: (path below the models folder, golden file, how far log probabilities may be apart)
MODELS = {
    "llama": ("llama", "llama", 1e-3),
    "mistral": ("mistral", "mistral", 1e-3),
    "qwen2": ("qwen2", "qwen2", 1e-3),
    "gguf": ("smollm2-135m.gguf", "llama", 0.15),
}


def greedy(prompt):
    """As many steps as can be compared: to the first near-tie, and the logprobs' 8."""
    steps = max(prompt["firm_until"], len(prompt["top5"]))
    return SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True, logprobs=5)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]


def load(smollm2, model, **options):
    return LLM(smollm2 / model[0], devices="cpu", dtype="float32", **options)


def check(answer, prompt, tolerance):
    """One answer against its reference."""
    firm = prompt["firm_until"]
    assert answer.tokens[:firm] == prompt["greedy_ids"][:firm], prompt["id"]
    # The step at a near-tie still has the reference's prompt, so it is comparable as well.
    for step, reference in enumerate(prompt["top5"][: firm + 1]):
        found = dict(
            zip(answer.logprobs[step].top_ids, answer.logprobs[step].top_logprobs, strict=True)
        )
        for token, logprob in zip(reference["ids"][:3], reference["logprobs"], strict=False):
            assert found[token] == pytest.approx(logprob, abs=tolerance), (prompt["id"], step)


def check_all(llm, prompts, tolerance, *, together=True):
    batches = [prompts] if together else [[prompt] for prompt in prompts]
    for batch in batches:
        ids = [prompt["prompt_ids"] for prompt in batch]
        results = llm.generate(ids, [greedy(prompt) for prompt in batch])
        for prompt, result in zip(batch, results, strict=True):
            check(result.answers[0], prompt, tolerance)


def test_prompts_alone_and_again_from_the_prefix_cache(smollm2, golden, model):
    llm = load(smollm2, model)
    prompts = golden(model[1])
    # One token, 1500, some words and a chat: a step of one row reads all weights for a token.
    alone = [prompts[index] for index in (0, 6, 9, 11)]
    check_all(llm, alone, model[2], together=False)
    assert llm.engine.stats().prefix_hits_total == 0
    check_all(llm, prompts, model[2])
    assert llm.engine.stats().prefix_hits_total > 1000


def test_all_prompts_together_in_small_chunks_without_a_prefix_cache(smollm2, golden, model):
    llm = load(
        smollm2,
        model,
        max_batch_size=8,
        max_batch_input_tokens=48,
        enable_prefix_caching=False,
    )
    check_all(llm, golden(model[1]), model[2])
    assert llm.engine.stats().prefix_hits_total == 0


def test_preempted_prompts_go_on_where_they_were(smollm2, golden, model):
    llm = load(
        smollm2,
        model,
        kv_cache_page_size=8,
        num_kv_blocks=40,
        max_length=320,
        max_batch_size=8,
    )
    short = [prompt for prompt in golden(model[1]) if len(prompt["prompt_ids"]) < 200]
    check_all(llm, short, model[2])
    assert llm.engine.stats().preemptions_total > 0


def test_texts_and_chats_are_tokenised_as_the_reference_was(smollm2, golden, model):
    llm = load(smollm2, model)
    for prompt in golden(model[1]):
        if prompt["kind"] == "chat":
            result = llm.chat(prompt["messages"], SamplingParams(temperature=0, max_tokens=1))
        else:
            (result,) = llm.generate([prompt["text"]], SamplingParams(temperature=0, max_tokens=1))
        assert result.prompt_tokens == prompt["prompt_ids"], prompt["id"]


def test_packed_weights_and_bfloat16_give_the_same_firm_tokens(smollm2, golden):
    llm = LLM(smollm2 / "smollm2-135m.gguf", devices="cpu", dtype="bfloat16")
    prompts = [prompt for prompt in golden("llama") if prompt["firm_until_bf16"]]
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    results = llm.generate([prompt["prompt_ids"] for prompt in prompts], params)
    for prompt, result in zip(prompts, results, strict=True):
        firm = prompt["firm_until_bf16"]
        assert result.tokens[:firm] == prompt["greedy_ids"][:firm], prompt["id"]
    assert sum(prompt["firm_until_bf16"] for prompt in prompts) > 60
