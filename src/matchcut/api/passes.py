"""The passes of a run over a video, each with its name and its seconds."""

import time
from collections.abc import Callable

from matchcut.tracking.tracker import Progress

STARTING = "starting"
"""All that comes before the first pass: loading the libraries and the model, opening the video."""


class Passes:
    """The passes of a run, one after the other. Their seconds add up to all that passed since it began.

    Args:
        started: when the run began, of `time.perf_counter`; now where None.
        begun: called with the name of each pass as it begins.
        progress: called with frames done and frames to do in the pass at hand.
    """

    def __init__(
        self,
        started: float | None = None,
        begun: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        """By the name of the pass, in order."""
        self._begun, self._name = begun, STARTING
        self._since = time.perf_counter() if started is None else started

    def begin(self, name: str) -> None:
        """End the pass at hand, and begin another."""
        self.end()
        self._name = name
        if self._begun is not None:
            self._begun(name)

    def end(self) -> None:
        """Count the time of the pass at hand, up to now."""
        now = time.perf_counter()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._since = now
