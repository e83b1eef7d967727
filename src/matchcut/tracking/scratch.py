"""Bytes by frame that lie on disk, not in memory, and are gone when the process ends, however it ends."""

import sqlite3
import weakref
import zlib
from contextlib import suppress


class Scratch:
    """What was put for each frame, compressed, in a temporary SQLite database.

    Its file, in `$SQLITE_TMPDIR`, `$TMPDIR` or `/var/tmp`, has no name there: a process that is killed leaves nothing
    behind. Some 2 MB of it are in memory. Where the disk is full, a frame's bytes are not kept.
    """

    def __init__(self) -> None:
        # An empty name asks for a temporary database. A run puts from a thread of its own, one at a time.
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._base.close)
        self._base.execute("CREATE TABLE frames (frame INTEGER PRIMARY KEY, data BLOB)")
        self._held: set[int] = set()

    def put(self, frame: int, data: bytes | None) -> None:
        """Keep a frame's bytes in place of what was kept of it before; None keeps nothing."""
        self._held.discard(frame)
        if data is not None:
            with suppress(sqlite3.OperationalError):  # the disk is full
                self._base.execute("INSERT OR REPLACE INTO frames VALUES (?, ?)", (frame, zlib.compress(data, 1)))
                self._held.add(frame)

    def get(self, frame: int) -> bytes | None:
        """A frame's bytes; None where none were kept."""
        if frame not in self._held:
            return None
        (data,) = self._base.execute("SELECT data FROM frames WHERE frame = ?", (frame,)).fetchone()
        return zlib.decompress(data)
