"""Where compiled kernels are kept on disk: where Numba would keep them, but in a folder for each state of the sources.

Numba holds a kernel for fresh as long as the file that it stands in is the same, even where a function that it calls,
in another file, is not. Here any change of a source beside this one leads to another folder. And where nothing can be
kept (an installation that is read-only and no home, a full disk) kernels are compiled for this process alone.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)


def keep_on_disk(dispatcher: Any) -> None:
    """Let what Numba compiles of a function be kept, where there is a place."""
    if OWN is not None:
        with contextlib.suppress(RuntimeError):  # there is none
            dispatcher._cache = _Cache(dispatcher.py_func)  # as its enable_caching does


def sources_name(folder: Path) -> str | None:
    """The name of the folder for kernels made of the sources in this one; None where there are none to read."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.py"))
    try:
        for file in files:
            text = file.read_bytes()
            digest.update(f"{file.name} {len(text)}\n".encode() + text)
    except OSError:
        return None
    return f"kernels-{digest.hexdigest()[:16]}" if files else None


OWN = sources_name(Path(__file__).parent)


class _OwnFolder:
    """Added to a place of Numba's: a folder in it."""

    def get_cache_path(self) -> str:
        assert OWN is not None
        return str(Path(super().get_cache_path(), OWN))  # type: ignore[misc]


class _Provided(_OwnFolder, UserProvidedCacheLocator):  # type: ignore[misc]
    """In NUMBA_CACHE_DIR, where it is set."""


class _InTree(_OwnFolder, InTreeCacheLocator):  # type: ignore[misc]
    """Beside the sources, where these can be written."""


class _UserWide(_OwnFolder, UserWideCacheLocator):  # type: ignore[misc]
    """In the user's cache."""


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Provided, _InTree, _UserWide]  # noqa: RUF012 # as Numba declares it


class _Cache(FunctionCache):  # type: ignore[misc]
    """A cache whose faults are not the caller's: what cannot be read is compiled, what cannot be kept is not."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # of a file that was cut off, unpickling raises anything
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # full, gone, or another's by now
            super().save_overload(sig, data)
