"""Computes plans in plain torch, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from ferrule.plan import Chunk, Plan, SamplingParams, StepResult, TokenLogprobs
from ferrule.runtime.attention import KERNELS, PagedAttention
from ferrule.runtime.batch import Batch, make_batch
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_slots import LoraSlots, widened
from ferrule.runtime.memory import PROMPT_LOGITS_ROWS
from ferrule.runtime.model import Model
from ferrule.runtime.sampler import describe, sample
from ferrule.runtime.sampling_state import SamplingState
from ferrule.runtime.slots import Slots


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step that was computed when its launch returned."""

    step_result: StepResult

    def result(self) -> StepResult:
        """What it gave."""
        return self.step_result


class ModelRunner:
    """A model, its cache and its slots.

    Args:
        model: Loaded, on ``device``.
        cache: Keys and values.
        max_batch_size: Slots.
        max_tokens: Most tokens of a step.
        max_length: Most tokens in a sequence.
        vocab_size: Columns of the logits.
        num_known_tokens: Ids that the tokenizer knows; padded rows above it are never chosen.
        device: Where everything lives.
        loras: The model's adapters; None: it takes none.
    """

    runs_ahead = False

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        *,
        max_batch_size: int,
        max_tokens: int,
        max_length: int,
        vocab_size: int,
        num_known_tokens: int,
        device: torch.device,
        loras: LoraSlots | None = None,
    ) -> None:
        self.model = model
        self.loras = loras
        self.device = device
        self.num_known_tokens = num_known_tokens
        self.cache = cache
        self.attention = PagedAttention(model.attention_specs(), cache)
        self.slots = Slots(
            max_batch_size,
            max_length=max_length,
            block_size=cache.block_size,
            padding_block=cache.padding_block,
        )
        self.sampling = SamplingState(max_batch_size, vocab_size=vocab_size, device=device)

    @torch.inference_mode()
    def warm_up(self, report: Callable[[int, int], None]) -> None:
        """Does what would keep the first requests waiting."""

    def use_idle_time(self) -> bool:
        """Nothing is left for later steps to wait for."""
        return False

    def launch(self, plan: Plan) -> DoneStep:
        """Computes one step."""
        return DoneStep(self._run(plan))

    @torch.inference_mode()
    def _run(self, plan: Plan) -> StepResult:
        for admission in plan.admitted:
            self.slots.admit(admission)
            self.sampling.admit(admission)
            if self.loras is not None:
                self.loras.admit(admission)
        self._grow(plan.chunks)
        if not plan.chunks:
            return StepResult(tokens=())
        batch = make_batch(
            plan.chunks,
            self.slots,
            windows=self.attention.windows,
            dtype=self.attention.dtype,
            device=self.device,
        )
        owners = np.empty(len(batch.tokens), dtype=np.int64)
        for chunk, rows in zip(plan.chunks, batch.order, strict=True):
            owners[rows] = chunk.slot
        with sdpa_kernel(KERNELS), self._applying(owners):
            hidden = self.model(batch.tokens, batch.positions, self.attention.attends(batch))
        return self._choose(plan.chunks, batch, hidden)

    def _applying(self, owners: Sequence[int] | NDArray[np.int64]) -> AbstractContextManager[None]:
        """What layers called inside do for the adapters of rows; ``owners`` are their slots."""
        return nullcontext() if self.loras is None else self.loras.using(self.loras.of(owners))

    def _logits(self, hidden: Tensor, owners: Sequence[int]) -> Tensor:
        """``[rows, hidden_size] -> [rows, vocab_size]`` float32, rows of these slots."""
        with self._applying(owners):
            return widened(self.model.logits(hidden).float(), self.sampling.vocab_size)

    def _grow(self, chunks: Sequence[Chunk]) -> None:
        """Block tables take over what the plan gave their sequences."""
        self.cache.clear([block for chunk in chunks for block in self.slots.grow(chunk)])

    def _choose(self, chunks: Sequence[Chunk], batch: Batch, hidden: Tensor) -> StepResult:
        """Computes logits where the plan says so, and describes prompts that want it."""
        sampled = [i for i, chunk in enumerate(chunks) if chunk.samples]
        prompts = self._prompt_logprobs(chunks, batch, hidden)
        if not sampled:
            return StepResult(tokens=(), prompt_logprobs=prompts)
        rows = torch.tensor([batch.order[i].stop - 1 for i in sampled], device=self.device)
        logits = self._logits(hidden[rows], [chunks[i].slot for i in sampled])
        return self._sample([chunks[i] for i in sampled], logits, prompts)

    def _sample(
        self, chunks: Sequence[Chunk], logits: Tensor, prompts: dict[int, list[TokenLogprobs]]
    ) -> StepResult:
        """One token for each chunk: ``logits`` is ``[chunks, vocab_size]``, changed in place."""
        slots = [chunk.slot for chunk in chunks]
        positions = [int(self.slots.num_tokens[slot]) for slot in slots]
        wanted = [self._wanted(slot) for slot in slots]
        raw = logits.clone() if any(num is not None for num in wanted) else logits
        self._bar_unknown(logits, slots)
        chosen = sample(logits, slots, positions, self.sampling)
        tokens = chosen.tolist()
        for slot, token in zip(slots, tokens, strict=True):
            self.slots.append(slot, token)
        self.sampling.record(slots, tokens)
        return StepResult(
            tokens=tokens,
            logprobs=_describe_some(raw, chosen, wanted),
            prompt_logprobs=prompts,
        )

    def _bar_unknown(self, logits: Tensor, slots: list[int]) -> None:
        """Ids that the tokenizer of a row's model or adapter does not know are never chosen."""
        known = None
        if self.loras is not None:
            known = self.loras.num_known_tokens(self.loras.of(slots), self.num_known_tokens)
        if known is None:
            logits[:, self.num_known_tokens :] = -torch.inf
            return
        for row, count in enumerate(known):
            logits[row, count:] = -torch.inf

    def _wanted(self, slot: int) -> int | None:
        params = self.sampling.params[slot]
        return None if params is None else params.logprobs

    def _prompt_logprobs(
        self, chunks: Sequence[Chunk], batch: Batch, hidden: Tensor
    ) -> dict[int, list[TokenLogprobs]]:
        """For each chunk of a prompt that is to be described: its next tokens."""
        found: dict[int, list[TokenLogprobs]] = {}
        for i, chunk in enumerate(chunks):
            params = self.sampling.params[chunk.slot]
            end = min(chunk.start + chunk.num_tokens, self.sampling.num_prompt[chunk.slot] - 1)
            if params is None or params.prompt_logprobs is None or end <= chunk.start:
                continue
            found[i] = self._describe_prompt(chunk, end, hidden[batch.order[i]], params)
        return found

    def _describe_prompt(
        self, chunk: Chunk, end: int, hidden: Tensor, params: SamplingParams
    ) -> list[TokenLogprobs]:
        """A chunk's next tokens, some rows at a time: logits of all would not fit."""
        described: list[TokenLogprobs] = []
        for first in range(chunk.start, end, PROMPT_LOGITS_ROWS):
            last = min(first + PROMPT_LOGITS_ROWS, end)
            rows = hidden[first - chunk.start : last - chunk.start]
            logits = self._logits(rows, [chunk.slot] * len(rows))
            following = self.slots.tokens[chunk.slot, first + 1 : last + 1]
            tokens = torch.from_numpy(following).to(self.device)
            described += describe(logits, tokens, [params.prompt_logprobs or 0] * len(following))
        return described


def _describe_some(
    logits: Tensor, tokens: Tensor, wanted: Sequence[int | None]
) -> dict[int, TokenLogprobs]:
    rows = [row for row, num in enumerate(wanted) if num is not None]
    if not rows:
        return {}
    described = describe(logits[rows], tokens[rows], [wanted[row] or 0 for row in rows])
    return dict(zip(rows, described, strict=True))
