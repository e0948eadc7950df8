"""A launched step's tokens on their way to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ferrule.plan import StepResult, TokenLogprobs
from ferrule.runtime.device_sampling import Described


@dataclass(kw_only=True, slots=True)
class PendingTokens:
    """What a step gave, once the device is so far.

    Attributes:
        tokens: ``[samples]`` int64 on the host, pinned; valid after the event.
        event: Recorded behind the copies; None: everything is on the host already.
        described: Of the samples, copied in the same way.
        wanted: By index into the samples: how many alternatives to report.
        prompts: By index into the plan's chunks: its descriptions, in parts, and how many
            alternatives to report.
    """

    tokens: Tensor
    event: torch.cuda.Event | None
    described: Described | None = None
    wanted: Mapping[int, int] = field(default_factory=dict[int, int])
    prompts: Mapping[int, tuple[Sequence[Described], int]] = field(
        default_factory=dict[int, tuple[Sequence[Described], int]]
    )

    def result(self) -> StepResult:
        """Waits for the device."""
        if self.event is not None:
            self.event.synchronize()
        logprobs: dict[int, TokenLogprobs] = {}
        if self.described is not None and self.wanted:
            rows = list(self.wanted)
            entries = entries_of(self.described, rows, [self.wanted[row] for row in rows])
            logprobs = dict(zip(rows, entries, strict=True))
        return StepResult(
            tokens=self.tokens.tolist(),
            logprobs=logprobs,
            prompt_logprobs={
                index: [
                    entry
                    for part in parts
                    for entry in entries_of(part, range(len(part.ranks)), [num] * len(part.ranks))
                ]
                for index, (parts, num) in self.prompts.items()
            },
        )


def to_host(tensor: Tensor) -> Tensor:
    """Begins a copy into pinned memory; on the host it is the tensor itself."""
    return tensor.to("cpu", non_blocking=True) if tensor.is_cuda else tensor.clone()


def described_to_host(described: Described) -> Described:
    """The same for descriptions."""
    return Described(
        logprobs=to_host(described.logprobs),
        ranks=to_host(described.ranks),
        top_ids=to_host(described.top_ids),
        top_logprobs=to_host(described.top_logprobs),
    )


def entries_of(
    described: Described, rows: Sequence[int], nums: Sequence[int]
) -> list[TokenLogprobs]:
    """Rows of a description on the host; each with as many alternatives as asked for."""
    index = list(rows)
    columns = zip(
        described.logprobs[index].tolist(),
        described.ranks[index].tolist(),
        described.top_ids[index].tolist(),
        described.top_logprobs[index].tolist(),
        nums,
        strict=True,
    )
    return [
        TokenLogprobs(logprob, rank, tuple(ids[:num]), tuple(values[:num]))
        for logprob, rank, ids, values, num in columns
    ]
