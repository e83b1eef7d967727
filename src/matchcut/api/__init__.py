"""What most users call: names and paths in, objects out. Each function is a few lines over the objects."""

from matchcut.api.automatic import flow_source, run_automatic, segment
from matchcut.api.evaluation import evaluate, train
from matchcut.api.guided import annotations_of, track
from matchcut.api.passes import Passes
from matchcut.api.records import about_model, versions
from matchcut.api.runs import check_outputs, run, run_stream
from matchcut.benchmarks.score import score
from matchcut.weights.store import list_models, load_model

__all__ = [
    "Passes",
    "about_model",
    "annotations_of",
    "check_outputs",
    "evaluate",
    "flow_source",
    "list_models",
    "load_model",
    "run",
    "run_automatic",
    "run_stream",
    "score",
    "segment",
    "track",
    "train",
    "versions",
]
