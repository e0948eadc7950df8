"""Logits to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferrule.plan import TokenLogprobs
from ferrule.runtime.random import gumbel
from ferrule.runtime.sampling_state import SamplingState


def sample(
    logits: Tensor, slots: Sequence[int], positions: Sequence[int], state: SamplingState
) -> Tensor:
    """Chooses one token a row.

    Each row is treated alone, so its result does not depend on the others.

    Args:
        logits: ``[rows, vocab_size]`` float32; changed in place.
        slots: Of each row.
        positions: The index that each new token will have in its sequence.
        state: The slots' settings.

    Returns:
        ``[rows]`` int64.
    """
    _bias(logits, slots, positions, state)
    _penalise(logits, slots, state)
    drawn = [row for row, slot in enumerate(slots) if state.draws[slot]]
    tokens = logits.argmax(dim=-1)
    if not drawn:
        return tokens
    rows = torch.tensor(drawn, device=logits.device)
    index = torch.tensor([slots[row] for row in drawn], device=logits.device)
    scaled = logits[rows] / state.temperature[index, None]
    if any(state.filters[slots[row]] for row in drawn):
        scaled = _filter(scaled, index, state)
    at = torch.tensor([positions[row] for row in drawn], device=logits.device)
    noise = gumbel(state.seed[index], at, logits.shape[-1])
    tokens[rows] = (scaled + noise).argmax(dim=-1)
    return tokens


def _bias(
    logits: Tensor, slots: Sequence[int], positions: Sequence[int], state: SamplingState
) -> None:
    """Adds logit_bias, and bars stop tokens before ``min_tokens``."""
    if not state.bias and not state.minimum:
        return
    for row, slot in enumerate(slots):
        if slot in state.bias:
            ids, values = state.bias[slot]
            logits[row, ids] += values
        if slot in state.minimum:
            least, ids = state.minimum[slot]
            if positions[row] - state.num_prompt[slot] < least:
                logits[row, ids] = -torch.inf


def _penalise(logits: Tensor, slots: Sequence[int], state: SamplingState) -> None:
    """Repetition (arXiv 1909.05858), presence and frequency (OpenAI's definition) penalties."""
    rows = [row for row, slot in enumerate(slots) if state.penalised[slot]]
    if not rows or state.in_prompt is None or state.output_counts is None:
        return
    index = torch.tensor([slots[row] for row in rows], device=logits.device)
    counts = state.output_counts[index]
    x = logits[rows]
    repetition = state.repetition[index, None]
    repeated = torch.where(x > 0, x / repetition, x * repetition)
    x = torch.where(state.in_prompt[index] | (counts > 0), repeated, x)
    x -= state.frequency[index, None] * counts
    x -= state.presence[index, None] * (counts > 0)
    logits[rows] = x


def _filter(scaled: Tensor, index: Tensor, state: SamplingState) -> Tensor:
    """Keeps top_k, of those the top_p nucleus, of those what min_p leaves; the rest is -inf."""
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(scaled.shape[-1], device=scaled.device)
    top_k = state.top_k[index, None]
    ordered = ordered.masked_fill((top_k > 0) & (ranks >= top_k), -torch.inf)
    probs = ordered.softmax(dim=-1)
    # A token stays while those before it have not reached top_p: the likeliest always does.
    before = probs.cumsum(dim=-1) - probs
    top_p = state.top_p[index, None]
    ordered = ordered.masked_fill((top_p < 1) & (before >= top_p), -torch.inf)
    ordered = ordered.masked_fill(probs < state.min_p[index, None] * probs[:, :1], -torch.inf)
    return torch.empty_like(ordered).scatter_(-1, order, ordered)


def describe(logits: Tensor, tokens: Tensor, nums: Sequence[int]) -> list[TokenLogprobs]:
    """Log probabilities of chosen tokens and of the likeliest.

    Args:
        logits: ``[rows, vocab_size]``, as the model gave them.
        tokens: ``[rows]``, the token that stands at each row's next position.
        nums: How many alternatives each row reports.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    top = logprobs.topk(min(max(max(nums), 1), logits.shape[-1]), dim=-1)
    columns = zip(
        chosen[:, 0].tolist(),
        ranks.tolist(),
        top.indices.tolist(),
        top.values.tolist(),
        nums,
        strict=True,
    )
    return [
        TokenLogprobs(logprob, rank, tuple(ids[:num]), tuple(values[:num]))
        for logprob, rank, ids, values, num in columns
    ]
