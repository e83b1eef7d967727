"""Frames from one image file that holds several pictures: a TIFF stack, an animated WebP, PNG or AVIF."""

from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from matchcut.errors import VideoError
from matchcut.masks import Frame
from matchcut.pictures import ValueRange
from matchcut.video.frames import FRAME_RATE, FramesOfFile
from matchcut.video.images import (
    UNREADABLE,
    damaged,
    frame_pages,
    open_image,
    page_size,
    picture,
    range_of,
    shown_size,
    spread,
)

DAMAGED = (*UNREADABLE, KeyError, IndexError, TypeError)  # what seeking in a damaged file raises besides


class StackFrames(FramesOfFile):
    """The pictures of one image file in their order, one of them decoded at a time."""

    def __init__(self, path: Path) -> None:
        """Read every picture's header and check that they can be frames of one video; decode an animation once, since
        it tells only so how long each picture is shown and whether it is complete.

        Raises:
            VideoError: not an image, damaged, or pictures of several sizes.
        """
        super().__init__(path)
        seconds = Fraction()
        try:
            with open_image(path) as image:
                self.pages = frame_pages(image)
                sizes = [shown_size(image)]
                if image.format == "TIFF":
                    sizes = [page_size(image, page) for page in self.pages]
                elif len(self.pages) > 1:
                    seconds = sum((_seconds(image, page) for page in self.pages), Fraction())
        except DAMAGED as error:
            raise damaged(path, error) from error
        self.total = len(self.pages)
        self.size = sizes[0]
        for index, size in enumerate(sizes):
            if size != self.size:
                raise VideoError(
                    f"{path}: its picture 0 is {self.size[1]}x{self.size[0]}, picture {index} is {size[1]}x{size[0]}; "
                    "bring them to one size or write each into a file of its own"
                )
        self.frame_rate = (self.total / seconds).limit_denominator(1001) if seconds else FRAME_RATE

    @cached_property
    def values(self) -> ValueRange:
        """The range of values that all pictures, where they are deep, are brought to 8 bits by."""
        return range_of(self._at(index) for index in spread(self.total))

    def _at(self, index: int) -> Any:
        image = open_image(self.path)
        image.seek(self.pages[index])
        return image

    def cursor(self) -> "_Cursor":
        """The file, opened anew."""
        return _Cursor(self)


class _Cursor:
    """The file, open, at one of its pictures."""

    def __init__(self, source: StackFrames) -> None:
        self.source = source
        self.image: Any = None

    def frame(self, index: int) -> Frame:
        path, page = self.source.path, self.source.pages[index]
        try:
            if self.image is not None and page < self.image.tell() and self.image.format != "TIFF":
                self.close()  # Pillow does not always find the way back in an animation
            if self.image is None:
                self.image = open_image(path)
            self.image.seek(page)  # where pictures build on those before, Pillow goes through these
            frame = picture(self.image, lambda: self.source.values)
        except DAMAGED as error:
            self.close()
            raise damaged(path, error, f", picture {index}") from error
        if frame.shape[:2] != self.source.size:
            raise VideoError(f"{path} was replaced while it was being read; run again")
        return frame

    def close(self) -> None:
        if self.image is not None:
            self.image.close()
            self.image = None


def _seconds(image: Any, page: int) -> Fraction:
    """The duration of one picture of an animation; 0 where none is stated."""
    image.seek(page)
    image.load()
    return Fraction(image.info.get("duration", 0)) / 1000
