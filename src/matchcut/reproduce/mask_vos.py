"""Mask-VOS (Li et al., CVPR 2023, supplement): rounds of refinement side by side, body parts, and what each term of the
training brings and costs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from matchcut.benchmarks.drawing import GREY, new_figure, save
from matchcut.benchmarks.results import Result
from matchcut.data import Sequence as Footage
from matchcut.data import read_dataset, read_truth
from matchcut.data.clips import ClipConfig
from matchcut.errors import DatasetError
from matchcut.files import write_csv
from matchcut.masks import read_mask
from matchcut.models.mask_vos import MaskVOS
from matchcut.reproduce.scoring import Say, Scorer, chosen_rows, folder_name, percent, training_precision
from matchcut.training import training_loop
from matchcut.training.config import OptimiserConfig, TrainConfig
from matchcut.training.objectives.mask_vos.objective import initial_mask_vos
from matchcut.video.images import read_image
from matchcut.video.overlay import draw_overlay
from matchcut.weights.store import load_model

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
    "long term": {"terms": ["long-term"]},
    "short term": {"terms": ["short-term"]},
    "L_Corr: long and short term": {"terms": ["long-term", "short-term"]},
    "L_Seg: k-means": {"terms": ["masks"], "pasted": 0.0},
    "L_Seg: transport": {"terms": ["masks"], "pasted": 0.0, "clusters": "transport"},
    "L_Seg: pasted pieces": {"terms": ["masks"], "pasted": 1.0},
    "L_Corr + L_Seg: k-means": {"terms": ["long-term", "short-term", "masks"], "pasted": 0.0},
}
"""The settings of each row of Table S2."""


def figure_s5(
    out: Path,
    *,
    root: Path,
    weights: Path | None = None,
    precision: str = "auto",
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Figure S5: masks of 0, 1 and 2 rounds of refinement side by side, and of matching alone; with J and F of each.

    Args:
        root: sequences with masks, in the layout of DAVIS; those of one bit a pixel are of one object.

    Raises:
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    scorer, model, rows = Scorer(_davis(root), root, precision, overwrite, say), _model(weights), []
    results: dict[str, Result] = {}
    for name, changes in ROUNDS.items():
        results[name] = found = scorer.evaluate(model.with_settings(**changes), out / folder_name(name))
        rows += [[name, one.name, *(f"{100 * one.summary[m]:.1f}" for m in MEANS)] for one in found.objects]
        rows.append([name, "all", *percent(found, *MEANS)])
        say(f"{name}: J&F {percent(found, 'J&F-Mean')[0]}")
    picture, table = out / "figure-s5.png", out / "figure-s5.csv"
    _draw_rounds(read_dataset(scorer.benchmark, root, "val"), results, picture)
    return [picture, write_csv(table, ["what", "object", "J", "F"], rows)]


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
    root: Path,
    weights: Path | None = None,
    precision: str = "auto",
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Table S1: body parts propagated through VIP, mean IoU over classes; label propagation beside it.

    Args:
        root: VIP as published.

    Raises:
        DatasetError, ModelError, OutputError: the data, weights or folder cannot be used.
    """
    scorer, model, rows = Scorer("vip", root, precision, overwrite, say), _model(weights), []
    models = {
        "label propagation": load_model("label-propagation"),
        "Mask-VOS, matched": model.with_settings(blend=1.0, **NETWORK),
        "Mask-VOS, decoded": model,
    }
    for name, one in models.items():
        found = scorer.evaluate(one, out / folder_name(name))
        rows.append([name, *percent(found, *found.summary)[:1]])
        say(f"{name}: mIoU {rows[-1][1]}")
    rows += [[name, f"{value:.1f}"] for name, value in PAPER_S1.items()]
    return [write_csv(out / "table-s1.csv", ["method", "mIoU"], rows)]


