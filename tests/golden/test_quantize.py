"""Files that ``ferrule quantize`` writes of real models, beside what they were made of.

Both read the reference's 64 greedy tokens behind its prompt, so every step has the same past. What
is compared is the log probability of each of those tokens, and which token is the likeliest where
the reference's best two are not near.
"""

from __future__ import annotations

import numpy as np
import pytest

from ferrule.checkpoint.open import open_checkpoint
from ferrule.llm import LLM
from ferrule.matching import match
from ferrule.plan import SamplingParams
from ferrule.plugins import Plugins
from ferrule.quantize.recipe import find_recipe
from ferrule.quantize.write import write_gguf

pytestmark = pytest.mark.realmodel

# Recipe to the mean distance of log probabilities, and the gap between the likeliest two from
# which on the likeliest must be the same; measured: 0.024, and 0.18 with one other token.
TOLERANCES = {"q8_0": (0.04, 0.5), "q4_k_m": (0.25, 2.5)}
PROMPTS = 4


def forced(path, prompts):
    """Of each greedy token: its log probability and the likeliest token's id."""
    llm = LLM(path, devices="cpu", dtype="float32", max_length=512)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    ids = [prompt["prompt_ids"] + prompt["greedy_ids"] for prompt in prompts]
    found = []
    for prompt, result in zip(prompts, llm.generate(ids, params), strict=True):
        steps = result.prompt_logprobs[len(prompt["prompt_ids"]) :]
        assert len(steps) == 64
        found += [(step.logprob, step.top_ids[0]) for step in steps]
    return np.array([each[0] for each in found]), [each[1] for each in found]


@pytest.mark.parametrize("recipe", TOLERANCES)
@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_a_quantised_model_stays_near_its_original(smollm2, golden, tmp_path, name, recipe):
    out = tmp_path / "out.gguf"
    chosen = match(open_checkpoint(str(smollm2 / name)), Plugins.installed())
    write_gguf(chosen, find_recipe(recipe), out, lambda done, total, tensor: None)
    prompts = [prompt for prompt in golden(name) if len(prompt["prompt_ids"]) < 100][:PROMPTS]
    original, _ = forced(smollm2 / name, prompts)
    logprobs, likeliest = forced(out, prompts)
    distance, gap = TOLERANCES[recipe]
    assert np.abs(logprobs - original).mean() < distance
    greedy = [token for prompt in prompts for token in prompt["greedy_ids"]]
    gaps = [each for prompt in prompts for each in prompt["gaps"]]
    firm = [step for step in range(len(greedy)) if gaps[step] > gap]
    assert len(firm) > 60
    others = [step for step in firm if likeliest[step] != greedy[step]]
    assert len(others) <= (0 if recipe == "q8_0" else 1)
