"""Plots of a report: scores over time, bars a sequence, precision and recall, and two results side by side.

Each function draws one matplotlib Figure and touches no global state. matplotlib is imported when a figure is drawn.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matchcut.benchmarks.drawing import COLOURS, GREY, bare, new_figure
from matchcut.benchmarks.results import ObjectScores, Result, row_measures
from matchcut.masks import davis_palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dash = Literal["-", "--", ":", "-."]

_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
_FEW = 40  # frames: up to here each gets a dot too
_LONGEST = 34  # characters of a name


class Comparison(NamedTuple):
    """One row of `picture_sheet`: what is shown, and the frame with each label map drawn on it."""

    title: str
    pictures: tuple[NDArray[np.uint8], ...]
    """RGB, uint8 (H, W, 3), all of one size."""


def scores_over_time(objects: Sequence[ObjectScores]) -> "Figure":
    """Every measure of one sequence over its frames: a panel an object, in the colour the object's mask has."""
    measures = list(dict.fromkeys(name for one in objects for name in one.values))
    places, unit = frame_numbers([one.frames for one in objects])
    first, last = min(map(min, places)), max(map(max, places))
    columns = 1 if len(objects) == 1 else 2 if len(objects) <= 4 else 3
    figure, panels = _grid(len(objects), columns, (7.5, 4.8, 3.9)[columns - 1], (2.6, 1.9, 1.7)[columns - 1])
    known = [value for one in objects for values in one.values.values() for value in values if math.isfinite(value)]
    errors = all("MAE" in measure for measure in measures)  # near 0, if all is well: shown at their own scale
    top = max([1e-3 if errors else 1.0, *known])
    for number, (panel, one) in enumerate(zip(panels, objects, strict=True)):
        colour = object_colour(one.object)
        for measure, dash in zip(measures, cycle(_DASHES), strict=False):
            if measure in one.values:
                (line,) = panel.plot(
                    places[number], one.values[measure], dash, color=colour, linewidth=1.4, label=measure
                )
                if len(one.frames) <= _FEW:
                    line.set(marker=".", markersize=4)
        panel.set_ylim(0, top * 1.02)
        panel.set_xlim(first, max(last, first + 1))
        panel.tick_params(labelbottom=number + columns >= len(objects), labelleft=number % columns == 0)
        panel.set_title(_panel_title(one, measures), fontsize=9, loc="left", color=GREY)
        if number % columns == 0:
            panel.set_ylabel(f"{', '.join(measures)} (0 to 1)" if top <= 1 else ", ".join(measures), fontsize=9)
        if number + columns >= len(objects):
            panel.set_xlabel(unit, fontsize=9)
    _heading(figure, objects[0].sequence or "all sequences")
    _legend(figure, [(measure, dash, GREY) for measure, dash in zip(measures, cycle(_DASHES), strict=False)])
    return figure


def sequence_bars(result: Result) -> "Figure":
    """The mean of each measure in each sequence (over its objects), worst first; a line at the global mean."""
    columns = row_measures(result)
    table = sequence_means(result.objects, columns)
    names = _worst_first(table, columns)
    figure, panel = _bars(names, columns, [table[name] for name in names])
    top = max([1.0, *(value for values in table.values() for value in values if value > 1)])
    panel.set_xlim(0, top * 1.08)
    panel.set_xlabel("mean over the sequence's objects and frames (0 to 1)" if top == 1 else "mean", fontsize=9)
    entries: list[tuple[str, Dash, str]] = []
    for column, colour in zip(columns, cycle(COLOURS), strict=False):
        overall = result.summary.get(column)
        if overall is not None and math.isfinite(overall):
            panel.axvline(overall, color=colour, linewidth=1.2, linestyle=":", zorder=1.5)
        entries.append((column + ("" if overall is None else f" {overall:.3f}"), "-", colour))
    _heading(figure, f"{result.benchmark} {result.split}: sequences")
    _legend(figure, entries, width=5)
    return figure


