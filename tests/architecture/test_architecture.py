"""The package's shape: what importing costs, what is public, which way imports run, and how long a file may be."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import matchcut

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "matchcut"
HEAVY = ("torch", "torchvision", "timm", "numba", "av", "cv2", "PIL", "scipy", "safetensors", "typer", "rich")


def loaded_by(statement: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(name: str) -> list[str]:
    package = importlib.import_module(name)
    inner = pkgutil.walk_packages(getattr(package, "__path__", []), name + ".")
    return [name, *(module.name for module in inner)]


# --- import cost


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import matchcut") == set()


def test_listing_the_public_names_loads_nothing_heavy():
    assert loaded_by("import matchcut; dir(matchcut); matchcut.__version__; matchcut.MatchcutError") == set()


@pytest.mark.parametrize(
    "module",
    [
        module
        for name in ("metrics", "video", "masks", "files", "folders", "pictures", "errors")
        for module in modules_of(f"matchcut.{name}")
    ],
)
def test_scoring_and_files_need_no_torch(module):
    assert loaded_by(f"import {module}").isdisjoint({"torch", "torchvision", "timm"})


@pytest.mark.parametrize("module", ["matching", "models.label_propagation", "models.base"])
def test_matching_needs_no_video_or_terminal_library(module):
    # timm, which gives the backbones, loads Pillow and safetensors itself.
    unwanted = {"av", "typer"} | ({"cv2"} if module == "matching" else set())
    assert loaded_by(f"import matchcut.{module}").isdisjoint(unwanted)


def test_the_reader_loads_a_decoder_only_when_a_video_is_opened():
    assert loaded_by("import matchcut; matchcut.Video; import matchcut.masks") == set()


# --- public names


def test_public_names_are_what_the_list_says():
    assert sorted(matchcut.__all__) == matchcut.__all__ and len(set(matchcut.__all__)) == len(matchcut.__all__)
    assert set(dir(matchcut)) == {*matchcut.__all__, "__version__"}
    for name in matchcut.__all__:
        assert getattr(matchcut, name) is not None
    assert {*matchcut._HOMES, *matchcut._MODULES, "MatchcutError"} == set(matchcut.__all__)


def test_public_names_stand_where_they_are_said_to():
    for name, home in matchcut._HOMES.items():
        assert getattr(matchcut, name) is getattr(importlib.import_module(home), name)
    namespace: dict[str, object] = {}
    exec("from matchcut import *", namespace)
    assert set(matchcut.__all__) <= set(namespace)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'matchcut' has no attribute 'Trackr'"):
        _ = matchcut.Trackr


@pytest.mark.parametrize("name", ["matchcut.matching", "matchcut.metrics"])
def test_public_modules_list_names_that_exist(name):
    module = importlib.import_module(name)
    assert module.__all__ and all(hasattr(module, public) for public in module.__all__)


# --- docstrings


@pytest.mark.parametrize(
    "name",
    [
        module
        for name in ("matching", "models", "tracking", "masks", "video", "metrics", "weights", "api")
        for module in modules_of(f"matchcut.{name}")
    ],
)
def test_public_functions_and_classes_have_docstrings(name):
    module = importlib.import_module(name)
    missing = [
        f"{name}.{public}"
        for public, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and not public.startswith("_")
        and value.__module__ == name
        # A dataclass without a docstring gets its signature as one.
        and (not value.__doc__ or value.__doc__.startswith(f"{public}("))
    ]
    assert missing == []


# --- the import rule


def test_imports_run_downwards():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
