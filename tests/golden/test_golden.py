"""Whole runs give the masks and the scores that they gave before: a default that changes does not pass unnoticed."""

import json

import pytest
from pycocotools import mask as coco_masks
from runs import DEV, GOLDEN, RUNS, masks_of, scores_of

from matchcut.metrics import jaccard

KNOWN = json.loads(GOLDEN.read_text())


# bfloat16 rounds; and what is tracked depends on which frames are surest, so of a shorter clip it is something else.
CASES = [
    *((run, "float32", 25, 0.999) for run in RUNS),
    ("guided", "bfloat16", 8, 0.98),
    ("automatic", "bfloat16", 8, 0.95),
]


@pytest.mark.parametrize(("run", "precision", "frames", "least"), CASES)
def test_masks_of_the_sample_clip(run: str, precision: str, frames: int, least: float) -> None:
    for frame, labels in masks_of(run, precision, frames).items():
        known = coco_masks.decode(KNOWN[run][str(frame)]) > 0
        assert jaccard(labels > 0, known) > least, f"frame {frame} moved: see tests/golden/runs.py"


@pytest.mark.skipif(not DEV.is_dir(), reason="no real data beside the repository")
@pytest.mark.parametrize("task", ["guided", "automatic"])
def test_scores_of_a_sequence(task: str) -> None:
    found, known = scores_of(task, "float32"), KNOWN["scores"][task]
    assert found == pytest.approx(known, abs=0.2)
