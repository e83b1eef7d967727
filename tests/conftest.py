"""One thread a process, since pytest-xdist runs one a core; no limits of time; and where real data lies."""

import io
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it, and for the subprocesses of tests

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As a machine of two cores runs it: stages and frames side by side."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped elsewhere."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is absent")
    return path


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest) -> str:
    """Both, whatever this processor is built for: of all that runs a network."""
    name: str = request.param
    return name


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Call the command in this process: (exit status, standard output, standard error)."""
    from matchcut import cli

    def call(*words: object, stdin: bytes | None = None) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["matchcut", *map(str, words)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capfd.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call
