"""A line chart as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 44, 44, 42
_NUM_TICKS = 5
# Labels at the ends of lines keep this far from each other.
_LABEL_GAP = 13
_TICK_GAP = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        label: Stands at its end.
        values: One for each place on the x axis; None leaves a gap.
    """

    label: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over one axis.

    Attributes:
        title: What is drawn, with its unit.
        x_label: What the x axis has.
        xs: Ascending, each above 0.
        is_log: Whether each doubling takes the same room on the x axis.
        lines: At most three.
    """

    title: str
    x_label: str
    xs: Sequence[float]
    is_log: bool
    lines: Sequence[Line]

    def svg(self) -> str:
        """The drawing; colours come from the page's style, classes ``s0`` to ``s2``."""
        head = (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{html.escape(self.title)}">'
        )
        parts = [*self._frame(), *self._curves(), *self._labels()]
        return "\n".join((head, *parts, "</svg>"))

    def _frame(self) -> Iterator[str]:
        yield _text(0, 20, self.title, "title", "start")
        for tick in self._ticks():
            y = self._y(tick)
            yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:,g}", "tick", "end")
        bottom = _HEIGHT - _BOTTOM
        taken = -math.inf
        for x in self.xs:
            # Where places crowd, the first of them keeps its number.
            if self._x(x) - taken >= _TICK_GAP:
                taken = self._x(x)
                yield _text(taken, bottom + 17, f"{x:g}", "tick", "middle")
        yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, self.x_label, "tick", "middle")

    def _curves(self) -> Iterator[str]:
        for number, line in enumerate(self.lines):
            known = self._known(line)
            places = " ".join(f"{self._x(x)},{self._y(y)}" for x, y in known)
            yield f'<polyline class="line s{number}" points="{places}"/>'
            for x, y in known:
                told = html.escape(f"{self.x_label} {x:g}: {line.label} {y:.4g}")
                yield (
                    f'<circle class="dot s{number}" cx="{self._x(x)}" cy="{self._y(y)}" r="3.5">'
                    f"<title>{told}</title></circle>"
                )

    def _labels(self) -> Iterator[str]:
        """Names at the lines' ends, moved apart where they would cover each other."""
        ends = [
            (self._y(known[-1][1]), self._x(known[-1][0]), line.label, number)
            for number, line in enumerate(self.lines)
            if (known := self._known(line))
        ]
        # From the bottom upwards: the lowest keeps its place.
        free = math.inf
        for y, x, label, number in sorted(ends, reverse=True):
            free = min(y, free)
            yield _text(x + 14, free + 4, label, f"label s{number}", "start")
            free -= _LABEL_GAP

    def _known(self, line: Line) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.xs, line.values, strict=True) if y is not None]

    def _x(self, value: float) -> float:
        first, last = self._scaled(self.xs[0]), self._scaled(self.xs[-1])
        share = (self._scaled(value) - first) / (last - first) if last > first else 0.5
        # Dots keep clear of the axis.
        return round(_LEFT + 14 + share * (_WIDTH - _LEFT - _RIGHT - 22), 1)

    def _scaled(self, x: float) -> float:
        return math.log2(x) if self.is_log else x

    def _y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self._top() * (_HEIGHT - _TOP - _BOTTOM), 1)

    def _ticks(self) -> list[float]:
        step = self._step()
        return [step * i for i in range(round(self._top() / step) + 1)]

    def _top(self) -> float:
        return math.ceil(self._highest() / self._step()) * self._step()

    def _step(self) -> float:
        """1, 2 or 5 times a power of ten, so that there are about five of them."""
        raw = self._highest() / _NUM_TICKS
        power = 10 ** math.floor(math.log10(raw))
        return next(each * power for each in (1, 2, 5, 10) if each * power >= raw)

    def _highest(self) -> float:
        return max((y for line in self.lines for y in line.values if y), default=1.0)


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    place = f'x="{round(x, 1)}" y="{round(y, 1)}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{html.escape(text)}</text>'
