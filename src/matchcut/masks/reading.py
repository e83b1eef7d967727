"""Reading mask files as label maps: all files of a sequence alike."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from matchcut.errors import MaskError
from matchcut.masks.decoding import MaskFile, davis_ids, decode, decode_binary, is_binary, refusal
from matchcut.masks.labels import IGNORE, MAX_OBJECTS, LabelMap

_log = logging.getLogger("matchcut")


def read_mask(path: str | os.PathLike[str], *, threshold: float | None = None) -> LabelMap:
    """Read a mask file as a label map, uint8 (H, W), at the file's own size.

    Palette images and grey ones (of any depth) hold ids, 255 meaning ignore; a mask of 0 and 255 only, 0 and 1 only,
    or one bit a pixel has the one object 1. In an RGB(A) image each colour but black is an object (transparent pixels
    are background): colours of the DAVIS palette have their ids there, others are numbered 1, 2, ... in sorted order,
    and the log (`matchcut`, INFO) says which colour got which id. An RGB image of greys is read as a grey one. So is a
    palette image read by its colours where its entries were put in another order: where black is another entry than
    0, or the palette is DAVIS's in another order. Where a large area of a grey image of ids is 255, the log says
    (WARNING) that it is ignored.

    What is no label map is refused: an anti-aliased mask, a soft matte, a dithered one, a photo, one stored with a
    lossy codec (as far as its values show it). `masks.blends` says by which signs.

    With `threshold`, in [0, 1], the image becomes grey / 255 (or its alpha, if that varies) and the pixels at or above
    it become object 1; nothing is refused then for its values.

    Raises MaskError: no such file, not an image, damaged, of several pages, no label map, an id over 255, over 254
    objects.
    """
    return read_masks([path], threshold=threshold)[0]


def read_masks(paths: Iterable[str | os.PathLike[str]], *, threshold: float | None = None) -> list[LabelMap]:
    """The mask files of one video or sequence as label maps, each as `read_mask` does, but all with one meaning.

    A colour is the same object in all files: those that are not all of the DAVIS palette are numbered by the first
    file that has them. Where one file holds 255 beside other ids, 255 is ignored in all, also in those of 0 and 255
    only. Grey and palette files beside files of other colours than DAVIS's are read by colour too, and refused where
    they have one that those lack.

    Raises MaskError: as `read_mask`; a file of ids beside files of colours.
    """
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise MaskError(f"threshold must lie between 0 and 1, not {threshold}")
        return [decode_binary(path, threshold) for path in paths]
    files = [decode(path) for path in paths]
    meaning = Meaning.of(files)
    return [meaning.labels(file) for file in files]


class MaskReader:
    """Reads the mask files of one sequence one by one, as `read_masks` reads all.

    All files are decoded once before the first is read, to learn what their colours mean. Copies in other processes
    take what was learnt along.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = tuple(paths)

    @cached_property
    def meaning(self) -> "Meaning":
        """The mapping from values to ids, from those files that can be read."""
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            return Meaning.of([file for file in pool.map(_survey, self.paths) if file is not None])

    def read(self, path: str | os.PathLike[str]) -> LabelMap:
        """One of the files as a label map, uint8 (H, W).

        Raises MaskError: as `read_masks`.
        """
        return self.meaning.labels(decode(path))


def _survey(path: str | os.PathLike[str]) -> MaskFile | None:
    """A mask file without its pixels, None where it cannot be read."""
    try:
        return replace(decode(path), pixels=np.empty((0, 0), np.uint8))
    except MaskError:
        return None


@dataclass(frozen=True)
class Meaning:
    """The mapping from pixel values and colours to object ids, common to the mask files of one sequence.

    Attributes:
        ids: the id of each colour, packed as 0xRRGGBB; empty where all files are grey or hold ids.
        numbered: whether these are other colours than DAVIS's; then files of ids are read by colour too.
        ignored: whether 255 is ignored: some file holds it beside other ids. Else it is object 1, of binary files.
        coloured: a file of colours, for messages.
    """

    ids: dict[int, int]
    numbered: bool
    ignored: bool
    coloured: str

    @classmethod
    def of(cls, files: Sequence[MaskFile]) -> "Meaning":
        """The mapping of all files of a sequence, in order; it is logged. Pixels are not looked at."""
        coloured = [file for file in files if file.coloured]
        colours = list(dict.fromkeys(one for file in coloured for one in file.colours.values()))
        known = davis_ids()
        numbered = any(one not in known for one in colours) and not all(file.all_grey for file in coloured)
        ids: dict[int, int] = {}
        if numbered:
            ids = {0: 0} | {one: number for number, one in enumerate((one for one in colours if one), 1)}
        elif all(one in known for one in colours):
            ids = {one: known[one] for one in colours}
        named = coloured[0].path if coloured else ""
        if numbered and len(ids) - 1 > MAX_OBJECTS:
            reason = (
                f"the masks of its sequence have {len(ids) - 1} colours, and a label map holds {MAX_OBJECTS} objects"
            )
            raise refusal(named, reason)
        meaning = cls(ids, numbered, False, named)
        if not numbered:
            values = [set(meaning._values(file).values()) for file in files]
            meaning = replace(meaning, ignored=any(IGNORE in one and not is_binary(one) for one in values))
        meaning._tell(files)
        return meaning

    def labels(self, file: MaskFile) -> LabelMap:
        """The label map of a file of the sequence, uint8 (H, W).

        Raises MaskError: it holds other values or colours than those that the sequence's files of colours have.
        """
        lookup = np.zeros(256, np.uint8)
        for pixel, value in self._values(file).items():
            lookup[pixel] = 1 if value == IGNORE and not self.ignored else value
        return np.asarray(lookup[file.pixels], np.uint8)

    def _values(self, file: MaskFile) -> dict[int, int]:
        """The id of each value of a file's pixels, before 255 of binary files becomes 1."""
        if not self.numbered and not (file.coloured and self.ids):
            return file.greys
        try:
            return {pixel: self.ids[colour] for pixel, colour in file.colours.items()}
        except KeyError:
            lacking = f"{self.coloured} and others hold colours, among which those of this file are not"
            raise MaskError(f"{file.path}: {lacking}: bring all masks of a video to one kind, colours or ids") from None

    def _tell(self, files: Sequence[MaskFile]) -> None:
        if objects := {colour: number for colour, number in self.ids.items() if colour}:
            named = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255}) = {number}" for c, number in objects.items())
            _log.info("%s: colours read as objects: %s", self.coloured, named)
        white = [file.path for file in files if file.white and self.ignored]
        if white:
            more = f" (and in {len(white) - 1} more masks)" if len(white) > 1 else ""
            _log.warning(
                "%s: a large area is 255 (white) beside other ids%s, and 255 is ignored: if it is an object, give it "
                "another value, 1 to 254",
                white[0],
                more,
            )
