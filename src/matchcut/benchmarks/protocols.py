"""Evaluation protocols of the benchmarks: which frames count, void, averages, and the source of each."""

from dataclasses import dataclass
from typing import Literal

from matchcut.errors import DatasetError

Task = Literal["guided", "automatic", "saliency", "segtrack", "youtube-vos", "vip", "jhmdb"]
Objects = Literal["one", "ids", "proposals", "map", "classes", "joints"]
ScoredFrames = Literal["inner", "all", "after-first"]


@dataclass(frozen=True)
class Protocol:
    """The evaluation protocol of one benchmark.

    Attributes:
        name: of the protocol.
        dataset: the reader in `data.DATASETS`.
        split: the split that papers report.
        task: what a model is given, and which summary the scores run into.
        objects: how a prediction is read. one: above 0 is the object (automatic task: of a grey file above 127, half).
            ids: the truth's ids. proposals: 1 to 20, assigned. map: grey, S x 255; of a palette or one-bit file above 0
            is 1. classes: 0 to 19. joints: `<sequence>.json`.
        frames: of those that have a truth. inner: all but the first and the last. all. after-first: of an object, those
            after the first that shows it.
        measures: per frame.
        void: what 255 in the truth means.
        averages: how the numbers of frames become one.
        source: where this is written down.
    """

    name: str
    dataset: str
    split: str
    task: Task
    objects: Objects
    frames: ScoredFrames
    measures: tuple[str, ...]
    void: str
    averages: str
    source: str

    @property
    def prompted(self) -> bool:
        """Whether a model is given the truth where an object appears."""
        return self.task not in ("automatic", "saliency")

    def paragraph(self) -> str:
        """The protocol in one paragraph, for reports."""
        return f"{_COUNTED[self.frames]} Void: {self.void}. {self.averages} Source: {self.source}."


_COUNTED = {
    "inner": "Every frame counts but the first and the last of a sequence.",
    "all": "Every frame that has a truth counts.",
    "after-first": "An object counts on the annotated frames after the first that shows it.",
}

_JF = ("J", "F")
_NO_VOID = "there is none"
_BACKGROUND = "counts as background"
_STATISTICS = "mean, recall (share of frames above 0.5) and decay (first quarter less last)"
_PER_OBJECT = f"J and F of each object: {_STATISTICS} over its frames, then the mean over all objects of the split."
_SALIENCY = (
    "MAE, and precision, recall and F (beta^2 = 0.3) at 256 thresholds: the mean over the frames of all sequences; "
    "then the maximum of the mean F."
)
_OFFICIAL = "davisvideochallenge/davis2017-evaluation"
_DAVIS16 = "Perazzi et al., CVPR 2016, section 4; evaluation as in the DAVIS code (`annotations[1:-1]`), any task"
_MAPS = "Achanta et al., CVPR 2009 (F); Perazzi et al., CVPR 2012 (MAE)"


def _youtube_vos(year: str) -> Protocol:
    return Protocol(
        *(f"youtube-vos-{year}", f"youtube-vos-{year}", "valid", "youtube-vos", "ids", "after-first", _JF),
        void=_BACKGROUND,
        averages="J and F of each object, mean over its frames, every 5th of the video; mean over objects of the "
        "categories seen in training and of the others; G is the mean of the four, or of those that have objects.",
        source="Xu et al., ECCV 2018, section 5.1; the server's code is not public: that an object counts after its "
        "first mask, also where it has left, is how this package reads it",
    )


