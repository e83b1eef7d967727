"""Seconds and memory of scoring as many DAVIS-2016 frames as its validation set has: 1,376 of 480x854, one object.

    python benchmarks/score.py
    python benchmarks/score.py --processes 1 2 4 --repeats 5

The eight development sequences are repeated, as links, until there are as many frames. Seconds are of the whole
command `matchcut score`, from its start to its end, the best of the repeats; CPU seconds are of all its processes.
Memory is the greatest sum of the processes' resident sets, looked at every 10 ms (pages that processes share count in
each), and of their proportional sets (shared pages count once).
"""

import argparse
import os
import resource
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
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not (DATA / "davis2016-dev-480p").is_dir() or not MASKS.is_dir():
        raise SystemExit(f"{DATA} or {MASKS} is missing")
    with tempfile.TemporaryDirectory() as folder:
        frames, sequences = repeat(Path(folder))
        rows = []
        for processes in options.processes:
            runs = [measure(Path(folder), processes) for _ in range(options.repeats)]
            best = [min(column) for column in zip(*runs, strict=True)]
            rows.append([f"{processes}", *(f"{x:.2f}" for x in best[:2]), *(f"{x:.0f}" for x in best[2:])])
    print(f"{frames} frames, {sequences} sequences; {machine('opencv-python-headless', 'pillow')}\n")
    print(table(["processes", "seconds", "CPU seconds", "resident, MB", "proportional, MB"], rows))


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


def measure(folder: Path, processes: int) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds, peak sum of resident and of proportional sets in MB, of one run; seconds are of a run that
    nobody watches."""
    command = [sys.executable, "-m", "matchcut.cli", "score", "davis2016", "--root", f"{folder}"]
    command += ["--masks", f"{folder / 'masks'}", "--processes", f"{processes}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    watched = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    resident = proportional = 0.0
    while watched.poll() is None:
        sizes = [memory(one) for one in family(watched.pid)]
        resident = max(resident, sum(size[0] for size in sizes))
        proportional = max(proportional, sum(size[1] for size in sizes))
        time.sleep(0.01)
    return seconds, cpu, resident, proportional


def family(process: int) -> list[int]:
    """A process and those it started, on Linux."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return [process, *(one for child in children for one in family(int(child)))]


def memory(process: int) -> tuple[float, float]:
    """Resident and proportional set of a process, in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    sizes = {words[0]: int(words[1]) for words in map(str.split, lines[1:])}
    return sizes.get("Rss:", 0) * 1024 / 1e6, sizes.get("Pss:", 0) * 1024 / 1e6


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
