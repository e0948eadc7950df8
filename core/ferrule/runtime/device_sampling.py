"""Sampling from settings that live on the device, so that a CUDA graph can hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.plan import MAX_LOGPROBS, Admission, SamplingParams
from ferrule.runtime.packet import send
from ferrule.runtime.sampling_state import LEAST_TEMPERATURE, signed


class Needs(NamedTuple):
    """What a step's sequences ask of the sampler; a graph is made for each that occurs.

    Attributes:
        shapes: Filters, penalties, biases or a least number of tokens; else every row is greedy
            or drawn from all tokens.
        logprobs: Log probabilities beside the tokens.
    """

    shapes: bool = False
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """Log probabilities of chosen tokens, before temperature and filters.

    Attributes:
        logprobs: ``[rows]`` float32, of the chosen tokens.
        ranks: ``[rows]`` int64; 1 is the likeliest.
        top_ids: ``[rows, MAX_LOGPROBS]`` int64, the likeliest.
        top_logprobs: ``[rows, MAX_LOGPROBS]`` float32.
    """

    logprobs: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


class Shapes:
    """What changes logits token by token: a row of the vocabulary for each slot.

    Allocated when a request first asks for it, for it is not small.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        def rows(dtype: torch.dtype) -> Tensor:
            return torch.zeros(num_slots, vocab_size, dtype=dtype, device=device)

        self.bias = rows(torch.float32)
        self.counts = rows(torch.int32)
        self.in_prompt = rows(torch.bool)
        self.is_stop = rows(torch.bool)


BYTES_A_TOKEN = 10
"""Of ``Shapes``, for each slot and token of the vocabulary."""


