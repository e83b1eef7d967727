"""Every error this package raises on purpose, one tree. A message says what is wrong, where, and what to do."""

import pickle


class MatchcutError(Exception):
    """Root of all errors a caller may want to catch. The command line prints it as one line and exits with 2."""


class VideoError(MatchcutError):
    """A video, frame folder or stream that cannot be read, or frames that do not fit together."""


class TruncatedVideoError(VideoError):
    """A video that ends before the frame count its container states."""


class MaskError(MatchcutError):
    """A mask file or label map that cannot be used: wrong size, no object, too many objects, not a mask."""


class PromptError(MatchcutError):
    """A box, click or scribble that cannot be used: outside the frame, empty, of the wrong form."""


class OutputError(MatchcutError):
    """An output that cannot be written: folder not empty, not writable, no space left."""


class ModelError(MatchcutError):
    """A model, preset, backbone or weight file that is unknown, missing or damaged."""


class ShapeError(MatchcutError, ValueError):
    """A tensor or array whose shape, dtype or values an operation cannot take."""


class DatasetError(MatchcutError):
    """A benchmark that cannot be read: no such dataset, split or list, a layout that is not as published, bad truth."""


class TrainingError(MatchcutError):
    """A training run that cannot start or go on: a faulty recipe, another run's checkpoint, a loss not finite."""


def unreadable(error: Exception) -> str:
    """Why a library could not read a file of weights, in a few words that stand in brackets of a message."""
    if any(isinstance(one, pickle.UnpicklingError) for one in (error, error.__cause__)):
        return "it is damaged, or holds other things than tensors, which are never unpickled"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
