"""Shows how far a start is: live on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from ferrule.cli.console import stderr
from ferrule.engine.messages import Progress as Stage

# A long stage writes a plain line this often.
_LINE_SECONDS = 5.0


class Display(Protocol):
    """Where the stages of a start are shown, one after another."""

    def report(self, stage: Stage) -> None:
        """Takes what goes on now; another name than before begins another stage."""
        ...

    def say(self, text: str, *, style: str = "") -> None:
        """Writes a line that stays."""
        ...

    def close(self) -> None:
        """Ends the last stage; later ones are not shown."""
        ...


@contextmanager
def start_display(*, is_transient: bool = False) -> Generator[Display]:
    """A display on stderr, closed at the end.

    Args:
        is_transient: On a terminal, wipe the stages off when they are over.
    """
    console = stderr()
    display = (
        LiveDisplay(console, is_transient=is_transient)
        if console.is_terminal
        else LineDisplay(console)
    )
    try:
        yield display
    finally:
        display.close()


class LiveDisplay:
    """A line for each stage that changes in place.

    Args:
        console: A terminal.
        is_transient: Wipe the lines off when it is closed.
    """

    def __init__(self, console: Console, *, is_transient: bool = False) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            _Seconds(),
            _Detail(),
            console=console,
            transient=is_transient,
        )
        self._stage = ""
        self._task: TaskID | None = None
        self._is_closed = False

    def report(self, stage: Stage) -> None:
        """Takes what goes on now; another name than before begins another stage."""
        if self._is_closed:
            return
        if self._task is None or stage.stage != self._stage:
            self._finish_stage()
            self._progress.start()
            self._stage = stage.stage
            self._task = self._progress.add_task(stage.stage, total=None, detail="", has_bar=False)
        if stage.fraction is not None:
            self._progress.update(self._task, total=1.0, completed=stage.fraction, has_bar=True)
        self._progress.update(self._task, detail=stage.detail)

    def say(self, text: str, *, style: str = "") -> None:
        """Writes a line that stays, above the stages."""
        self._progress.console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        """Ends the last stage; later ones are not shown."""
        self._is_closed = True
        self._finish_stage()
        self._progress.stop()

    def _finish_stage(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)
            self._task = None


class LineDisplay:
    """A line for each stage, and more of them while one takes long; made for log files.

    Args:
        console: Any stream.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin = time.monotonic()
        self._stage = ""
        self._said = ""
        self._due = 0.0
        self._is_closed = False

    def report(self, stage: Stage) -> None:
        """Takes what goes on now; another name than before begins another stage."""
        now = time.monotonic()
        is_same = stage.stage == self._stage and stage.fraction != 1
        if self._is_closed or (is_same and now < self._due):
            return
        self._stage, self._due = stage.stage, now + _LINE_SECONDS
        text = f"{stage.stage}: {stage.detail}" if stage.detail else stage.stage
        if text != self._said:
            self._said = text
            self.say(f"{now - self._begin:6.1f} s  {text}")

    def say(self, text: str, *, style: str = "") -> None:
        """Writes a line."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        """Later stages are not shown."""
        self._is_closed = True


class _Seconds(ProgressColumn):
    """How long a stage has taken."""

    def render(self, task: Task) -> RenderableType:
        seconds = task.finished_time or task.elapsed or 0
        return Text(f"{seconds:.1f} s", style="dim", justify="right")


class _Detail(ProgressColumn):
    """Sizes or names, behind a bar where a stage knows how much of it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = BarColumn(bar_width=24)

    def render(self, task: Task) -> RenderableType:
        detail = Text(task.fields["detail"], style="dim")
        if not task.fields["has_bar"]:
            return detail
        row = Table.grid(padding=(0, 1))
        row.add_row(self._bar.render(task), detail)
        return row
