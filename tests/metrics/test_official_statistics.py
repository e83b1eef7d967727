"""Means, recalls and decays of real sequences are those of the official code; the numbers stand in a file here."""

import json
from pathlib import Path

import pytest

from matchcut.metrics import mean_recall_decay

OFFICIAL = json.loads(Path(__file__).with_name("official_scores.json").read_text())


@pytest.mark.parametrize("one", OFFICIAL["objects"], ids=lambda one: one["name"])
@pytest.mark.parametrize("measure", ["J", "F"])
def test_statistics_of_an_object(one: dict, measure: str) -> None:
    wanted = [one[f"{measure}_{part}"] for part in "MRD"]
    assert list(mean_recall_decay(one[measure])) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", OFFICIAL["global_mean"])
def test_the_mean_over_objects(name: str) -> None:
    own = [
        one for one in OFFICIAL["objects"] if one["name"].startswith("schoolgirls") == name.startswith("schoolgirls")
    ]
    for measure in "JF":
        found = [mean_recall_decay(one[measure]) for one in own]
        for part, values in zip("MRD", zip(*found, strict=True), strict=True):
            mean = sum(values) / len(values)
            assert mean == pytest.approx(OFFICIAL["global_mean"][name][f"{measure}_{part}"], abs=1e-12)
