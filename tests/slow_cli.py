"""The command line where each mask takes long to write, so that a test finds the time to stop a run.

python tests/slow_cli.py track ...
"""

import time

from matchcut import cli
from matchcut.tracking import timeline

fast = timeline.write_mask


def slow(path, labels):
    fast(path, labels)
    time.sleep(0.05)


timeline.write_mask = slow  # in spawned processes too: they import this file

if __name__ == "__main__":
    cli.main()
