"""What a benchmark measures, and the table it is told in: medians and spread over repetitions that were made in turn.

Machines are noisy, so a comparison is a ratio of two figures of the same repetition, never of two medians.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Repetition = Sequence["Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """`against`: the label of the figure of the same repetition that this one is to be compared with."""

    label: str
    value: float
    unit: str
    against: str | None = None


def percentiles(label: str, seconds: Sequence[float]) -> list[Figure]:
    """The middle, and what one in a hundred exceeds."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return [Figure(f"{label}, p{number}", cuts[number - 1] * 1000, "ms") for number in (50, 99)]


def table(title: str, repetitions: Sequence[Repetition]) -> str:
    """One line per figure; every repetition has the same figures in the same order."""
    by_label = {
        figure.label: [other.value for run in repetitions for other in run if other.label == figure.label] for figure in repetitions[0]
    }
    lines = [(title, "median", "min - max", "", "ratio")]
    lines += [_line(figure, by_label) for figure in repetitions[0]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths).rstrip() for line in lines)


def _line(figure: Figure, by_label: dict[str, list[float]]) -> tuple[str, str, str, str, str]:
    values = by_label[figure.label]
    return (figure.label, _told(median(values)), f"{_told(min(values))} - {_told(max(values))}", figure.unit, _ratio(figure, by_label))


def _ratio(figure: Figure, by_label: dict[str, list[float]]) -> str:
    if figure.against is None:
        return ""
    ratios = [value / other for value, other in zip(by_label[figure.label], by_label[figure.against], strict=True)]
    return f"{median(ratios):.2f} of {figure.against} ({min(ratios):.2f} - {max(ratios):.2f})"


def _aligned(line: tuple[str, ...], widths: Sequence[int]) -> str:
    label, middle, spread, unit, ratio = line
    return f"{label:{widths[0]}}  {middle:>{widths[1]}}  {spread:>{widths[2]}}  {unit:{widths[3]}}  {ratio}"


def _told(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
