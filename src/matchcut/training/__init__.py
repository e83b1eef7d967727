"""Training: one loop for everything that learns here. A recipe says how, an objective says what."""

from typing import Any

from matchcut.errors import TrainingError


def training_loop() -> Any:
    """The function `training.loop.train`, whose libraries come with the extra `train`.

    Raises:
        TrainingError: they are not installed.
    """
    try:
        from matchcut.training.loop import train
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("lightning_fabric", "tensorboard"):
            raise
        raise TrainingError(f"training needs {error.name}: pip install 'matchcut[train]'") from error
    return train
