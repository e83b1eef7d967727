"""Helpers for all matplotlib figures: colours, axes, saving. matplotlib is imported when a figure is drawn."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from matchcut.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's, for any eye
GREY, LIGHT = "#444444", "#dddddd"
_DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """An empty white figure, width and height in inches; it is not known to pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def bare(panel: "Axes") -> None:
    """Take from a panel all that is not needed: a light grid, no frame above and to the right."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(LIGHT)
    panel.grid(color=LIGHT, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8, color=LIGHT, labelcolor=GREY)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, all of it or nothing.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(temporary, dpi=_DPI, format="png", metadata={"Software": None})
