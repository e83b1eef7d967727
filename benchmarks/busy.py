"""The commands on a busy machine: alone, beside a process that keeps one core busy, and two of them at once.

    python benchmarks/busy.py                                   # a DAVIS sequence of ../shared/data, 480 x 854
    python benchmarks/busy.py --input clip.mp4 --mask first.png --frames 60 --repeats 3

Frames a second are counted from the first mask on disk to the last; of two at once, those of both together. The start
is from the command to the first mask. A table's row is the median of --repeats rounds, in each of which all cases come
in turn, with the ratio to what the command makes alone in that round.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import machine, sequence, table

CASES = ("alone", "beside a busy process", "two at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="a video; by default --sequence")
    parser.add_argument("--mask", help="of its first frame")
    parser.add_argument("--sequence", default="bus")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", nargs="+", default=["track", "segment"], choices=["track", "segment"])
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    if options.input is None or options.mask is None:
        frames, masks = sequence(options.sequence)
        options.input, options.mask = options.input or str(frames), options.mask or str(sorted(masks.iterdir())[0])
    rows = []
    for name in options.commands:
        command = [sys.executable, "-m", "matchcut.cli", name, options.input, "--end", str(options.frames)]
        command += ["--precision", options.precision, *(["--mask", options.mask] if name == "track" else [])]
        run(command, 1)  # what is compiled and read once
        rounds = []
        for _ in range(options.repeats):
            alone = run(command, 1)
            with busy():
                beside = run(command, 1)
            rounds.append((alone, beside, run(command, 2)))
        for place, case in enumerate(CASES):
            paces, starts = ([one[place][key] for one in rounds] for key in (0, 1))
            ratios = [one[place][0] / one[0][0] for one in rounds]
            shown = f"{statistics.median(paces):.1f}", f"{statistics.median(ratios):.2f}"
            rows.append([f"{name}, {case}", *shown, f"{statistics.median(starts):.1f}"])
    print(f"{Path(options.input).name}, {options.frames} frames, medians of {options.repeats}\n\n{machine('numba')}\n")
    print(table(["", "frames a second", "ratio to alone", "start, s"], rows))


def run(command: list[str], count: int) -> tuple[float, float]:
    """Frames a second of so many processes of a command together, and seconds to the first mask of the first one."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(count)]
        began = time.time()
        jobs = [subprocess.Popen([*command, "-o", str(out)], **quiet()) for out in outs]
        if any(job.wait() for job in jobs):
            raise SystemExit(f"failed: {' '.join(command)}")
        written = [sorted(one.stat().st_mtime for one in (out / "masks").glob("*.png")) for out in outs]
    # Of an annotated frame the mask is there before anything is computed.
    paces = [(len(one) - 2) / (one[-1] - one[1]) for one in written]
    return sum(paces), written[0][1] - began


@contextlib.contextmanager
def busy() -> Iterator[None]:
    job = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        job.kill()
        job.wait()


def quiet() -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "KMP_", "GOMP_"))}
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}


if __name__ == "__main__":
    main()
