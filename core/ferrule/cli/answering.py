"""Loads a model into this process and streams an answer to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from ferrule.cli.console import stderr
from ferrule.cli.progress import start_display
from ferrule.engine.options import EngineOptions
from ferrule.frontend.completion import Delta
from ferrule.llm import LLM


def load(options: EngineOptions, *, chat_template: Path | None = None) -> LLM:
    """Loads a model and shows how far it is.

    Args:
        options: Of the engine.
        chat_template: A file that overrules the checkpoint's own template.

    Raises:
        FerruleError: The model cannot be run.
    """
    fields = msgspec.structs.asdict(options)
    model = fields.pop("model")
    with start_display(is_transient=True) as display:
        return LLM(model, chat_template=chat_template, report=display.report, **fields)


def answer(llm: LLM, prompt: str, sampling: dict[str, Any], *, is_raw: bool = False) -> None:
    """Streams one answer to stdout, then writes a line of figures to stderr.

    Args:
        llm: Where it runs.
        prompt: A user's message where there is a chat template, else the beginning of a text.
        sampling: What to change in the model's own sampling parameters.
        is_raw: Leave the chat template out.

    Raises:
        RequestError: A parameter is out of range, or the prompt does not fit.
    """
    params = msgspec.structs.replace(llm.model.sampling, **sampling)
    is_chat = llm.model.template is not None and not is_raw
    messages = [{"role": "user", "content": prompt}]
    pace = _Pace()
    last = ""
    for delta in pace.watch(llm.stream(messages if is_chat else prompt, params)):
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        last = delta.text or last
    if not last.endswith("\n"):
        sys.stdout.write("\n")
        sys.stdout.flush()
    stderr().print(Text(pace.figures(), style="dim"), soft_wrap=True)


class _Pace:
    """How fast an answer comes."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._first = self._last = self._begin
        self._num_tokens = 0
        self._is_cut = False

    def watch(self, deltas: Iterator[Delta]) -> Iterator[Delta]:
        """Passes deltas on and takes their time."""
        for delta in deltas:
            self._last = time.perf_counter()
            if not self._num_tokens:
                self._first = self._last
            self._num_tokens += len(delta.tokens)
            self._is_cut = delta.finish_reason == "length"
            yield delta

    def figures(self) -> str:
        """Tokens and seconds, in a line."""
        text = f"{self._num_tokens} tokens, the first after {self._first - self._begin:.2f} s"
        if self._num_tokens > 1:
            rate = (self._num_tokens - 1) / (self._last - self._first)
            text += f", then {rate:.1f} a second"
        return text + ("; cut by the limit on its length" if self._is_cut else "")
