"""Mask-VOS (Li et al., CVPR 2023, supplement): rounds of refinement side by side, body parts, and what each term of the
training brings and costs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from matchcut.benchmarks.drawing import GREY, new_figure, save
from matchcut.benchmarks.results import Result
from matchcut.benchmarks.run import Choice, run_benchmark
from matchcut.benchmarks.score import score
from matchcut.data import read_dataset, read_truth
from matchcut.data.clips import ClipConfig
from matchcut.data.sequence import Sequence as Footage
from matchcut.errors import DatasetError, PromptError
from matchcut.files import write_csv
from matchcut.masks import read_mask
from matchcut.models.mask_vos import MaskVOS
from matchcut.tracking.device import pick_device, pick_precision
from matchcut.training import training_loop
from matchcut.training.config import OptimiserConfig, TrainConfig
from matchcut.training.mask_vos import make_network
from matchcut.video.images import read_image
from matchcut.video.overlay import draw_overlay
from matchcut.weights.store import load_model

Say = Callable[[str], None]

NETWORK: dict[str, Any] = {"steps": ("finer",)}
"""Of inference: what matching and network give, with nothing after them."""
ROUNDS: dict[str, dict[str, Any]] = {
    "coarse": {"blend": 1.0, "steps": ()},
    "matched finer": {"blend": 1.0, **NETWORK},
    "round 0": {"rounds": 0, **NETWORK},
    "round 1": NETWORK,
    "round 2": {"rounds": 2, **NETWORK},
    "along edges": {"steps": ("finer", "guided")},
    "target model": {"steps": ("finer", "guided", "target")},
    "pixels": {},
}
"""What is carried on the grid of cells, with its edges on the finer grid, what R rounds of decoding make of it; one
round, enlarged along the frame's edges; that with the target model; and the default, that with what pixels at edges
say."""
MEANS = ("J-Mean", "F-Mean")
SHOWN_AT = 0.8
"""How far into a sequence the frame lies that is drawn."""

PAPER_S1 = {"Mask-VOS, ResNet-18, as published": 42.9}
PAPER_S2 = {"L_Corr, as published": (5.1, 68.8), "L_Corr + L_Seg, as published": (5.5, 74.5)}

TERMS: dict[str, dict[str, Any]] = {
    "initial features": {},
    "long term": {"long_term": 1.0, "cross_view": 0.1},
    "short term": {"short_term": 1.0},
    "colour": {"reconstruction": 1.0},
    "L_Corr: long and short term": {"long_term": 1.0, "cross_view": 0.1, "short_term": 1.0},
    "L_Seg: k-means": {"masks": 1.0, "pasted": 0.0},
    "L_Seg: transport": {"masks": 1.0, "pasted": 0.0, "clusters": "transport"},
    "L_Seg: pasted pieces": {"masks": 1.0, "pasted": 1.0},
    "L_Corr + L_Seg: k-means": {"long_term": 1.0, "short_term": 1.0, "masks": 1.0, "pasted": 0.0},
}
"""Weights of the terms of each row of the table; all others are 0."""
OFF: dict[str, Any] = {"long_term": 0.0, "cross_view": 0.0, "short_term": 0.0, "reconstruction": 0.0, "masks": 0.0}


def figure_s5(
    out: Path,
    *,
    seed: int = 0,
    say: Say = print,
    root: Path,
    weights: Path | None = None,
    precision: str = "auto",
) -> list[Path]:
    """Figure S5: masks of 0, 1 and 2 rounds of refinement side by side, and of matching alone; with J and F of each.

    Args:
        root: sequences with masks, in the layout of DAVIS; those of one bit a pixel are of one object.
        weights: of a training run; None has the shipped ones.
        precision: as of `Tracker`.

    Raises:
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    del seed  # nothing is drawn by chance
    benchmark, model = _davis(root), load_model("mask-vos", weights=str(weights) if weights else None)
    assert isinstance(model, MaskVOS)
    results = {
        name: _evaluated(benchmark, root, out / name.replace(" ", "-"), model.with_settings(**changes), say, precision)
        for name, changes in ROUNDS.items()
    }
    rows = []
    for name, result in results.items():
        rows += [[name, one.name, *(f"{100 * one.summary[m]:.1f}" for m in MEANS)] for one in result.objects]
        rows.append([name, "all", *(f"{100 * result.summary[m]:.1f}" for m in MEANS)])
        say(f"{name}: J&F {100 * result.summary['J&F-Mean']:.1f}")
    picture, table = out / "figure-s5.png", out / "figure-s5.csv"
    _draw_rounds(read_dataset(benchmark, root, "val"), results, picture)
    write_csv(table, ["what", "object", "J", "F"], rows)
    return [picture, table]


