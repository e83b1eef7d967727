"""What can be trained: a file or folder a system. The loop knows of each only what `base.Objective` says."""

from matchcut.errors import TrainingError
from matchcut.training.objectives.base import Batch, Losses, MakeObjective, Objective, Samples, Say
from matchcut.training.objectives.mask_vos import MaskVOSObjective
from matchcut.training.objectives.transport_net import TransportNetObjective

__all__ = ["OBJECTIVES", "Batch", "Losses", "MakeObjective", "Objective", "Samples", "Say", "find_objective"]

OBJECTIVES: dict[str, MakeObjective] = {
    "mask-vos": MaskVOSObjective,
    "transport-net": TransportNetObjective,
}
"""Every objective by the name that recipes use. Your own is entered the same way."""


def find_objective(name: str) -> MakeObjective:
    """The function that makes the objective of that name.

    Raises:
        TrainingError: there is none.
    """
    if name not in OBJECTIVES:
        raise TrainingError(f"unknown objective {name!r}; there are {', '.join(sorted(OBJECTIVES))}")
    return OBJECTIVES[name]
