"""Every example in the docs is code that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from matchcut.benchmarks.protocols import PROTOCOLS

ROOT = Path(__file__).parents[2]


def test_the_example_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, "examples/track_and_correct.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "18 frames are stale" in done.stdout
    assert len(list((tmp_path / "masks").glob("*.png"))) == 60
    assert (tmp_path / "overlay.mp4").stat().st_size > 0


@pytest.mark.parametrize("page", ["affinity", "assignment", "deform", "regions", "transport"])
def test_python_blocks_of_the_matching_pages_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), {})


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_options_in_the_readme_exist() -> None:
    shown = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "README.md").read_text()))
    files = [*sorted((ROOT / "src/matchcut/cli").glob("*.py")), ROOT / "benchmarks/quality.py"]
    source = "".join(path.read_text() for path in files)
    known = {f"--{name}" for name in re.findall(r"^    (\w+): (?:Annotated|options\.)", source, re.MULTILINE)}
    known |= set(re.findall(r'"(--[a-z-]+)"', source))
    assert shown <= known, shown - known


def test_the_evaluation_page_names_every_benchmark_and_what_a_model_runs_on() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (g?) ?\|", (ROOT / "docs/evaluation.md").read_text(), re.MULTILINE)
    assert rows == [(one.name, "g" if one.prompted else "") for one in PROTOCOLS.values()]