def _draw_rounds(found: Sequence[Footage], results: Mapping[str, Result], path: Path) -> None:
    heads = ["given", *results, "truth"]
    figure = new_figure(2.6 * len(heads), 1.8 * len(found))
    panels = figure.subplots(len(found), len(heads), squeeze=False)
    for row, one in zip(panels, found, strict=True):
        names = list(one.images)
        shown = names[round(SHOWN_AT * (len(names) - 2))]
        frame, truth = read_image(one.images[shown]), read_truth(one, shown)
        pictures = [draw_overlay(read_image(one.images[names[0]]), read_truth(one, names[0]), ids=False)]
        for result in results.values():
            labels = read_mask(result.masks / one.name / f"{shown}.png")
            pictures.append(draw_overlay(frame, labels, ids=False))
        pictures.append(draw_overlay(frame, truth, ids=False))
        for panel, picture in zip(row, pictures, strict=True):
            scale = 400 / picture.shape[1]
            panel.imshow(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            panel.set_axis_off()
        row[0].set_title(f"{one.name}: given", fontsize=8, color=GREY)
        row[1].set_title(f"{heads[1]}, frame {shown}", fontsize=8, color=GREY)
        for panel, head in zip(row[2:], heads[2:], strict=True):
            panel.set_title(head, fontsize=8, color=GREY)
    figure.tight_layout(pad=0.4, h_pad=1.2)
    save(figure, path)


def table_s1(
    out: Path,
    *,
    seed: int = 0,
    say: Say = print,
    root: Path,
    weights: Path | None = None,
    precision: str = "auto",
) -> list[Path]:
    """Table S1: body parts carried through VIP, mean IoU over classes; label propagation beside it.

    Args:
        root: VIP as published.
        weights: of a training run; None has the shipped ones.
        precision: as of `Tracker`.

    Raises:
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    del seed
    model = load_model("mask-vos", weights=str(weights) if weights else None)
    assert isinstance(model, MaskVOS)
    models = {
        "label propagation": load_model("label-propagation"),
        "Mask-VOS, matched": model.with_settings(blend=1.0, **NETWORK),
        "Mask-VOS, decoded": model,
    }
    rows = []
    for name, one in models.items():
        result = _evaluated("vip", root, out / name.replace(", ", "-").replace(" ", "-").lower(), one, say, precision)
        value = next(iter(result.summary.values()))
        rows.append([name, f"{100 * value:.1f}"])
        say(f"{name}: mIoU {100 * value:.1f}")
    rows += [[name, f"{value:.1f}"] for name, value in PAPER_S1.items()]
    write_csv(out / "table-s1.csv", ["method", "mIoU"], rows)
    return [out / "table-s1.csv"]


def table_s2(
    out: Path,
    *,
    seed: int = 0,
    say: Say = print,
    root: Path,
    data: Sequence[Path],
    epochs: int = 40,
    only: Sequence[str] = (),
    form: str = "small",
    size: int = 256,
    precision: str = "auto",
) -> list[Path]:
    """Table S2, and one of the terms of the loss: minutes an epoch, and J&F, of each row of `TERMS`.

    Every row is trained for as many epochs from the same start, those without L_Corr on frozen features. Rows without
    L_Seg are scored by matching alone, the others by matching alone and decoded. A run that was interrupted goes on.

    Args:
        root: what is scored on, in the layout of DAVIS.
        data: folders of videos that are trained on.
        epochs: of each row. The paper has 400.
        only: some of the rows; none: all.
        form, size: of the network, and side of the crops.
        precision: of training and scoring, as of `Tracker`.

    Raises:
        PromptError: no such row.
        DatasetError, TrainingError, ModelError, OutputError: the data, recipe or folder cannot be used.
    """
    if unknown := set(only) - set(TERMS):
        raise PromptError(f"no row {', '.join(sorted(unknown))}; there are: {'; '.join(TERMS)}")
    train, benchmark, rows = training_loop(), _davis(root), []
    for name in only or TERMS:
        folder = out / "".join(one for one in name.lower().replace(" ", "-") if one.isalnum() or one == "-")
        terms, minutes = TERMS[name], None
        if terms:
            recipe = _recipe(terms, epochs, seed, form, size, precision)
            weights = train(recipe, data, folder, resume=True, say=say)
            minutes = _minutes(folder / "log.jsonl", recipe)
            model = load_model("mask-vos", weights=str(weights))
        else:
            model = make_network(form, "imagenet").eval()
        assert isinstance(model, MaskVOS)
        modes = {"matched": {"blend": 1.0, **NETWORK}} | ({"decoded": NETWORK} if terms.get("masks") else {})
        for mode, changes in modes.items():
            result = _evaluated(benchmark, root, folder / mode, model.with_settings(**changes), say, precision)
            found = [f"{100 * result.summary[one]:.1f}" for one in ("J&F-Mean", *MEANS)]
            rows.append([name, mode, f"{minutes:.2f}" if minutes else "", *found])
            say(f"{name}, {mode}: J&F {found[0]}")
    rows += [[name, "", str(minutes), str(value), "", ""] for name, (minutes, value) in PAPER_S2.items()]
    write_csv(out / "table-s2.csv", ["terms", "mode", "minutes an epoch", "J&F", "J", "F"], rows)
    return [out / "table-s2.csv"]


def _recipe(terms: Mapping[str, Any], epochs: int, seed: int, form: str, size: int, precision: str) -> TrainConfig:
    settings = OFF | dict(terms)
    corresponds = any(settings[one] for one in ("long_term", "short_term", "reconstruction"))
    if settings["masks"]:
        settings |= {"masks_from": 3 * epochs // 4 if corresponds else 0, "masks_every": max(1, epochs // 40)}
        settings |= {"overlap": 0.5, "edges": 4.0, "mask_clips": 0}
    rates = {"backbone": 1e-5, "key": 1e-4} if corresponds else {"backbone": 0.0, "key": 0.0}
    return TrainConfig(
        objective="mask-vos",
        epochs=epochs,
        batch_size=4,
        precision=str(pick_precision(precision, pick_device("auto"))).removeprefix("torch."),  # type: ignore[arg-type]
        average=0.99,
        workers=1,
        log_every=5,
        seed=seed,
        data=ClipConfig(
            length=3,
            stride=(1, 4),
            size=(size, size),
            side=320,
            views=2 if corresponds else 1,
            scale=(0.3, 1.0),
            jitter=0.2,
        ),
        optimiser=OptimiserConfig(rate=1e-3, rates=rates, clip=1.0),
        settings=settings | {"form": form},
    )


def _minutes(log: Path, config: TrainConfig) -> float:
    """Minutes an epoch, by the median pace of the last quarter of a run."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    pace = np.median([one["images_a_second"] for one in lines[-(-3 * len(lines) // 4) :] or lines[-1:]])
    images = config.batch_size * config.data.views * config.data.length * lines[-1]["step"] / config.epochs
    return float(images / pace / 60)


def _evaluated(benchmark: str, root: Path, out: Path, model: Any, say: Say, precision: str) -> Result:
    run_benchmark(benchmark, root, out, Choice(model, precision=precision), resume=True, say=say)
    return score(benchmark, root, out / "masks")


def _davis(root: Path) -> str:
    """The benchmark by whose rules a folder is scored: several objects where its masks have a palette, else one."""
    found = read_dataset("davis2017", root, "val")
    if not found:
        raise DatasetError(f"{root}: holds no sequence; give --root a folder with JPEGImages and Annotations in it")
    first = next(iter(found[0].truths.values()))
    with Image.open(first[0]) as mask:
        return "davis2017" if mask.mode == "P" else "davis2016"
