"""Learning curves as shapes of an inline SVG: told apart by dash and mark, not by colour alone."""

from __future__ import annotations

from typing import NamedTuple

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 26
_STYLES = (("a", ""), ("b", "7 4"), ("c", "2 3"))
_MOST_MARKS = 25
_TICKS = 5
_LARGEST = 1e300  # differences of larger values may be infinite


def can_be_drawn(value: float) -> bool:
    """Whether a value is a number, and not beyond all measure."""
    return abs(value) <= _LARGEST


class Line(NamedTuple):
    """One metric.

    Attributes:
        name: In the legend.
        points: Round and value, in the order of rounds; at least one.
    """

    name: str
    points: tuple[tuple[float, float], ...]


class Drawn(NamedTuple):
    """A line as it is drawn.

    Attributes:
        name: In the legend.
        style: Letter that colour and mark go by.
        dash: Of the stroke; empty for none.
        path: `M x y L x y ...`.
        marks: Where its marks stand; none where they would be a band.
        last: Its last value.
    """

    name: str
    style: str
    dash: str
    path: str
    marks: tuple[tuple[float, float], ...]
    last: float


class Tick(NamedTuple):
    """A number at an axis, and where."""

    at: float
    text: str


class Chart(NamedTuple):
    """Lines on one pair of axes.

    Attributes:
        title: Above it.
        lines: At most three.
        bounds: Of the values that can be drawn.
    """

    title: str
    lines: tuple[Line, ...]
    bounds: tuple[float, float]

    @property
    def words(self) -> str:
        """The same in words, for whoever does not see it."""
        return "; ".join(
            f"{line.name} {line.points[0][1]:.3f} at first, {line.points[-1][1]:.3f} now"
            for line in self.lines
        )

    @property
    def drawn(self) -> list[Drawn]:
        """Each line."""
        found = []
        for line, (style, dash) in zip(self.lines, _STYLES, strict=False):
            points = tuple(
                (round(self._x(x), 1), round(self._y(y), 1))
                for x, y in line.points
                if can_be_drawn(y)
            )
            path = " L ".join(f"{x} {y}" for x, y in points)
            marks = points if len(points) <= _MOST_MARKS else ()
            found.append(Drawn(line.name, style, dash, f"M {path}", marks, line.points[-1][1]))
        return [line for line in found if line.path != "M "]

    @property
    def across(self) -> list[Tick]:
        """Rounds, whole ones."""
        most = int(self._rounds)
        step = max(1, -(-most // _TICKS))
        return [Tick(round(self._x(r), 1), str(r)) for r in range(0, most + 1, step)]

    @property
    def up(self) -> list[Tick]:
        """Values."""
        low, high = self._values
        middle = (low + high) / 2
        return [Tick(round(self._y(v), 1), f"{v:.3g}") for v in (low, middle, high)]

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the axes."""
        return _LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM

    @property
    def _rounds(self) -> float:
        return max((x for line in self.lines for x, _ in line.points), default=0.0)

    @property
    def _values(self) -> tuple[float, float]:
        low, high = self.bounds
        wide = max(0.5, abs(low) * 1e-3)  # half of one would be lost beside a large value
        return (low, high) if high > low else (low - wide, low + wide)

    def _x(self, value: float) -> float:
        left, _, right, _ = self.frame
        return left + (right - left) * value / max(self._rounds, 1.0)

    def _y(self, value: float) -> float:
        _, top, _, bottom = self.frame
        low, high = self._values
        return bottom - (bottom - top) * (value - low) / (high - low)
