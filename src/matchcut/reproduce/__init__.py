"""The papers' tables, figures and claims, each made by a command: `matchcut reproduce PAPER WHAT -o OUT`."""

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from matchcut.errors import PromptError
from matchcut.manifest import run_folder
from matchcut.reproduce import dmm_net, mask_vos, transport_net, transport_net_scores
from matchcut.reproduce.learning import learning
from matchcut.reproduce.scoring import Say
from matchcut.tracking.device import pick_device, pick_precision

KIND = "what reproduce made"

REPRODUCE: dict[str, dict[str, Callable[..., list[Path]]]] = {
    "dmm-net": {"figure-5": dmm_net.figure_5, "theorem-1": dmm_net.theorem_1},
    "transport-net": {
        "table-1": transport_net_scores.table_1,
        "table-2": transport_net_scores.table_2,
        "table-3": transport_net_scores.table_3,
        "figure-4": transport_net_scores.figure_4,
        "figure-6": transport_net.figure_6,
        "sinkhorn": transport_net.sinkhorn_limits,
    },
    "mask-vos": {"figure-s5": mask_vos.figure_s5, "table-s1": mask_vos.table_s1, "table-s2": mask_vos.table_s2},
    "matching": {"learning": learning},
}
"""What there is, by paper. Each takes a folder and those of `reproduce`'s other arguments that it names, and returns
what it wrote."""


def reproduce(
    paper: str,
    what: str,
    out: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = print,
    **given: Any,
) -> list[Path]:
    """Make one table or figure of a paper in the folder `out`; the files written, pictures first.

    Args:
        seed: of all random numbers.
        overwrite: begin anew, and replace what an earlier call wrote there, and nothing else. Without it that is gone
            on with.
        say: is told how far it is.
        given: what this table or figure is made from, of these: `root`, the benchmark that is scored on; `data`,
            folders of videos that are trained on; `weights` of a training run, instead of the shipped ones; `epochs` of
            each training; `only`, some of the rows; `precision` of training and scoring ("auto" is what is fast here).

    Raises:
        PromptError: no such paper, nothing of that name in it, or something it needs is not given, or not needed.
        ModelError: no such precision.
        MatchcutError: the folder cannot be written or has files of the user's by the names of those that are made, or
            what is given cannot be used.
    """
    if what not in REPRODUCE.get(paper, {}):
        known = "; ".join(f"{name}: {', '.join(made)}" for name, made in REPRODUCE.items())
        raise PromptError(f"reproduce {paper} {what}: unknown; there is {known}")
    make = REPRODUCE[paper][what]
    takes = signature(make).parameters
    for name in given:
        if name not in takes:
            raise PromptError(f"reproduce {paper} {what}: takes no --{name}; leave it out")
    for name, one in takes.items():
        if one.default is Parameter.empty and name not in ("out", *given):
            raise PromptError(f"reproduce {paper} {what}: is made from what --{name} gives; see --help")
    if "precision" in given:
        pick_precision(given["precision"], pick_device("auto"))
    common = {"seed": seed, "overwrite": overwrite, "say": say}
    read = [Path(one) for one in (given.get("root"), given.get("weights"), *given.get("data", ())) if one is not None]
    how: Any = {"inputs": read, "overwrite": overwrite, "resume": not overwrite}
    with run_folder(out, KIND, [f"{what}.csv", f"{what}.png"], **how):
        return make(out, **given, **{name: value for name, value in common.items() if name in takes})