def precision_recall(result: Result) -> "Figure":
    """Precision against recall, and F against the threshold with its maximum, from the curves of a saliency result."""
    figure, (left, right) = _grid(2, 2, 3.7, 3.3)
    curves = result.curves
    left.plot(curves["recall"], curves["precision"], color=COLOURS[0], linewidth=1.6)
    for panel, across, up in ((left, "recall (0 to 1)", "precision (0 to 1)"), (right, "threshold (0 to 255)", "F")):
        panel.set_ylim(0, 1.02)
        panel.set_xlabel(across, fontsize=9)
        panel.set_ylabel(up, fontsize=9)
    left.set_xlim(0, 1.02)
    left.set_title("precision and recall", fontsize=9, loc="left", color=GREY)
    f = np.asarray(curves["f-measure"])
    best = int(np.nanargmax(f))
    right.plot(np.arange(f.size), f, color=COLOURS[0], linewidth=1.6)
    right.plot([best], [f[best]], "o", color=COLOURS[5], markersize=5)
    right.set_title(f"F, its maximum {f[best]:.3f} at threshold {best}", fontsize=9, loc="left", color=GREY)
    right.set_xlim(0, f.size - 1)
    right.set_xticks([0, 64, 128, 192, 255])
    right.set_ylabel("F, beta² = 0.3 (0 to 1)", fontsize=9)
    _heading(figure, f"{result.benchmark} {result.split}")
    return figure


def difference_bars(first: Result, second: Result) -> "Figure":
    """The mean of each measure in each sequence, the first result's less the second's, from loss to gain."""
    columns = row_measures(first)
    ours, theirs = (sequence_means(one.objects, columns) for one in (first, second))
    table = {name: [a - b for a, b in zip(ours[name], theirs[name], strict=True)] for name in ours}
    names = _worst_first(table, columns)
    figure, panel = _bars(names, columns, [table[name] for name in names], signed=True)
    finite = [abs(value) for values in table.values() for value in values if math.isfinite(value)]
    reach = max([0.01, *finite]) * 1.25
    panel.set_xlim(-reach, reach)
    panel.axvline(0, color=GREY, linewidth=0.8, zorder=3)
    a, b = result_names(first, second)
    panel.set_xlabel(f"mean of {plain(a)} less mean of {plain(b)}", fontsize=9)
    entries: list[tuple[str, Dash, str]] = []
    for column, colour in zip(columns, cycle(COLOURS), strict=False):
        overall = first.summary.get(column, math.nan) - second.summary.get(column, math.nan)
        entries.append((column + (f" {overall:+.3f}" if math.isfinite(overall) else ""), "-", colour))
    _heading(figure, f"{first.benchmark} {first.split}: {a} against {b}")
    _legend(figure, entries, width=5)
    return figure


def picture_sheet(heads: Sequence[str], rows: Sequence[Comparison]) -> "Figure":
    """Frames under column heads, a row a frame: the truth and two results, say."""
    wide, gap, title, head = 3.4, 0.05, 0.3, 0.3  # inches
    tall = [wide * row.pictures[0].shape[0] / row.pictures[0].shape[1] for row in rows]
    size = (len(heads) * (wide + gap) + gap, head + sum(tall) + len(rows) * (title + gap))
    figure = new_figure(*size)
    top = size[1] - head
    for column, text in enumerate(heads):
        x = gap + column * (wide + gap)
        figure.text(x / size[0], 1 - 0.2 / size[1], plain(text), fontsize=10, weight="bold", color=GREY)
    for row, height in zip(rows, tall, strict=True):
        figure.text(gap / size[0], (top - 0.2) / size[1], plain(row.title), fontsize=9, color=GREY)
        for column, picture in enumerate(row.pictures):
            x, y = gap + column * (wide + gap), top - title - height
            panel = figure.add_axes((x / size[0], y / size[1], wide / size[0], height / size[1]))
            panel.imshow(picture, interpolation="antialiased", aspect="auto")
            panel.set_axis_off()
        top -= title + height + gap
    return figure


def frame_numbers(objects: Sequence[Sequence[str]]) -> tuple[list[list[int]], str]:
    """Positions of the frames of each object on the x axis, and the label of the axis.

    That is the last number in a frame's name; if that does not rise, or there is none, the index of all frames' names.
    """
    found = [[re.findall(r"[0-9]+", name)[-1:] for name in names] for names in objects]
    numbers = [[int(digits[0]) if digits else -1 for digits in one] for one in found]
    if all(a < b for one in numbers for a, b in pairwise([-1, *one])):
        return numbers, "frame (number in its name)"
    order = {name: index for index, name in enumerate(dict.fromkeys(name for names in objects for name in names))}
    return [[order[name] for name in names] for names in objects], "scored frame (index)"


def sequence_means(objects: Sequence[ObjectScores], columns: Sequence[str]) -> dict[str, list[float]]:
    """By sequence, each column's mean over its objects; NaN where none has it."""
    table: dict[str, list[float]] = {}
    for name in dict.fromkeys(one.sequence for one in objects):
        table[name] = []
        for column in columns:
            values = [one.summary.get(column, math.nan) for one in objects if one.sequence == name]
            known = [value for value in values if not math.isnan(value)]
            table[name].append(float(np.mean(known)) if known else math.nan)
    return table


