"""`train`, `reproduce` and `models`: making weights, the papers' tables and figures, and what there is."""

import os
import shutil
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from matchcut.cli import options
from matchcut.cli.shared import resumable
from matchcut.cli.terminal import say, starting, tell


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, as recipes/mask_vos.toml.")],
    data: Annotated[list[Path], typer.Option(help="Folder of videos or of folders of frames; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, checkpoints, log and pictures.")],
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    device: options.Device = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded frames, to be shared by runs.")] = None,
) -> None:
    """Train a network on raw video by a recipe; under torchrun, on several processes."""
    starting()
    from matchcut import api

    with resumable():
        how: Any = {"overwrite": overwrite, "resume": resume, "device": device, "cache": cache}
        written = api.train(recipe, data, out, **how, say=say)
    if int(os.environ.get("RANK", 0)) == 0:  # of torchrun's processes one tells
        say(f"weights   {written}")


def reproduce(
    paper: Annotated[str, typer.Argument(help="dmm-net, transport-net, mask-vos or matching; a wrong one lists all.")],
    what: Annotated[str, typer.Argument(help="figure-5, figure-6, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and CSVs.")],
    seed: Annotated[int, typer.Option(help="Of all random numbers.", min=0)] = 0,
    root: Annotated[Path | None, typer.Option(help="Benchmark that is scored on, where one is.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Videos that are trained on; may be repeated.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A training run's, instead of those shipped.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each training.", min=1)] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the networks: float32, bfloat16 or auto.")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a table, a figure or a proof of one of the papers."""
    starting()
    from matchcut.reproduce import reproduce as make

    asked = {"root": root, "data": data, "weights": weights, "epochs": epochs, "only": only, "precision": precision}
    given: Any = {name: value for name, value in asked.items() if value not in (None, [])}
    for path in make(paper, what, out, seed=seed, overwrite=overwrite, say=tell, **given):
        say(f"written   {path}")


def models() -> None:
    """List the models, with backbone, licence and scores."""
    from matchcut.models.catalogue import DEFAULT_MODEL, MODELS
    from matchcut.weights.records import WEIGHTS

    width = shutil.get_terminal_size().columns
    for one in MODELS.values():
        weights = None if one.weights is None else WEIGHTS[one.weights]
        about = f"backbone {weights.backbone}, licence {weights.licence}" if weights else "no weights"
        say(f"{one.name} (default)" if one.name == DEFAULT_MODEL else one.name)
        scores = ", ".join(f"{key}: {value}" for key, value in one.scores.items())
        for text in (one.summary, about, scores):
            for line in textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False):
                say(f"    {line}")
