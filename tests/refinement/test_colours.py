"""What colours say of pixels."""

import numpy as np
import pytest

from matchcut.refinement.colours import LIMIT, Colours, colours_of, log_odds_of, look_up

RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)


def scene(height: int = 80, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Red in blue, and green far off."""
    frame = np.full((height, width, 3), BLUE, np.uint8)
    frame[:, -20:] = GREEN
    labels = np.zeros((height, width), np.uint8)
    labels[20:60, 20:60] = 1
    frame[labels > 0] = RED
    return frame, labels


def odds(*seen: Colours | None) -> np.ndarray:
    found = log_odds_of(one for one in seen if one is not None)
    assert found is not None
    return found


def test_colours_speak_for_where_they_were() -> None:
    frame, labels = scene()
    said = look_up(odds(colours_of(frame, labels, [1])), frame)
    assert said.shape == labels.shape
    assert said[40, 40] == pytest.approx(LIMIT) and said[5, 5] == pytest.approx(-LIMIT)
    assert said[40, -5] == pytest.approx(0)  # too far to be among the surroundings


def test_log_odds_are_of_shares_not_of_counts() -> None:
    frame, labels = scene()
    frame[20:60, 40:60] = BLUE  # half of the object is as its surroundings, but for what is smoothed away
    found = colours_of(frame, labels, [1])
    assert found is not None
    assert found.inside.sum() == pytest.approx(1, abs=1e-4) and found.outside.sum() == pytest.approx(1, abs=1e-4)
    said = look_up(log_odds_of([found]), frame)  # type: ignore[arg-type]
    assert said[40, 50] == pytest.approx(np.log(0.5), abs=0.01)


def test_several_frames_count_alike() -> None:
    frame, labels = scene()
    other = frame.copy()
    other[labels > 0] = GREEN
    said = look_up(odds(colours_of(frame, labels, [1]), colours_of(other, labels, [1])), frame)
    assert said[40, 40] == pytest.approx(LIMIT) and said[40, -5] == pytest.approx(LIMIT)


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_is_known_without_an_object_or_without_surroundings(value: int) -> None:
    frame, labels = scene()
    assert colours_of(frame, np.full_like(labels, value), [1]) is None
    assert log_odds_of([]) is None


def test_ignored_pixels_are_neither_and_other_objects_are_surroundings() -> None:
    frame, labels = scene()
    frame[20:60, 60:70] = GREEN
    labels[20:60, 60:70] = 255
    said = look_up(odds(colours_of(frame, labels, [1])), frame)
    assert said[40, 65] == pytest.approx(0) and said[40, 40] == pytest.approx(LIMIT)
    labels[20:60, 60:70] = 2
    said = look_up(odds(colours_of(frame, labels, [1])), frame)
    assert said[40, 65] == pytest.approx(-LIMIT)
    assert look_up(odds(colours_of(frame, labels, [1, 2])), frame)[40, 65] == pytest.approx(LIMIT)
