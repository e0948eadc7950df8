"""The sampling settings of every slot, as tensors on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferrule.plan import Admission, SamplingParams

# Below this logits divided by it leave float32; the likeliest token is certain long before.
LEAST_TEMPERATURE = 1e-5


class SamplingState:
    """Settings by slot, and what the penalties count.

    Which slots need a treatment is kept on the host, so that a step pays only for what its
    sequences ask for.

    Args:
        num_slots: Most sequences at a time.
        vocab_size: Columns of the logits.
        device: Where the logits are.
    """

    def __init__(self, num_slots: int, *, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device

        def column(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.full((num_slots,), value, dtype=dtype, device=device)

        self.temperature = column(0)
        self.top_p = column(1)
        self.top_k = column(0, torch.int64)
        self.min_p = column(0)
        self.repetition = column(1)
        self.presence = column(0)
        self.frequency = column(0)
        self.seed = column(0, torch.int64)
        self.draws = [False] * num_slots
        self.filters = [False] * num_slots
        self.penalised = [False] * num_slots
        self.bias: dict[int, tuple[Tensor, Tensor]] = {}
        self.minimum: dict[int, tuple[int, Tensor]] = {}
        self.num_prompt = [0] * num_slots
        self.params: list[SamplingParams | None] = [None] * num_slots
        # Allocated when a request first asks for penalties: rows of the vocabulary are not small.
        self.in_prompt: Tensor | None = None
        self.output_counts: Tensor | None = None

    def admit(self, admission: Admission) -> None:
        """Writes a slot's settings."""
        slot, params = admission.slot, admission.sampling
        self.params[slot] = params
        self.num_prompt[slot] = admission.num_prompt
        self.draws[slot] = params.temperature >= LEAST_TEMPERATURE
        self.filters[slot] = params.top_p < 1 or params.top_k > 0 or params.min_p > 0
        self.temperature[slot] = params.temperature if self.draws[slot] else 1.0
        self.top_p[slot] = params.top_p
        self.top_k[slot] = min(params.top_k, self.vocab_size)
        self.min_p[slot] = params.min_p
        self.seed[slot] = signed(params.seed or 0)
        self._admit_penalties(admission)
        self.bias.pop(slot, None)
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=self.device)
            values = torch.tensor(list(params.logit_bias.values()), device=self.device)
            self.bias[slot] = (ids, values)
        self.minimum.pop(slot, None)
        # A tokenizer may have an eos that the embedding has no row for (case E6).
        stop_ids = [token for token in admission.stop_ids if token < self.vocab_size]
        if params.min_tokens and stop_ids:
            self.minimum[slot] = (params.min_tokens, torch.tensor(stop_ids, device=self.device))

    def _admit_penalties(self, admission: Admission) -> None:
        slot, params = admission.slot, admission.sampling
        self.penalised[slot] = (
            params.repetition_penalty != 1
            or params.presence_penalty != 0
            or params.frequency_penalty != 0
        )
        if not self.penalised[slot]:
            return
        self.repetition[slot] = params.repetition_penalty
        self.presence[slot] = params.presence_penalty
        self.frequency[slot] = params.frequency_penalty
        if self.in_prompt is None or self.output_counts is None:
            shape = (len(self.params), self.vocab_size)
            self.in_prompt = torch.zeros(shape, dtype=torch.bool, device=self.device)
            self.output_counts = torch.zeros(shape, dtype=torch.int32, device=self.device)
        tokens = torch.tensor(list(admission.tokens), device=self.device)
        prompt, output = tokens[: admission.num_prompt], tokens[admission.num_prompt :]
        self.in_prompt[slot].zero_()[prompt] = True
        self.output_counts[slot] = torch.bincount(output, minlength=self.vocab_size)

    def record(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Counts sampled tokens of slots that are penalised."""
        if self.output_counts is None:
            return
        for slot, token in zip(slots, tokens, strict=True):
            if self.penalised[slot]:
                self.output_counts[slot, token] += 1


def signed(seed: int) -> int:
    """A seed of any size as a signed 64-bit number."""
    return (seed + 2**63) % 2**64 - 2**63
