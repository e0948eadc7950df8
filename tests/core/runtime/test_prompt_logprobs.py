"""Which tokens of a prompt are described, by which logits, in pieces of any size."""

from __future__ import annotations

import pytest
import torch

from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime import prompt_logprobs
from ferrule.runtime.device_sampling import DeviceSampling
from ferrule.runtime.prompt_logprobs import PromptLogprobs
from ferrule.runtime.slots import Slots

CPU = torch.device("cpu")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def prompts():
    """Slot 0 asks for two alternatives, slot 1 for none; hidden states are the logits."""
    slots = Slots(2, max_length=16, block_size=4, padding_block=9)
    sampling = DeviceSampling(2, vocab_size=10, num_known_tokens=10, device=CPU)
    for slot, wanted in ((0, 2), (1, None)):
        params = SamplingParams(prompt_logprobs=wanted, seed=0)
        admission = Admission(slot=slot, tokens=PROMPT, num_prompt=len(PROMPT), sampling=params)
        slots.admit(admission)
        sampling.admit(admission)
    return PromptLogprobs(sampling, slots, lambda slot, hidden: hidden)


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_each_token_is_described_by_the_logits_before_it(prompts, monkeypatch, rows):
    monkeypatch.setattr(prompt_logprobs, "PROMPT_LOGITS_ROWS", rows)
    hidden = torch.randn(9, 10, generator=torch.Generator().manual_seed(0))
    chunks = [
        Chunk(slot=1, start=0, num_tokens=1),
        Chunk(slot=0, start=2, num_tokens=6),
    ]
    found = prompts.of(chunks, [slice(0, 1), slice(3, 9)], hidden)
    assert list(found) == [1]
    parts, wanted = found[1]
    assert wanted == 2
    # The last of the six has nothing of the prompt behind it.
    expected = hidden[3:8].log_softmax(-1)[torch.arange(5), torch.tensor(PROMPT[3:8])]
    torch.testing.assert_close(torch.cat([part.logprobs for part in parts]), expected)


@pytest.mark.parametrize(
    ("slot", "start", "wants"), [(0, 0, True), (0, 6, True), (0, 7, False), (1, 0, False)]
)
def test_only_prompts_before_their_last_token_want_it(prompts, slot, start, wants):
    assert prompts.wants(Chunk(slot=slot, start=start, num_tokens=1)) is wants
