"""Seconds and memory of scoring as many DAVIS-2016 frames as its validation set has: 1,376 of 480x854, one object.

    python benchmarks/score.py
    python benchmarks/score.py --cores 1 2 4 --repeats 5

The eight development sequences are repeated, as links, until there are as many frames. Seconds are of the whole
command `matchcut score`, from its start to its end, the best of the repeats; CPU seconds are of all its threads, memory
is its peak resident set. On Linux.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from common import DATA, machine, table

FRAMES = 1376
MASKS = DATA.parent / "expected" / "predictions-dev"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not (DATA / "davis2016-dev-480p").is_dir() or not MASKS.is_dir():
        raise SystemExit(f"{DATA} or {MASKS} is missing")
    with tempfile.TemporaryDirectory() as folder:
        frames, sequences = repeat(Path(folder))
        rows = []
        for cores in options.cores:
            runs = [measure(Path(folder), cores) for _ in range(options.repeats)]
            best = [min(column) for column in zip(*runs, strict=True)]
            rows.append([f"{cores}", *(f"{x:.2f}" for x in best[:2]), f"{best[2]:.0f}"])
    print(f"{frames} frames, {sequences} sequences; {machine('opencv-python-headless', 'pillow')}\n")
    print(table(["cores", "seconds", "CPU seconds", "resident, MB"], rows))


def repeat(folder: Path) -> tuple[int, int]:
    """Links to the development sequences under new names until there are FRAMES; the last one is cut."""
    truths = sorted((DATA / "davis2016-dev-480p" / "Annotations").iterdir())
    done = made = 0
    for round_ in count():
        for truth in truths:
            names = sorted(path.name for path in truth.iterdir())[: FRAMES - done]
            name = f"{truth.name}-{round_}"
            for target, source in (("Annotations", truth), ("masks", MASKS / truth.name)):
                place = folder / target / name
                place.mkdir(parents=True)
                for one in names:
                    (place / one).symlink_to(source / one)
            done, made = done + len(names), made + 1
            if FRAMES - done < 3:  # of fewer none would count
                return done, made
    raise AssertionError


def measure(folder: Path, cores: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak resident set in MB of one run on so many cores."""
    command = [sys.executable, "-m", "matchcut.cli", "score", "davis2016", "--root", f"{folder}"]
    command += ["--masks", f"{folder / 'masks'}"]
    ours = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, ours[:cores])  # for the child
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(0, ours)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
