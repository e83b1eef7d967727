"""Plots: that the figures hold the values they are given, under the right names; how they look was looked at."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchcut.benchmarks import drawing, plots
from matchcut.benchmarks.results import ObjectScores, Result

NAN = float("nan")


def one(sequence, number, j, f=None, frames=None):
    values = {"J": tuple(j)} | ({"F": tuple(f)} if f is not None else {})
    frames = tuple(f"{index:05d}" for index in range(1, len(j) + 1)) if frames is None else frames
    summary = {f"{name}-Mean": float(np.nanmean(each)) for name, each in values.items()}
    return ObjectScores(sequence, number, frames, values, summary | {"J-Recall": 0.5, "J-Decay": 0.1})


def result(*objects, summary=None, masks="/a/ours", curves=None):
    summary = {"J-Mean": 0.5, "F-Mean": 0.625} if summary is None else summary
    return Result("davis2017", "val", "", summary, objects, curves or {}, (), Path(masks), Path("/r"), 1.0, {})


def texts(figure):
    return [text.get_text() for text in figure.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars(panel):
    """By column, the row (from the top) and length of each bar."""
    return {
        group.get_label(): [(round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in group]
        for group in panel.containers
    }


# --- over time


def test_each_object_has_a_panel_with_its_values_over_its_frames():
    late = one("bus", 3, (0.25, 0.75), (0.5, 1.0), ("00020", "00025"))
    figure = plots.scores_over_time(
        [one("bus", 1, (0.1, NAN, 0.3), (0.4, 0.5, 0.6), ("00010", "00015", "00020")), late]
    )
    first, second = figure.axes
    assert [line.get_xdata().tolist() for line in first.lines] == [[10, 15, 20]] * 2
    assert [line.get_xdata().tolist() for line in second.lines] == [[20, 25]] * 2
    np.testing.assert_array_equal(first.lines[0].get_ydata(), (0.1, NAN, 0.3))
    np.testing.assert_array_equal(first.lines[1].get_ydata(), (0.4, 0.5, 0.6))
    np.testing.assert_array_equal(second.lines[0].get_ydata(), (0.25, 0.75))
    assert first.get_xlim() == second.get_xlim() == (10, 25) and first.get_ylim()[0] == 0
    assert first.get_title(loc="left") == "object 1   J 0.200   F 0.500"
    assert second.get_title(loc="left") == "object 3   J 0.500   F 0.750"
    assert "bus" in texts(figure) and legend(figure) == ["J", "F"]
    assert first.get_xlabel() == "frame (number in its name)" and first.get_ylabel() == "J, F (0 to 1)"


def test_an_object_has_the_colour_of_its_mask_and_a_measure_its_dash():
    figure = plots.scores_over_time([one("bus", number, (0.5, 0.5), (0.5, 0.5)) for number in (1, 2, 5)])
    colours = [{line.get_color() for line in panel.lines} for panel in figure.axes]
    assert colours == [{(128 / 255, 0, 0)}, {(0, 128 / 255, 0)}, {(128 / 255, 0, 128 / 255)}]
    assert all([line.get_linestyle() for line in panel.lines] == ["-", "--"] for panel in figure.axes)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 20])
def test_there_is_a_panel_an_object_and_none_overlap(count):
    figure = plots.scores_over_time([one("bus", number, (0.5, 0.6)) for number in range(1, count + 1)])
    boxes = [panel.get_position() for panel in figure.axes]
    assert len(boxes) == count
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_merged_objects_and_one_frame_can_be_drawn():
    figure = plots.scores_over_time([one("bus", "", (0.5,), (0.25,))])
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "J 0.500   F 0.250" and panel.lines[0].get_marker() == "."


def test_errors_have_a_scale_of_their_own_and_scores_the_whole():
    error = ObjectScores("bus", "", ("1", "2"), {"MAE": (0.01, 0.04)}, {"MAE": 0.025})
    (panel,) = plots.scores_over_time([error]).axes
    assert panel.get_ylim() == (0, pytest.approx(0.0408)) and panel.get_title(loc="left") == "MAE 0.025"
    (panel,) = plots.scores_over_time([one("bus", 1, (0.01, 0.04))]).axes
    assert panel.get_ylim() == (0, pytest.approx(1.02))


@pytest.mark.parametrize(
    ("frames", "expected", "said"),
    [
        ([["00005", "00010"]], [[5, 10]], "number"),
        ([["bear01_0021", "bear01_0041"], ["bear01_0041"]], [[21, 41], [41]], "number"),
        ([["a", "b"], ["b"]], [[0, 1], [1]], "index"),
        ([["7", "3"]], [[0, 1]], "index"),
    ],
)
def test_frames_stand_at_their_number_or_else_at_their_index(frames, expected, said):
    places, unit = plots.frame_numbers(frames)
    assert places == expected and said in unit


# --- bars


def test_bars_are_the_means_over_objects_worst_first():
    figure = plots.sequence_bars(
        result(
            one("good", 1, (0.9, 0.9), (0.8, 0.8)), one("bad", 1, (0.1, 0.1), (0.2, 0.2)), one("bad", 2, (0.3,), (0.6,))
        )
    )
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["bad", "good"]
    drawn = bars(panel)
    assert drawn["J-Mean"] == [(0, pytest.approx(0.2)), (1, pytest.approx(0.9))]
    assert drawn["F-Mean"] == [(0, pytest.approx(0.4)), (1, pytest.approx(0.8))]
    assert panel.yaxis_inverted() and panel.get_xlim()[0] == 0
    assert [text.get_text() for text in panel.texts] == ["0.200", "0.900", "0.400", "0.800"]
    assert legend(figure) == ["J-Mean 0.500", "F-Mean 0.625"]
    assert [line.get_xdata()[0] for line in panel.lines] == [0.5, 0.625]


def test_an_error_counts_against_and_a_missing_value_has_no_bar():
    objects = [ObjectScores(name, "", (), {}, {"MAE": value}) for name, value in (("a", 0.1), ("b", 0.4), ("c", NAN))]
    (panel,) = plots.sequence_bars(result(*objects, summary={"MAE": 0.25})).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["c", "b", "a"]
    assert bars(panel)["MAE"] == [(1, 0.4), (2, 0.1)]


def test_differences_are_first_less_second():
    ours = result(one("a", 1, (0.5,), (0.5,)), one("b", 1, (0.25,), (0.75,)), summary={"J-Mean": 0.375})
    theirs = result(
        one("a", 1, (0.25,), (0.25,)), one("b", 1, (0.5,), (0.75,)), summary={"J-Mean": 0.5}, masks="/b/theirs"
    )
    figure = plots.difference_bars(ours, theirs)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["b", "a"]
    assert bars(panel) == {"J-Mean": [(0, -0.25), (1, 0.25)], "F-Mean": [(0, 0), (1, 0.25)]}
    assert panel.get_xlabel() == "mean of ours less mean of theirs" and legend(figure) == ["J-Mean -0.125", "F-Mean"]
    low, high = panel.get_xlim()
    assert low == -high


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("/x/ours", "/x/theirs", ("ours", "theirs")),
        ("/r/a/masks", "/r/b/masks", ("a", "b")),
        ("/x", "/x", ("this", "other")),
    ],
)
def test_results_are_named_by_what_tells_their_folders_apart(a, b, names):
    assert plots.result_names(result(masks=a), result(masks=b)) == names


# --- precision and recall


def test_precision_stands_over_recall_and_the_greatest_f_is_marked():
    recall, precision = np.linspace(1, 0, 256), np.linspace(0.2, 1, 256)
    f = np.sin(np.linspace(0, np.pi, 256)) * 0.5
    f[100] = 0.75
    curves = {"precision": tuple(precision), "recall": tuple(recall), "f-measure": tuple(f)}
    left, right = plots.precision_recall(result(curves=curves)).axes
    np.testing.assert_array_equal(left.lines[0].get_xdata(), recall)
    np.testing.assert_array_equal(left.lines[0].get_ydata(), precision)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), f)
    assert (right.lines[1].get_xdata()[0], right.lines[1].get_ydata()[0]) == (100, 0.75)
    assert right.get_title(loc="left") == "F, its maximum 0.750 at threshold 100"
    assert (left.get_xlabel(), left.get_ylabel()) == ("recall (0 to 1)", "precision (0 to 1)")


# --- pictures, files, names


def test_a_sheet_shows_each_picture_in_its_place():
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in range(6)]
    rows = [plots.Comparison("first", tuple(pictures[:3])), plots.Comparison("second", tuple(pictures[3:]))]
    figure = plots.picture_sheet(("truth", "A", "B"), rows)
    shown = [panel.images[0].get_array()[0, 0, 0] for panel in figure.axes]
    assert shown == [0, 1, 2, 3, 4, 5]
    boxes = [panel.get_position() for panel in figure.axes]
    assert boxes[0].x0 < boxes[1].x0 < boxes[2].x0 and boxes[0].y0 > boxes[3].y0
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])
    assert texts(figure) == ["truth", "A", "B", "first", "second"]


def test_saving_twice_gives_the_same_bytes_whatever_the_names(tmp_path):
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        drawing.save(plots.scores_over_time([one("$x_1$ 犬", 1, (0.5, 0.6))]), path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("L").getextrema()[0] < 60  # something is drawn


def test_matplotlib_is_loaded_when_a_figure_is_drawn_and_pyplot_never():
    code = """
import sys
import matchcut.benchmarks.report, matchcut.benchmarks.submission
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
from matchcut.benchmarks import plots
from matchcut.benchmarks.results import ObjectScores
plots.scores_over_time([ObjectScores("a", 1, ("1", "2"), {"J": (0.0, 1.0)}, {})])
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
