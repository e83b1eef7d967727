"""TransportNet (Zhang et al., ICCV 2021): its scores, what each part brings, and its matches drawn as arrows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.benchmarks.drawing import GREY, new_figure, save
from matchcut.benchmarks.protocols import find_protocol
from matchcut.benchmarks.results import Result
from matchcut.data import read_dataset, read_truth
from matchcut.data.clips import ClipConfig
from matchcut.errors import DatasetError, PromptError
from matchcut.files import atomic_path, make_folder, read_csv, write_csv
from matchcut.flow.fields import camera_flow, dis_flow, draw_flow
from matchcut.folders import VIDEOS
from matchcut.masks import write_mask
from matchcut.matching.factorised import GroupedTransport, LongShortTransport
from matchcut.models.base import AutomaticModel, ModelInput, ModelSpec
from matchcut.models.catalogue import AUTOMATIC
from matchcut.models.transport_net import TransportNet
from matchcut.reproduce.scoring import Say, Scorer, chosen_rows, folder_name, percent, training_precision
from matchcut.tracking.automatic import Segmenter, to_image
from matchcut.tracking.instances import annotations_from
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.training import training_loop
from matchcut.training.config import OptimiserConfig, ScheduleConfig, TrainConfig
from matchcut.video.reader import Video
from matchcut.weights.store import load_model

PAPER_1 = {"davis2016-automatic": (84.5, 85.0), "fbms": (78.7, None)}
PAPER_2 = {"davis2016-saliency": (0.013, 92.8), "fbms-saliency": (0.045, 88.5), "visal": (0.012, 95.3)}
ROWS: dict[str, tuple[dict[str, Any], float | None]] = {
    "no matching": ({"matching": "none"}, 80.4),
    "full": ({"matching": "full"}, 83.4),
    "long": ({"matching": "long"}, 82.4),
    "short": ({"matching": "short"}, 83.9),
    "long-short": ({}, 84.5),
    "long-short, Res5": ({"matched": [4]}, 83.3),
    "long-short, Res4 and Res5": ({"matched": [3, 4]}, 83.8),
    "long-short, no edge loss": ({"edge": 0.0}, 84.3),
    "long-short, added": ({"residual": True}, None),
    "long-short, places": ({"place": 0.5}, None),
    "frame alone": ({"matching": "none", "still": 1.0}, None),
}
"""Of Table 3: what each changes of a recipe, and J on DAVIS-2016 as published. "Res5": only after that stage. "added":
what was carried is added to what was there. "places": they count in the scores."""
BLIND = "frame alone"
"""The row whose network never sees motion."""
ARROWS = {"long": (1, "#3b6fd4", 4.0), "short": (2, "#e8862e", 1.2)}
"""Of Figure 4: how many of the strongest matches are drawn, in which colour, and how wide."""


SMALL = TrainConfig(
    objective="transport-net",
    epochs=6,
    batch_size=8,
    average=0.99,
    workers=1,
    log_every=20,
    data=ClipConfig(
        length=1, stride=(1, 2), size=(256, 256), side=256, scale=(0.4, 1.0), rotation=10, jitter=0.3, clips=440
    ),
    optimiser=OptimiserConfig(rate=1e-3, rates={"backbone": 1e-4, "motion": 2e-4}, weight_decay=1e-5, clip=1.0),
    schedule=ScheduleConfig("cosine", warmup=1),
    settings={"architecture": "small", "dice_weight": 0.5, "still": 0.15, "pasted": 0.3},
)
"""What the rows of Table 3 change: the small recipe in the paper's form of the layer."""


TRACKED = "TransportNet, its surest frames tracked"


class FlowMagnitude(AutomaticModel):
    """The plainest rival: what moves faster than half of the fastest, the camera's own motion taken off."""

    spec = ModelSpec(size=320, multiple=32)

    def segment(self, frame: ModelInput) -> Tensor:
        """(1, 1, H, W): the speed is the saturation of the picture of the flow."""
        flow: Tensor = frame.side["flow"]
        return 1 - flow.amin(1, keepdim=True)


