"""What the benchmarks share. It imports neither torch nor NumPy: a process that starts others must stay small itself,
because on Linux the peak memory that a new process reports is at least that of the one that started it."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "shared" / "data"
"""Real data where it is present: DAVIS folders with JPEGImages and Annotations."""


def machine(*packages: str) -> str:
    """One line that says where and with what a table was made."""
    found = []
    for package in ("torch", *packages):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"Python {platform.python_version()}"
    return f"{cores} cores ({_processor()}), OMP_NUM_THREADS {threads}, {python}, {', '.join(found)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cost(work: Callable[[], object]) -> float:
    """Processor seconds that something takes: other work on the machine hardly changes them."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def forget_peak() -> float:
    """Let the peak start anew where the system can (Linux); the memory from which it starts, in GiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    except OSError:
        return peak_gib()


def in_subprocess(script: str, *arguments: object) -> dict[str, Any]:
    """Run a benchmark script on one case in a process of its own; it prints its answer as the last line, in JSON.

    A case that fails answers {"error": its last words}, so that one failure costs one row.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        words = done.stderr.strip().splitlines() or ["no output"]
        return {"error": f"{words[-1]} (exit status {done.returncode})"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def must(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of a case without which there is no table."""
    if "error" in answer:
        raise SystemExit(answer["error"])
    return answer


def sequence(name: str, root: str = "davis2016-dev-480p") -> tuple[Path, Path]:
    """Frames and masks of a DAVIS sequence of `DATA`; ends the script where it is missing."""
    frames, masks = DATA / root / "JPEGImages" / name, DATA / root / "Annotations" / name
    if not frames.is_dir() or not masks.is_dir():
        raise SystemExit(f"{frames} or {masks} is missing: give --input and --mask (or --data), see --help")
    return frames, masks