_ALL = (
    Protocol(
        *("davis2016", "davis2016", "val", "guided", "one", "inner", _JF),
        void=f"{_NO_VOID}, any value above 0 is the object",
        averages=_PER_OBJECT,
        source=_DAVIS16,
    ),
    Protocol(
        *("davis2016-automatic", "davis2016", "val", "automatic", "one", "inner", _JF),
        void=f"{_NO_VOID}, any value above 0 is the object",
        averages=_PER_OBJECT,
        source=_DAVIS16,
    ),
    Protocol(
        *("davis2016-saliency", "davis2016", "val", "saliency", "map", "all", ("MAE",)),
        void=_NO_VOID,
        averages=_SALIENCY,
        source=_MAPS,
    ),
    Protocol(
        *("davis2017", "davis2017", "val", "guided", "ids", "inner", _JF),
        void=_BACKGROUND,
        averages=f"{_PER_OBJECT} The objects are 1 to the greatest id of the first mask.",
        source=f"Pont-Tuset et al., 2017; {_OFFICIAL}, semi-supervised task",
    ),
    Protocol(
        *("davis2017-automatic", "davis2017-automatic", "val", "automatic", "proposals", "all", _JF),
        void="left out of truth and prediction",
        averages=f"At most 20 proposals, assigned to the objects for the greatest mean of J and F. {_PER_OBJECT}",
        source=f"Caelles et al., 2019; {_OFFICIAL}, unsupervised task",
    ),
    _youtube_vos("2018"),
    _youtube_vos("2019"),
    Protocol(
        *("segtrack-v2", "segtrack-v2", "all", "segtrack", "ids", "all", ("J",)),
        void=_NO_VOID,
        averages="mIoU*: mean J over the objects of a frame, then over all frames. mIoU+: mean J of an object over the "
        "frames that show it, then over all objects.",
        source="Zeng et al., DMM-Net, ICCV 2019, section 4.1",
    ),
    Protocol(
        *("fbms", "fbms", "test", "automatic", "one", "all", _JF),
        void=f"{_NO_VOID}, the regions are merged to one object",
        averages=f"J and F of each sequence: {_STATISTICS} over its annotated frames, then the mean over sequences.",
        source="Ochs et al., PAMI 2014 (data); J as in TransportNet, section 4.2",
    ),
    Protocol(
        *("fbms-saliency", "fbms", "test", "saliency", "map", "all", ("MAE",)),
        void=f"{_NO_VOID}, the regions are merged to one object",
        averages=_SALIENCY,
        source=_MAPS,
    ),
    Protocol(
        *("visal", "visal", "all", "saliency", "map", "all", ("MAE",)),
        void=_NO_VOID,
        averages=_SALIENCY,
        source=f"Wang et al., TIP 2015 (data); {_MAPS}",
    ),
    Protocol(
        *("youtube-objects", "youtube-objects", "all", "automatic", "one", "all", ("J",)),
        void=_NO_VOID,
        averages="J of each sequence, mean over its annotated frames; mean over the sequences of each of the ten "
        "classes; J-Mean is the mean over classes.",
        source="Prest et al., CVPR 2012, masks of Jain and Grauman, ECCV 2014; averages as in MATNet, AAAI 2020",
    ),
    Protocol(
        *("vip", "vip", "val", "vip", "classes", "all", ("IoU",)),
        void="left out, as any label above 19",
        averages="One confusion matrix of 20 classes over all frames of all videos; mean IoU over those there are.",
        source="Zhou et al., ACM MM 2018; `eval_vip.py` in Liusifei/UVC",
    ),
    Protocol(
        *("jhmdb", "jhmdb", "test", "jhmdb", "joints", "all", ("PCK@0.1", "PCK@0.2", "PCK@0.3", "PCK@0.4", "PCK@0.5")),
        void=_NO_VOID,
        averages="Frame 0, the given one, is left out. Share of a joint's frames in which it is within 0.1 to 0.5 of "
        "0.6 x the diagonal of the joints' box; mean over joints. A lost joint (null) is left out, as published.",
        source="Yang and Ramanan, PAMI 2013; `eval_pck.py` in ajabri/videowalk",
    ),
    Protocol(
        *("folder", "folder", "all", "guided", "ids", "after-first", _JF),
        void=_BACKGROUND,
        averages=_PER_OBJECT,
        source="as DAVIS-2017, but for the frames: masks may be few, and objects may enter later",
    ),
)

PROTOCOLS: dict[str, Protocol] = {one.name: one for one in _ALL}
"""Every benchmark by name."""


def find_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        DatasetError: there is none.
    """
    if name not in PROTOCOLS:
        raise DatasetError(f"no benchmark is called '{name}'; choose one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
