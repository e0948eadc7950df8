"""Reads conversations in ShareGPT's format."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrule.bench.workload import SHAREGPT_MAX, SHAREGPT_MIN
from ferrule.errors import OptionError

# Tokens are not counted, because that would need the server's tokenizer: English has about 1.3 of
# them to a word.
_TOKENS_PER_WORD = 1.3
_PEOPLE = ("human", "user")
_NOT_ANSWERS = (*_PEOPLE, "system")
_BETWEEN = " \t\r\n,"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A question, and about how many tokens its answer has."""

    question: str
    output_len: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFile:
    """What a file holds.

    Attributes:
        conversations: Those of use.
        notes: What is wrong with the file.
    """

    conversations: tuple[Conversation, ...]
    notes: tuple[str, ...]


def read_conversations(file: str) -> DatasetFile:
    """The first question of each conversation and the length of its answer.

    As vLLM's benchmark does, it leaves out what is shorter than 4 tokens, prompts above 1024, and
    pairs above 2048.

    Args:
        file: A JSON list of ``{"conversations": [{"from": "human", "value": "..."}, ...]}``. It
            may end anywhere, as a file that is going round does; what is whole is read.

    Raises:
        OptionError: It cannot be read, or holds no conversation of use.
    """
    text = _read(file)
    start = len(text) - len(text.lstrip("\ufeff" + _BETWEEN))
    if not text.startswith("[", start):
        raise OptionError(_not_sharegpt(file, "it does not begin with a list"))
    objects = _Objects(text, start + 1)
    found = [one for each in objects for one in _conversation(each)]
    if not found:
        raise OptionError(_not_sharegpt(file, "no conversation of use is in it"))
    note = f"{file} is cut off or broken after {objects.num} conversations; these are used"
    return DatasetFile(conversations=tuple(found), notes=(note,) if objects.is_cut else ())


def _read(file: str) -> str:
    try:
        # A file may be cut within a character.
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise OptionError(f"--dataset {file} cannot be read: {error.strerror}") from error


def _not_sharegpt(file: str, reason: str) -> str:
    return (
        f"--dataset {file} is not in ShareGPT's format: {reason}; expected a JSON list of "
        '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'
    )


class _Objects:
    """The objects of a JSON list, one by one up to its end or the file's."""

    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position
        self.num = 0
        self.is_cut = False

    def __iter__(self) -> Iterator[Any]:
        decoder = json.JSONDecoder()
        while True:
            self._skip()
            if self._text.startswith("]", self._position):
                return
            try:
                each, self._position = decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError:
                self.is_cut = True
                return
            self.num += 1
            yield each

    def _skip(self) -> None:
        while self._text[self._position : self._position + 1] in (*_BETWEEN,):
            self._position += 1


def _conversation(item: Any) -> Iterator[Conversation]:
    """One, or none where it is of no use."""
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list):
        return
    for question, answer in itertools.pairwise(turns):
        if _speaker(question) in _PEOPLE:
            if _speaker(answer) not in _NOT_ANSWERS:
                yield from _of_use(question.get("value"), answer.get("value"))
            return


def _speaker(turn: Any) -> str:
    return str(turn.get("from", "system")) if isinstance(turn, dict) else "system"


def _of_use(question: Any, answer: Any) -> Iterator[Conversation]:
    num_in, num_out = _num_tokens(question), _num_tokens(answer)
    if min(num_in, num_out) < SHAREGPT_MIN:
        return
    if num_in <= SHAREGPT_MAX and num_in + num_out <= 2 * SHAREGPT_MAX:
        yield Conversation(question=question, output_len=num_out)


def _num_tokens(text: Any) -> int:
    return round(len(text.split()) * _TOKENS_PER_WORD) if isinstance(text, str) else 0
