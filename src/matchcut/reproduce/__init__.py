"""The papers' tables, figures and claims, each made by a command: `matchcut reproduce PAPER WHAT -o OUT`."""

from collections.abc import Callable
from pathlib import Path

from matchcut.errors import PromptError
from matchcut.files import make_folder
from matchcut.reproduce import dmm_net, transport_net
from matchcut.reproduce.learning import learning

Say = Callable[[str], None]

REPRODUCE: dict[str, dict[str, Callable[..., list[Path]]]] = {
    "dmm-net": {"figure-5": dmm_net.figure_5, "theorem-1": dmm_net.theorem_1},
    "transport-net": {"figure-6": transport_net.figure_6, "sinkhorn": transport_net.sinkhorn_limits},
    "matching": {"learning": learning},
}
"""What there is, by paper; each takes a folder, a seed and where to say how far it is, and returns what it wrote."""


def reproduce(paper: str, what: str, out: Path, *, seed: int = 0, say: Say = print) -> list[Path]:
    """Make one table or figure of a paper in the folder `out`; the files written, pictures first.

    Raises:
        PromptError: no such paper, or nothing of that name in it.
        OutputError: the folder cannot be written.
    """
    if what not in REPRODUCE.get(paper, {}):
        known = "; ".join(f"{name}: {', '.join(made)}" for name, made in REPRODUCE.items())
        raise PromptError(f"reproduce {paper} {what}: unknown; there is {known}")
    make_folder(out)
    return REPRODUCE[paper][what](out, seed=seed, say=say)