def table_1(
    out: Path,
    *,
    root: Path,
    weights: Path | None = None,
    only: Sequence[str] = (),
    precision: str = "auto",
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Table 1: J and F of the automatic task, beside the plain rivals.

    Args:
        root: DAVIS-2016 or FBMS, as published or in that layout.

    Raises:
        PromptError: no such row.
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    network = _network(weights)
    models: dict[str, Any] = {
        "TransportNet": network,
        TRACKED: network,
        "the same, shown no motion": network.with_settings(blind=True),
        "flow magnitude above half": FlowMagnitude(),
    }
    wanted, rows = chosen_rows(only, models), []
    scorer = Scorer(_benchmark(root, "automatic"), root, precision, overwrite, say)
    for name in wanted:
        folder = out / folder_name(name)
        found = _track(scorer, folder, network) if name == TRACKED else scorer.evaluate(models[name], folder)
        rows.append([name, *percent(found, "J-Mean", "F-Mean")])
        say(f"{name}: J {rows[-1][1]}, F {rows[-1][2]}")
    j, f = PAPER_1[scorer.benchmark]
    rows.append(["TransportNet, as published", str(j), "" if f is None else str(f)])
    return [write_csv(out / "table-1.csv", ["method", "J", "F"], rows)]


def table_2(
    out: Path,
    *,
    root: Path,
    weights: Path | None = None,
    precision: str = "auto",
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Table 2: mean absolute error and greatest F-measure of the probability maps.

    Args:
        root: DAVIS-2016, FBMS or ViSal, as published or in that layout.

    Raises:
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    benchmark = _benchmark(root, "saliency")
    found = Scorer(benchmark, root, precision, overwrite, say).evaluate(_network(weights), out / benchmark)
    values = [f"{found.summary['MAE']:.3f}", *percent(found, "F-Measure-Max")]
    say(f"{benchmark}: MAE {values[0]}, greatest F {values[1]}")
    rows = [["TransportNet", *values], ["as published", *map(str, PAPER_2[benchmark])]]
    return [write_csv(out / "table-2.csv", ["method", "MAE", "F-max"], rows)]


def table_3(
    out: Path,
    *,
    root: Path,
    data: Sequence[Path],
    epochs: int = 6,
    only: Sequence[str] = (),
    recipe: TrainConfig = SMALL,
    precision: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Table 3: what the layer, its places and the edge loss bring: J of networks that differ in nothing else.

    A run that was interrupted goes on, and rows that the folder's table has from other runs stay in it.

    Args:
        root: what is scored on, in the layout of DAVIS-2016 or FBMS.
        data: folders in the layout of DAVIS-2016 that are trained on.
        recipe: whose settings the rows change.
        precision: "auto" trains as the recipe says, and scores as `Segmenter` does.

    Raises:
        PromptError: no such row.
        DatasetError, TrainingError, ModelError, OutputError: the data, recipe or folder cannot be used.
    """
    wanted, train = chosen_rows(only, ROWS), training_loop()
    scorer = Scorer(_benchmark(root, "automatic"), root, precision, overwrite, say)
    table, head = out / f"table-3-{seed}.csv", ["layer", "J", "F", "J as published"]
    rows = {row[0]: row for row in read_csv(table)} if table.exists() else {}
    if precision != "auto":
        recipe = replace(recipe, precision=training_precision(precision))
    for name in wanted:
        changes, published = ROWS[name]
        folder = out / f"{folder_name(name)}-{seed}"
        config = replace(recipe, epochs=epochs, seed=seed, settings={**recipe.settings, **changes})
        network = _network(train(config, data, folder, overwrite=overwrite, resume=not overwrite, say=say))
        if name == BLIND:
            network = network.with_settings(blind=True)
        j, f = percent(scorer.evaluate(network, folder / "scored"), "J-Mean", "F-Mean")
        rows[name] = [name, j, f, "" if published is None else str(published)]
        say(f"{name}, seed {seed}: J {j}, F {f}")
    return [write_csv(table, head, [rows[name] for name in ROWS if name in rows])]


def figure_4(
    out: Path, *, root: Path, weights: Path | None = None, only: Sequence[str] = (), seed: int = 0, say: Say = print
) -> list[Path]:
    """Figure 4: from a cell of the object and one of the background, the strongest matches in the optical flow.

    Of the finest stage that is matched: one arrow of the long-distant layer, two of the short-distant one.

    Args:
        root: sequences with masks, in the layout of DAVIS-2016, or a video beside a folder `masks`; the middle frame of
            each is drawn.
        only: these sequences alone.

    Raises:
        PromptError: the network has no long-short layer, or there is no such sequence.
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    network, rng = _network(weights), np.random.default_rng(seed)
    if network.architecture.matching != "long-short" or not network.architecture.matched:
        raise PromptError("figure-4: the network has no long-short layer; give --weights of one that has")
    layout = ("davis2016", "val") if (root / "Annotations").is_dir() else ("folder", "all")
    found = read_dataset(layout[0], root, layout[1], only or None)
    figure = new_figure(8.5, 2.4 * len(found))
    panels = figure.subplots(len(found), 2, squeeze=False)
    rows: list[Sequence[Any]] = []
    for row, one in zip(panels, found, strict=True):
        names = list(one.images)
        middle = len(names) // 2
        files = list(dict.fromkeys(one.images.values()))  # frames of a video file all lead to that file
        with Video(files[0] if files[0].suffix.lower() in VIDEOS else files) as video:
            pair = [video[index] for index in (middle, min(middle + 1, len(names) - 1))]
        truth = read_truth(one, names[middle])
        flow = dis_flow(*pair)
        shown = draw_flow(flow - camera_flow(flow))
        for panel, picture in zip(row, (pair[0], shown), strict=True):
            panel.imshow(picture)
            panel.set_axis_off()
        match, cells = _match(network, pair[0], shown)
        scale = truth.shape[1] / cells[1], truth.shape[0] / cells[0]  # of a cell in pixels
        for what, inside in (("object", truth > 0), ("background", truth == 0)):
            y, x = _cell_within(rng, inside, cells)
            start = (x + 0.5) * scale[0], (y + 0.5) * scale[1]
            for distance, (count, colour, wide) in ARROWS.items():
                plan = match.long if distance == "long" else match.short
                for share, (to_y, to_x) in _strongest(plan, y, x, count):
                    end = (to_x + 0.5) * scale[0], (to_y + 0.5) * scale[1]
                    rows.append([one.name, what, distance, y, x, to_y, to_x, float(share)])
                    _arrow(figure, row, start, end, colour, wide)
            row[0].plot(*start, "o", color="white", markeredgecolor="black", markersize=5)
        row[0].set_title(f"{one.name}, frame {names[middle]}", fontsize=8, color=GREY, loc="left")
        row[1].set_title("its optical flow", fontsize=8, color=GREY, loc="left")
        say(one.name)
    figure.tight_layout(pad=1.5, h_pad=1.0)
    save(figure, out / "figure-4.png")
    header = ["sequence", "from", "layer", "row", "column", "to row", "to column", "share of its mass"]
    return [out / "figure-4.png", write_csv(out / "figure-4.csv", header, rows)]


def _match(
    network: TransportNet, frame: NDArray[np.uint8], flow: NDArray[np.uint8]
) -> tuple[LongShortTransport, tuple[int, int]]:
    """The match of the finest stage that is matched, and its grid."""
    segmenter = Segmenter(network, precision="float32")
    small = [to_image(segmenter.resize(one)).to(segmenter.device) for one in (frame, flow)]
    stage = min(network.architecture.matched)
    with torch.inference_mode():
        appearance, motion = network.streams(*small)[network.architecture.stages.index(stage)]
        layer: Any = network.layers[str(stage)]
        match: LongShortTransport = layer.match(appearance, motion)
    return match, (appearance.shape[2], appearance.shape[3])


def _strongest(plan: GroupedTransport, y: int, x: int, count: int) -> list[tuple[float, tuple[int, int]]]:
    """The cells to which most of a cell's mass goes, with their shares."""
    height, width = plan.size
    value = torch.zeros(1, 1, height, width, device=plan.groups.f.device)
    value[0, 0, y, x] = 1
    row = plan.transposed().apply(value)[0, 0].flatten()  # what each cell of the motion gets of this one
    shares, places = (row / row.sum().clamp(min=1e-12)).topk(count)
    return [(float(one), divmod(int(at), width)) for one, at in zip(shares, places, strict=True)]


def _cell_within(rng: np.random.Generator, inside: NDArray[np.bool_], cells: tuple[int, int]) -> tuple[int, int]:
    """A cell that lies in a region of the frame, by chance; away from the frame's border."""
    rows = ((np.arange(cells[0]) + 0.5) * inside.shape[0] / cells[0]).astype(int)
    columns = ((np.arange(cells[1]) + 0.5) * inside.shape[1] / cells[1]).astype(int)
    held = inside[np.ix_(rows, columns)]
    held[[0, -1]] = held[:, [0, -1]] = False
    at = np.argwhere(held)
    if not len(at):
        at = np.argwhere(np.ones(cells, bool))
    y, x = at[int(rng.integers(len(at)))]
    return int(y), int(x)


def _arrow(
    figure: Any, row: Any, start: tuple[float, float], end: tuple[float, float], colour: str, wide: float
) -> None:
    from matplotlib.patches import ConnectionPatch

    look: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "linewidth": wide, "alpha": 0.9}
    arrow = ConnectionPatch(start, end, "data", "data", axesA=row[0], axesB=row[1], **look)
    figure.add_artist(arrow)


def _network(weights: Path | None) -> TransportNet:
    network = load_model(AUTOMATIC, weights=str(weights) if weights else None)
    assert isinstance(network, TransportNet)
    return network


def _track(scorer: Scorer, out: Path, network: TransportNet) -> Result:
    """The scores of what `matchcut segment --track` gives; sequences that are whole are left as they are, unless they
    are to be overwritten."""
    protocol = find_protocol(scorer.benchmark)
    guided: Any = load_model()
    segmenter, tracker = (
        Segmenter(network, precision=scorer.precision),
        Tracker(guided, precision=scorer.precision),
    )
    for one in read_dataset(protocol.dataset, scorer.root, protocol.split):
        timeline = Timeline(Video(list(one.images.values())))
        place, done = out / "masks" / one.name, out / f"{one.name}.done"
        of = timeline.fingerprint(segmenter.fingerprint() + tracker.fingerprint())
        if not scorer.overwrite and done.exists() and done.read_text(encoding="utf-8") == of:
            continue
        make_folder(place)
        segmenter.fill(timeline)
        tracked = Timeline(timeline.video)
        try:
            for frame, labels in annotations_from(timeline, tracker, "track").items():
                tracked.annotate(frame, labels)
            tracker.fill(tracked)
        except PromptError:  # nothing was found in the whole sequence: it counts as it is
            tracked = timeline
        for name, filled in zip(one.images, tracked, strict=True):
            assert filled is not None
            write_mask(place / f"{name}.png", filled)
        with atomic_path(done) as temporary:
            temporary.write_text(of, encoding="utf-8")
        scorer.say(f"{one.name}: tracked from {len(tracked.annotated)} frames")
    return scorer.score(out)


def _benchmark(root: Path, task: str) -> str:
    """By the layout of a folder: FBMS has a Testset, ViSal a folder of its name, all else is read as DAVIS-2016."""
    if (root / "Testset").is_dir():
        return "fbms" if task == "automatic" else "fbms-saliency"
    if task == "saliency" and (root / "ViSal").is_dir():
        return "visal"
    if not (root / "JPEGImages").is_dir():
        raise DatasetError(f"{root}: neither DAVIS-2016 (JPEGImages) nor FBMS (Testset); give --root")
    return f"davis2016-{task}"