def table_s2(
    out: Path,
    *,
    root: Path,
    data: Sequence[Path],
    epochs: int = 40,
    only: Sequence[str] = (),
    architecture: str = "small",
    size: int = 256,
    precision: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    say: Say = print,
) -> list[Path]:
    """Table S2, and one of the terms of the loss: minutes an epoch, and J&F, of each row of `TERMS`.

    Every row is trained for as many epochs from the same start, those without L_Corr on frozen features. Rows without
    L_Seg are scored by matching alone, the others by matching alone and decoded. A run that was interrupted goes on.

    Args:
        root: what is scored on, in the layout of DAVIS.
        epochs: of each row. The paper has 400.
        architecture, size: of the network, and side of the crops.

    Raises:
        PromptError: no such row.
        DatasetError, TrainingError, ModelError, OutputError: the data, recipe or folder cannot be used.
    """
    wanted, train, rows = chosen_rows(only, TERMS), training_loop(), []
    scorer = Scorer(_davis(root), root, precision, overwrite, say)
    for name in wanted:
        folder, settings, minutes = out / folder_name(name), TERMS[name], ""
        if settings:
            recipe = _recipe(settings, epochs, seed, architecture, size, precision)
            model = _model(train(recipe, data, folder, overwrite=overwrite, resume=not overwrite, say=say))
            minutes = f"{_minutes(folder / 'log.jsonl', recipe):.2f}"
        else:
            model = initial_mask_vos(architecture, "imagenet").eval()
        modes = {"matched": {"blend": 1.0, **NETWORK}}
        if "masks" in settings.get("terms", ()):
            modes["decoded"] = NETWORK
        for mode, changes in modes.items():
            found = percent(scorer.evaluate(model.with_settings(**changes), folder / mode), "J&F-Mean", *MEANS)
            rows.append([name, mode, minutes, *found])
            say(f"{name}, {mode}: J&F {found[0]}")
    rows += [[name, "", str(pace), str(value), "", ""] for name, (pace, value) in PAPER_S2.items()]
    return [write_csv(out / "table-s2.csv", ["terms", "mode", "minutes an epoch", "J&F", "J", "F"], rows)]


def _recipe(
    row: Mapping[str, Any], epochs: int, seed: int, architecture: str, size: int, precision: str
) -> TrainConfig:
    settings, corresponds = {"architecture": architecture, **row}, row["terms"] != ["masks"]
    if "masks" in row["terms"]:
        settings |= {"masks_from": 3 * epochs // 4 if corresponds else 0, "masks_every": max(1, epochs // 40)}
        settings |= {"dice_weight": 0.5, "edge_weight": 4.0, "mask_clips": 0}
    rates = {"backbone": 1e-5, "key": 1e-4} if corresponds else {"backbone": 0.0, "key": 0.0}
    views = 2 if corresponds else 1
    return TrainConfig(
        objective="mask-vos",
        epochs=epochs,
        batch_size=4,
        precision=training_precision(precision),
        average=0.99,
        workers=1,
        log_every=5,
        seed=seed,
        data=ClipConfig(
            length=3, stride=(1, 4), size=(size, size), side=320, views=views, scale=(0.3, 1.0), jitter=0.2
        ),
        optimiser=OptimiserConfig(rate=1e-3, rates=rates, clip=1.0),
        settings=settings,
    )


def _minutes(log: Path, config: TrainConfig) -> float:
    """Minutes an epoch, by the median pace of the last quarter of a run."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    pace = np.median([one["images_a_second"] for one in lines[-(-3 * len(lines) // 4) :] or lines[-1:]])
    images = config.batch_size * config.data.views * config.data.length * lines[-1]["step"] / config.epochs
    return float(images / pace / 60)


def _model(weights: Path | None) -> MaskVOS:
    model = load_model("mask-vos", weights=str(weights) if weights else None)
    assert isinstance(model, MaskVOS)
    return model


def _davis(root: Path) -> str:
    """The benchmark by whose rules a folder is scored: several objects where its masks have a palette, else one."""
    found = read_dataset("davis2017", root, "val")
    if not found:
        raise DatasetError(f"{root}: holds no sequence; give --root a folder with JPEGImages and Annotations in it")
    first = next(iter(found[0].truths.values()))
    with Image.open(first[0]) as mask:
        return "davis2017" if mask.mode == "P" else "davis2016"
