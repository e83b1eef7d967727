"""The command line: parses, calls the library, prints. What it does lives in `matchcut.api`."""

import sys

import matchcut.cli.clock  # noqa: F401  begins to count

# isort: split
import typer

from matchcut.cli.benchmarks import evaluate, score
from matchcut.cli.masks import segment, track
from matchcut.cli.shared import check_words, stoppable
from matchcut.cli.terminal import any_text, tell
from matchcut.cli.training import models, reproduce, train
from matchcut.errors import MatchcutError

app = typer.Typer(
    name="matchcut",
    help="Cut any object out of a video by matching.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Cut any object out of a video by matching."""


for _command in (track, segment, score, evaluate, train, reproduce, models):
    app.command()(stoppable()(_command))


def main() -> None:
    """Run the command line: exit status 2 and one line for bad input."""
    with any_text():
        try:
            check_words(sys.argv[1:])
            app()
        except MatchcutError as error:
            tell(f"matchcut: {error}")
            sys.exit(2)