def result_names(first: Result, second: Result) -> tuple[str, str]:
    """Names for two results: the last part in which the paths of their masks differ."""
    a, b = first.masks.absolute().parts, second.masks.absolute().parts
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            return _cut(one), _cut(other)
    return "this", "other"


def object_colour(number: int | str) -> tuple[float, float, float]:
    """The colour of an object's mask in the DAVIS palette, each of RGB in [0, 1]; merged objects have that of id 1."""
    row = davis_palette()[number if isinstance(number, int) and 0 < number < 255 else 1] / 255
    return float(row[0]), float(row[1]), float(row[2])


def plain(text: str) -> str:
    """A text that matplotlib takes as it is, without reading $ as mathematics."""
    return text.replace("$", r"\$")


def _grid(count: int, columns: int, width: float, height: float) -> tuple["Figure", list["Axes"]]:
    """Panels of a size in inches, row by row, with room for a heading and labels; laid out by hand, which is fast."""
    rows = math.ceil(count / columns)
    left, right, top, bottom, across, down = 0.65, 0.2, 0.9, 0.55, 0.65 if width < height * 1.5 else 0.3, 0.4
    size = (left + right + columns * width + (columns - 1) * across, top + bottom + rows * height + (rows - 1) * down)
    figure = new_figure(*size)
    panels = []
    for number in range(count):
        x = left + number % columns * (width + across)
        y = size[1] - top - height - number // columns * (height + down)
        panels.append(figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1])))
        bare(panels[-1])
    return figure, panels


def _bars(
    names: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[float]], *, signed: bool = False
) -> tuple["Figure", "Axes"]:
    """Horizontal bars, a group a name from the top, each with its value beside it."""
    thick = 0.8 / max(1, len(columns))
    left, right, top, bottom = 0.5 + 0.075 * max(len(_cut(name)) for name in names), 0.2, 0.7, 0.55
    width, height = 5.0, max(0.6, len(names) * (0.1 + 0.15 * len(columns)))
    size = (left + width + right, top + height + bottom)
    figure = new_figure(*size)
    panel = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    bare(panel)
    panel.grid(axis="y", visible=False)
    values = np.asarray(rows, np.float64)  # (names, columns)
    for number, (column, colour) in enumerate(zip(columns, cycle(COLOURS), strict=False)):
        places = np.arange(len(names)) + (number - (len(columns) - 1) / 2) * thick
        known = np.isfinite(values[:, number])
        drawn = panel.barh(places[known], values[known, number], thick * 0.92, color=colour, label=column, zorder=2)
        form = "{:+.3f}" if signed else "{:.3f}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        panel.bar_label(drawn, fmt=form, fontsize=7, padding=2, color=GREY, bbox=box)
    panel.set_yticks(range(len(names)), [plain(_cut(name)) or "all" for name in names], fontsize=9)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    return figure, panel


def _heading(figure: "Figure", text: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.25 / height, plain(text), fontsize=11, weight="bold", color="black")


def _legend(figure: "Figure", entries: Sequence[tuple[str, Dash, str]], width: float = 1.6) -> None:
    """Label, line style and colour of each, under the heading."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle=dash, color=colour, linewidth=width) for _, dash, colour in entries]
    height = figure.get_size_inches()[1]
    figure.legend(
        handles,
        [plain(label) for label, _, _ in entries],
        loc="upper left",
        bbox_to_anchor=(0, 1 - 0.3 / height),
        ncols=len(entries),
        frameon=False,
        fontsize=9,
        handlelength=2.2 if width < 3 else 1,
    )


def _panel_title(one: ObjectScores, measures: Sequence[str]) -> str:
    means = [(name, one.summary.get(f"{name}-Mean", one.summary.get(name))) for name in measures]
    who = f"object {one.object}" if isinstance(one.object, int) else _cut(one.object)
    return plain("   ".join([who, *(f"{name} {mean:.3f}" for name, mean in means if mean is not None)]).strip())


def _worst_first(table: Mapping[str, Sequence[float]], columns: Sequence[str]) -> list[str]:
    """The sequences by the mean of their values; an error counts against, and one without a value comes first."""
    signs = np.array([-1 if "MAE" in column else 1 for column in columns])
    return sorted(table, key=lambda name: np.nan_to_num(np.mean(signs * table[name]), nan=-np.inf))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
