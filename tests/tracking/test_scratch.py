"""What a run keeps on disk for the next one: it comes back as it was, takes no memory and leaves nothing behind."""

import os
import signal
import subprocess
import sys

from matchcut.tracking.scratch import Scratch


def test_bytes_come_back_as_they_were_put():
    scratch, data = Scratch(), {frame: os.urandom(frame * 1000) for frame in (7, 0, 3)}
    for frame, one in data.items():
        scratch.put(frame, b"other" * frame)
        scratch.put(frame, one)
    assert {frame: scratch.get(frame) for frame in data} == data
    assert scratch.get(1) is None
    scratch.put(3, None)
    assert scratch.get(3) is None and scratch.get(7) == data[7]


def test_where_the_disk_is_full_nothing_old_is_kept_either():
    scratch = Scratch()
    for frame in (1, 2):
        scratch.put(frame, b"old")
    scratch._base.execute("PRAGMA max_page_count = 3")
    scratch.put(1, os.urandom(100_000))
    assert scratch.get(1) is None and scratch.get(2) == b"old"
    scratch.put(1, b"small")
    assert scratch.get(1) == b"small"


def test_it_is_on_disk_and_a_killed_process_leaves_nothing_behind(tmp_path):
    code = """
import os, resource, signal
from matchcut.tracking.scratch import Scratch
scratch, before = Scratch(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for frame in range(1000):
    scratch.put(frame, os.urandom(64_000))
assert len(scratch.get(500)) == 64_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SQLITE_TMPDIR": str(tmp_path)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    grown = int(done.stdout) / (1024 if sys.platform != "darwin" else 2**20)
    assert grown < 16  # MiB, of 61 that were put
    assert list(tmp_path.iterdir()) == []
