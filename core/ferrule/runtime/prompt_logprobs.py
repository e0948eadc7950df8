"""The tokens of a step's prompts, each described by the logits in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ferrule.plan import Chunk
from ferrule.runtime.device_sampling import Described, DeviceSampling, describe
from ferrule.runtime.memory import PROMPT_LOGITS_ROWS
from ferrule.runtime.pending_tokens import described_to_host
from ferrule.runtime.slots import Slots

LogitsOf = Callable[[int, Tensor], Tensor]
"""Of a slot and the hidden states of some of its tokens, ``[rows, hidden_size]``."""


class PromptLogprobs:
    """Describes prompts where requests ask for it.

    Args:
        sampling: What each slot asks for.
        slots: Their tokens.
        logits: Of hidden states.
    """

    def __init__(self, sampling: DeviceSampling, slots: Slots, logits: LogitsOf) -> None:
        self._sampling = sampling
        self._slots = slots
        self._logits = logits

    def wants(self, chunk: Chunk) -> bool:
        """Whether a chunk has tokens of a prompt before others that are to be described."""
        is_wanted = self._num_wanted(chunk) is not None
        return is_wanted and chunk.start < self._sampling.num_prompt[chunk.slot] - 1

    def of(
        self, chunks: Sequence[Chunk], spans: Sequence[slice], hidden: Tensor
    ) -> dict[int, tuple[list[Described], int]]:
        """For each chunk that wants it, its next tokens and how many alternatives to report.

        Args:
            chunks: Of a step.
            spans: The rows of each.
            hidden: ``[rows, hidden_size]``.
        """
        found: dict[int, tuple[list[Described], int]] = {}
        for i, chunk in enumerate(chunks):
            wanted = self._num_wanted(chunk)
            if wanted is not None and self.wants(chunk):
                found[i] = (self._describe(chunk, hidden[spans[i]]), wanted)
        return found

    def _num_wanted(self, chunk: Chunk) -> int | None:
        params = self._sampling.params[chunk.slot]
        return None if params is None else params.prompt_logprobs

    def _describe(self, chunk: Chunk, hidden: Tensor) -> list[Described]:
        """A chunk's next tokens, some rows at a time: logits of all would not fit."""
        end = min(chunk.start + chunk.num_tokens, self._sampling.num_prompt[chunk.slot] - 1)
        parts: list[Described] = []
        for first in range(chunk.start, end, PROMPT_LOGITS_ROWS):
            last = min(first + PROMPT_LOGITS_ROWS, end)
            logits = self._logits(chunk.slot, hidden[first - chunk.start : last - chunk.start])
            following = self._slots.tokens[chunk.slot, first + 1 : last + 1]
            tokens = torch.from_numpy(following.copy()).to(hidden.device)
            parts.append(described_to_host(describe(logits, tokens)))
        return parts
