"""Whole runs as a user starts them, on the sample clip and on a sequence with ground truth, and what they gave.

python tests/golden/runs.py     # writes golden.json anew: say in the commit what moved, and why
"""

import json
from pathlib import Path
from typing import Any

import matchcut
from matchcut.masks import encode_rle, read_mask
from matchcut.metrics import boundary_f, jaccard

ROOT = Path(__file__).parents[2]
CLIP, FIRST = ROOT / "examples" / "bunny.mp4", ROOT / "examples" / "bunny_first.png"
DEV = ROOT.parent / "shared" / "data" / "davis2016-dev-480p"
GOLDEN = Path(__file__).parent / "golden.json"
EVERY = 6
"""Of the sample clip's masks, each so many-th is kept."""
SEQUENCE, LENGTH = "bmx-bumps", 30
RUNS = ("guided", "automatic", "automatic, then tracked")


def masks_of(run: str, precision: str, frames: int) -> dict[int, Any]:
    """Label maps of the sample clip by frame."""
    video = matchcut.Video(CLIP, end=frames)
    if run == "guided":
        timeline = matchcut.track(video, FIRST, precision=precision)
    else:
        timeline = matchcut.segment(video, after=None if run == "automatic" else "track", precision=precision)
    return {frame: timeline.labels(frame) for frame in range(0, frames, EVERY)}


def scores_of(task: str, precision: str) -> dict[str, float]:
    """J and F, in percent, of the first frames of the sequence, as DAVIS scores them."""
    video = matchcut.Video(DEV / "JPEGImages" / SEQUENCE, end=LENGTH)
    truths = sorted((DEV / "Annotations" / SEQUENCE).glob("*.png"))
    if task == "guided":
        timeline = matchcut.track(video, truths[0], precision=precision)
    else:
        timeline = matchcut.segment(video, precision=precision)
    truth = [read_mask(path) > 0 for path in truths[:LENGTH]]
    pairs = [(truth[frame], timeline.labels(frame) > 0) for frame in range(1, LENGTH - 1)]
    count = len(pairs) / 100
    return {"J": sum(jaccard(*pair) for pair in pairs) / count, "F": sum(boundary_f(*pair) for pair in pairs) / count}


def main() -> None:
    golden: dict[str, Any] = {}
    for run in RUNS:
        found = masks_of(run, "float32", 25)
        golden[run] = {str(frame): encode_rle(labels, [1])[1] for frame, labels in found.items()}
    golden["scores"] = {
        task: {key: round(value, 2) for key, value in scores_of(task, "float32").items()}
        for task in ("guided", "automatic")
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
