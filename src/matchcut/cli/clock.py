"""When the command began: this is loaded before all that takes time."""

from time import perf_counter


class Clock:
    """Tells laps from when the command began: the first has loading in it, and together they are all of the time."""

    began = perf_counter()

    def __init__(self) -> None:
        self._since: float | None = None

    def lap(self) -> float:
        """When this lap began, of `time.perf_counter`."""
        since, self._since = self._since, perf_counter()
        return self.began if since is None else self._since
