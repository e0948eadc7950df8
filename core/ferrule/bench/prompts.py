"""Prompts of a workload, the same for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ferrule.bench.dataset import read_conversations
from ferrule.bench.workload import (
    SHAREGPT_INPUT,
    SHAREGPT_MAX,
    SHAREGPT_MIN,
    SHAREGPT_OUTPUT,
    Dataset,
    FixedLengths,
    ShareGptLengths,
    Workload,
)
from ferrule.errors import OptionError

Lengths = Callable[[random.Random], tuple[int, int]]

# Special tokens are often the first ids of a vocabulary.
_NUM_LEFT_OUT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What to continue, and by how many tokens.

    Attributes:
        text: Token ids or a text.
        max_tokens: How many tokens to generate.
    """

    text: list[int] | str
    max_tokens: int


class Prompts(Protocol):
    """An endless sequence of prompts."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the prompts that were taken."""
        ...

    def take(self, num: int) -> list[Prompt]:
        """The next ones; none is given twice, so that a prefix cache has not seen them."""
        ...


def open_prompts(workload: Workload, seed: int) -> Prompts:
    """The prompts of a workload.

    Args:
        workload: Their kind.
        seed: Another one gives other prompts.

    Raises:
        OptionError: The workload cannot be drawn, or its file cannot be read.
    """
    match workload:
        case FixedLengths(input_len=input_len, output_len=output_len):
            if workload.shared_prefix > input_len:
                raise OptionError(
                    f"--shared-prefix is {workload.shared_prefix} and --input-len {input_len}: "
                    "the prefix is a part of the prompt"
                )
            return TokenPrompts(workload, lambda _: (input_len, output_len), seed)
        case ShareGptLengths():
            return TokenPrompts(workload, _sharegpt_lengths, seed)
        case Dataset():
            return DatasetPrompts(workload, seed)


class TokenPrompts:
    """Random token ids.

    Args:
        workload: Tells prefix and vocabulary.
        lengths: Draws how many tokens go in and come out.
        seed: Of the draws.
    """

    def __init__(
        self, workload: FixedLengths | ShareGptLengths, lengths: Lengths, seed: int
    ) -> None:
        self._rng = random.Random(seed)
        self._lengths = lengths
        self._ids = range(min(_NUM_LEFT_OUT, workload.vocab // 2), workload.vocab)
        self._prefix = self._draw(workload.shared_prefix)

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is to be known of them."""
        return ()

    def take(self, num: int) -> list[Prompt]:
        """The next ones."""
        return [self._one() for _ in range(num)]

    def _one(self) -> Prompt:
        num_in, num_out = self._lengths(self._rng)
        prefix = self._prefix[:num_in]
        return Prompt(text=prefix + self._draw(num_in - len(prefix)), max_tokens=num_out)

    def _draw(self, num: int) -> list[int]:
        return self._rng.choices(self._ids, k=num)


class DatasetPrompts:
    """The conversations of a file, in an order of the seed's.

    Args:
        dataset: The file.
        seed: Of the order.

    Raises:
        OptionError: The file cannot be read, or holds no conversation of use.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._file = read_conversations(dataset.file)
        self._output_len = dataset.output_len
        self._order = list(self._file.conversations)
        random.Random(seed).shuffle(self._order)
        self._num_taken = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether the file is whole, and whether it was large enough."""
        num = len(self._order)
        if self._num_taken <= num:
            return self._file.notes
        repeated = f"{self._num_taken} requests took their prompts from {num}, some several times"
        return (*self._file.notes, repeated)

    def take(self, num: int) -> list[Prompt]:
        """The next ones; the file begins again after its end."""
        start = self._num_taken
        self._num_taken += num
        chosen = [self._order[i % len(self._order)] for i in range(start, start + num)]
        return [
            Prompt(text=each.question, max_tokens=self._output_len or each.output_len)
            for each in chosen
        ]


def _sharegpt_lengths(rng: random.Random) -> tuple[int, int]:
    return _log_normal(rng, *SHAREGPT_INPUT), _log_normal(rng, *SHAREGPT_OUTPUT)


def _log_normal(rng: random.Random, median: float, sigma: float) -> int:
    drawn = round(rng.lognormvariate(math.log(median), sigma))
    return min(max(drawn, SHAREGPT_MIN), SHAREGPT_MAX)
