"""Peak memory of `matchcut track` on a short and a long video, time to the first mask, and time of `matchcut --help`.

    python benchmarks/memory.py
    python benchmarks/memory.py --frames 20 60 --size 64 96 --start-size 96 160 --repeats 1      # to try it

The videos are made here (H.264): a disc that moves over a textured ground, the long one beginning as the short one
does. What is measured is the real command in a process of its own, and its peak as the system counted it (wait4).
Beside it: the frames that transformers' SAM 2 video session holds, which grow with the video, and the imports without
which nothing that uses torch or SAM 2 can start.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine, table

COMMAND = str(Path(sys.executable).with_name("matchcut"))
SESSION = """
import sys, torch
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
session = Sam2VideoInferenceSession(video_height=480, video_width=854, dtype=torch.float32)
for _ in range(int(sys.argv[1])):
    session.add_new_frame(torch.zeros(1, 3, 1024, 1024).fill_(1))
"""


def main() -> None:
    options = parse()
    if options.make:
        path, height, width, frames = options.make
        make(Path(path), int(height), int(width), int(frames))
        return
    print(f"\n{machine('av', 'transformers')}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        peaks(folder, options)
        starts(folder, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 10_000], help="of the videos, the first is 1.00")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 160), metavar=("H", "W"))
    parser.add_argument("--start-size", nargs=2, type=int, default=(480, 854), metavar=("H", "W"))
    parser.add_argument("--session-frames", nargs=2, type=int, default=(10, 100), metavar="N", help="for SAM 2's row")
    parser.add_argument("--repeats", type=int, default=5, help="of what takes seconds; the median counts")
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def peaks(folder: Path, options: argparse.Namespace) -> None:
    found: list[tuple[str, int, float, float]] = []
    for frames in options.frames:
        video, mask = made(folder / f"{frames}.mp4", options.size, frames)
        out = folder / f"out-{frames}"
        peak, seconds = run(COMMAND, "track", str(video), "--mask", str(mask), "-o", str(out), "--size", "96")
        count = len(list((out / "masks").glob("*.png")))
        if count != frames:
            raise SystemExit(f"{count} masks of {frames} frames")
        found.append(("`matchcut track`", frames, peak, seconds))
    rows = [
        [f"{name}, {frames:,} frames", f"{peak:.0f}", f"{peak / found[0][2]:.3f}", f"{seconds:.1f}"]
        for name, frames, peak, seconds in found
    ]
    few, many = options.session_frames
    held = [run(sys.executable, "-c", SESSION, str(frames)) for frames in (few, many)]
    rows += [
        [f"frames held by a SAM 2 session, {frames:,}", f"{peak:.0f}", f"{peak / held[0][0]:.3f}", f"{seconds:.1f}"]
        for frames, (peak, seconds) in zip((few, many), held, strict=True)
    ]
    print(f"Peak memory of a whole process; video {options.size[0]} x {options.size[1]}\n")
    print(table(["process", "peak MiB", "ratio to the shorter", "seconds"], rows))
    each, most = (held[1][0] - held[0][0]) / (many - few), max(options.frames)
    if len(found) > 1:
        ours = (found[-1][2] - found[0][2]) / (found[-1][1] - found[0][1])
        print(f"\nA frame more costs {ours * 1024:.2f} KiB here, {each * 1024:,.0f} KiB in a SAM 2 session,", end=" ")
        print(f"which for {most:,} frames is {each * most / 1024:,.0f} GiB (computed, not run).")


def starts(folder: Path, options: argparse.Namespace) -> None:
    height, width = options.start_size
    video, mask = made(folder / "start.mp4", (height, width), 30)
    first = statistics.median(first_mask(video, mask, folder / f"start-{repeat}") for repeat in range(options.repeats))
    sam = "from transformers import Sam2VideoModel"
    commands = [
        ("`matchcut --help`", [COMMAND, "--help"]),
        ("beside: `python -c pass`", [sys.executable, "-c", "pass"]),
        ("beside: `import torch`", [sys.executable, "-c", "import torch"]),
        (f"beside: `{sam}`, no model built", [sys.executable, "-c", sam]),
    ]
    rows = [[f"`matchcut track` to the first propagated mask on disk, {height} x {width}", f"{first:.2f}", "1.00"]]
    for name, command in commands:
        seconds = statistics.median(run(*command)[1] for _ in range(options.repeats))
        rows.append([name, f"{seconds:.2f}", f"{seconds / first:.2f}"])
    print("\n" + table(["from the start of the process", "seconds", "ratio"], rows))


def first_mask(video: Path, mask: Path, out: Path) -> float:
    """Seconds until the mask of the second frame, the first that is not given, stands on disk."""
    started = time.perf_counter()
    command = [COMMAND, "track", str(video), "--mask", str(mask), "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (out / "masks" / "00001.png").exists():
            if process.poll() is not None:
                raise SystemExit(f"matchcut track failed: {process.stderr.read() if process.stderr else ''}")
            time.sleep(0.002)
        seconds = time.perf_counter() - started
        process.kill()
    return seconds


def run(*command: str) -> tuple[float, float]:
    """Peak memory in MiB and seconds of a command; ends the script where the command fails."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command[:2])}: {errors.read().decode()[-500:]}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), seconds


def made(path: Path, size: tuple[int, int], frames: int) -> tuple[Path, Path]:
    """A video and its first mask, made by another process, so that this one stays small (see `common`)."""
    run(sys.executable, __file__, "--make", str(path), *map(str, (*size, frames)))
    return path, path.with_suffix(".png")


def make(path: Path, height: int, width: int, frames: int) -> None:
    import numpy as np

    from matchcut.masks import write_mask
    from matchcut.video.writer import VideoWriter

    random = np.random.default_rng(0)
    ground = random.integers(60, 140, (height // 8 + 1, width // 8 + 1, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    ground = ground[:height, :width]
    y, x = np.mgrid[:height, :width]
    with VideoWriter(path, frame_rate=24) as writer:
        for index in range(frames):
            angle = index / 20
            centre = height * (0.5 + 0.2 * np.sin(angle)), width * (0.5 + 0.25 * np.cos(angle))
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (height / 5) ** 2
            writer.write(np.where(disc[..., None], np.array([230, 120, 40], np.uint8), ground))
            if index == 0:
                write_mask(path.with_suffix(".png"), disc.astype(np.uint8))


if __name__ == "__main__":
    main()
