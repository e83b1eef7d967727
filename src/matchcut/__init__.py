"""matchcut: cut any object out of a video by matching.

Importing this loads neither torch nor a video library; a name does when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from matchcut.errors import MatchcutError

if TYPE_CHECKING:
    from matchcut import matching, metrics
    from matchcut.api import evaluate, list_models, load_model, segment, track, train
    from matchcut.benchmarks.score import score
    from matchcut.models.base import MemoryPolicy
    from matchcut.tracking.timeline import Timeline
    from matchcut.tracking.tracker import Tracker
    from matchcut.training.config import TrainConfig
    from matchcut.video.reader import Video

__version__ = "0.1.0"

_HOMES = {
    "AutomaticModel": "matchcut.models.base",
    "GuidedModel": "matchcut.models.base",
    "MemoryPolicy": "matchcut.models.base",
    "ModelSpec": "matchcut.models.base",
    "Prediction": "matchcut.models.base",
    "Timeline": "matchcut.tracking.timeline",
    "Tracker": "matchcut.tracking.tracker",
    "TrainConfig": "matchcut.training.config",
    "Video": "matchcut.video.reader",
    "evaluate": "matchcut.api",
    "list_models": "matchcut.api",
    "load_model": "matchcut.api",
    "score": "matchcut.benchmarks.score",
    "segment": "matchcut.api",
    "track": "matchcut.api",
    "train": "matchcut.api",
}
_MODULES = ("matching", "metrics")

__all__ = [
    "AutomaticModel",
    "GuidedModel",
    "MatchcutError",
    "MemoryPolicy",
    "ModelSpec",
    "Prediction",
    "Timeline",
    "Tracker",
    "TrainConfig",
    "Video",
    "evaluate",
    "list_models",
    "load_model",
    "matching",
    "metrics",
    "score",
    "segment",
    "track",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"matchcut.{name}")
    raise AttributeError(f"module 'matchcut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