class DeviceSampling:
    """Settings by slot, and the sampler that reads them; the last slot takes what pads.

    Args:
        num_slots: Most sequences at a time.
        vocab_size: Columns of the logits.
        num_known_tokens: Ids that the tokenizer knows; those above are never chosen.
        device: Where the logits are.
    """

    def __init__(
        self, num_slots: int, *, vocab_size: int, num_known_tokens: int, device: torch.device
    ) -> None:
        self.vocab_size = vocab_size
        self.num_known_tokens = min(num_known_tokens, vocab_size)
        self.device = device
        self.params: list[SamplingParams | None] = [None] * num_slots
        self.num_prompt = [0] * num_slots
        self._needs = [Needs()] * num_slots
        self._num_rows = num_slots + 1
        # Filled on the host and sent as a whole when a sequence is admitted.
        self._floats: NDArray[np.float32] = np.zeros((6, self._num_rows), dtype=np.float32)
        self._ints: NDArray[np.int64] = np.zeros((3, self._num_rows), dtype=np.int64)
        # top_p and the repetition penalty of slots that nobody has, the padding's among them.
        self._floats[[1, 3]] = 1
        self._is_changed = True
        self.floats = torch.zeros(6, self._num_rows, dtype=torch.float32, device=device)
        self.ints = torch.zeros(3, self._num_rows, dtype=torch.int64, device=device)
        self._shapes: Shapes | None = None
        self._shaped: set[int] = set()

    def admit(self, admission: Admission) -> None:
        """Takes over a sequence's settings."""
        slot, params = admission.slot, admission.sampling
        draws = params.temperature >= LEAST_TEMPERATURE
        self.params[slot] = params
        self.num_prompt[slot] = admission.num_prompt
        self._floats[:, slot] = (
            params.temperature if draws else 0.0,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        self._ints[:, slot] = (
            signed(params.seed or 0),
            min(params.top_k, self.vocab_size),
            admission.num_prompt + min(params.min_tokens, 2**62),
        )
        self._is_changed = True
        # A tokenizer may have an eos that the embedding has no row for (case E6).
        stop_ids = [token for token in admission.stop_ids if token < self.vocab_size]
        filters = draws and (params.top_p < 1 or params.top_k > 0 or params.min_p > 0)
        penalises = (
            params.repetition_penalty != 1
            or params.presence_penalty != 0
            or params.frequency_penalty != 0
        )
        bars = bool(params.min_tokens and stop_ids)
        self._needs[slot] = Needs(
            shapes=bool(filters or penalises or bars or params.logit_bias),
            logprobs=params.logprobs is not None,
        )
        is_shaped = bool(penalises or bars or params.logit_bias)
        if slot in self._shaped or is_shaped:
            self._clear(slot)
        if is_shaped:
            self._shape(admission, stop_ids if bars else [], penalises=penalises)

    def needs(self, slots: Sequence[int]) -> Needs:
        """What these slots ask for together."""
        needs = [self._needs[slot] for slot in slots]
        return Needs(any(n.shapes for n in needs), any(n.logprobs for n in needs))

    def flush(self) -> None:
        """Sends settings that have changed."""
        if self._is_changed:
            floats, ints = send([self._floats, self._ints], self.device)
            self.floats.copy_(floats)
            self.ints.copy_(ints)
            self._is_changed = False

    def prepare(self, needs: Needs) -> None:
        """Allocates what a step with these needs reads."""
        if needs.shapes and self._shapes is None:
            self._shapes = Shapes(self._num_rows, self.vocab_size, self.device)

    def sample(
        self,
        logits: Tensor,
        slots: Tensor,
        positions: Tensor,
        needs: Needs,
        known: Sequence[int] | None = None,
    ) -> Tensor:
        """Chooses one token a row; each row depends on itself alone.

        Args:
            logits: ``[rows, vocab_size]``.
            slots: ``[rows]`` int64.
            positions: ``[rows]`` int64: the index that each new token will have in its sequence.
            needs: Of these slots, or more.
            known: For each of the first rows, below which id its token must be, where that is
                not the same for all; never in a graph.

        Returns:
            ``[rows]`` int64.
        """
        from ferrule.kernels.draw import draw

        num_known = self.num_known_tokens
        if known is not None:
            # What is described stays as the model gave it.
            logits, num_known = logits.clone(), logits.shape[-1]
            for row, count in enumerate(known):
                logits[row, count:] = -torch.inf

        temperature, seeds = self.floats[0, slots], self.ints[0, slots]
        if not needs.shapes:
            return draw(logits, temperature, seeds, positions, num_known)
        from ferrule.kernels.truncate import truncate

        shapes = self._shapes
        assert shapes is not None, "not prepared"
        counts = shapes.counts[slots]
        x = self._penalised(logits.float(), slots, counts, shapes)
        is_early = positions < self.ints[2, slots]
        x = x.masked_fill(shapes.is_stop[slots] & is_early[:, None], -torch.inf)
        top_p, min_p, top_k = self.floats[1, slots], self.floats[2, slots], self.ints[1, slots]
        x = truncate(x, temperature, top_k, top_p, min_p, num_known)
        # They are divided by the temperature now.
        tokens = draw(x, (temperature > 0).float(), seeds, positions, num_known)
        places = slots * self.vocab_size + tokens
        shapes.counts.view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.int32))
        return tokens

    def _penalised(self, x: Tensor, slots: Tensor, counts: Tensor, shapes: Shapes) -> Tensor:
        """Bias, then repetition (arXiv 1909.05858), presence and frequency (OpenAI) penalties."""
        x = x + shapes.bias[slots]
        repetition, presence, frequency = (self.floats[i, slots][:, None] for i in (3, 4, 5))
        repeated = torch.where(x > 0, x / repetition, x * repetition)
        x = torch.where(shapes.in_prompt[slots] | (counts > 0), repeated, x)
        return x - frequency * counts - presence * (counts > 0)

    def _shape(self, admission: Admission, stop_ids: list[int], *, penalises: bool) -> None:
        shapes, slot, params = self._shapes, admission.slot, admission.sampling
        assert shapes is not None
        self._shaped.add(slot)
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=self.device)
            values = list(params.logit_bias.values())
            shapes.bias[slot, ids] = torch.tensor(values, device=self.device)
        if stop_ids:
            shapes.is_stop[slot, torch.tensor(stop_ids, device=self.device)] = True
        if penalises:
            tokens = torch.tensor(list(admission.tokens), device=self.device)
            prompt, output = tokens[: admission.num_prompt], tokens[admission.num_prompt :]
            shapes.in_prompt[slot, prompt] = True
            ones = torch.ones_like(output, dtype=torch.int32)
            shapes.counts[slot].index_add_(0, output, ones)

    def _clear(self, slot: int) -> None:
        """Takes away what the slot's last sequence left; counts grow for every slot of a step."""
        self.prepare(Needs(shapes=True))
        assert self._shapes is not None
        for rows in (
            self._shapes.bias,
            self._shapes.counts,
            self._shapes.in_prompt,
            self._shapes.is_stop,
        ):
            rows[slot].zero_()
        self._shaped.discard(slot)


def describe(logits: Tensor, tokens: Tensor) -> Described:
    """Log probabilities of chosen tokens and of the likeliest.

    Args:
        logits: ``[rows, vocab_size]``, as the model gave them.
        tokens: ``[rows]``, the token that stands at each row's next position.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])
    top = logprobs.topk(min(MAX_LOGPROBS, logits.shape[-1]), dim=-1)
    return Described(
        logprobs=chosen[:, 0],
        ranks=(logprobs > chosen).sum(dim=-1) + 1,
        top_ids=top.indices,
        top_logprobs=top.values,
    )
