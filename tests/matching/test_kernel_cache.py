"""Kernels are compiled anew when any source changes, and work where nothing can be kept.

Each test has a small package of its own: a kernel, a helper of it in another file, and a copy of the module under test.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from matchcut.matching.cpu import cache

KERNEL = """
import numba
from package.cache import keep_on_disk
from package.helper import add

@numba.njit
def kernel(x):
    return add(x)

keep_on_disk(kernel)
"""
HELPER = "import numba\n\n@numba.njit\ndef add(x):\n    return x + 1\n"
RUN = "from package.kernel import kernel; print(kernel(1), len(kernel.stats.cache_hits))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    made = tmp_path / "package"
    made.mkdir()
    (made / "__init__.py").touch()
    (made / "kernel.py").write_text(KERNEL)
    (made / "helper.py").write_text(HELPER)
    shutil.copy(cache.__file__, made)
    return made


def run(package: Path, script: str = RUN, before: Sequence[str] = ()) -> list[int]:
    """The kernel's answer, and how many kernels were found on disk; nothing else may be said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    home = {"HOME": str(package / "home"), "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, "-c", script]
    done = subprocess.run(command, env=kept | home, cwd="/", text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [int(word) for word in done.stdout.split()]


def folders(package: Path) -> list[Path]:
    return sorted((package / "__pycache__").glob("kernels-*"))


def test_a_kernel_is_kept_until_a_helper_in_another_file_changes(package):
    assert run(package) == [2, 0]
    assert run(package) == [2, 1]
    (package / "helper.py").write_text(HELPER.replace("x + 1", "x + 2"))
    assert run(package) == [3, 0]
    (package / "helper.py").write_text(HELPER)
    assert run(package) == [2, 1]


def test_it_works_read_only_without_a_home(package):
    bound: list[str] = []
    if os.geteuid() == 0:  # whom permissions do not bind
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv, by which the superuser is bound by permissions")
        bound = ["setpriv", "--bounding-set", "-dac_override"]
    package.chmod(0o555)
    found = run(package, before=bound)
    package.chmod(0o755)
    assert found == [2, 0]
    assert not (package / "__pycache__").exists() and not (package / "home").exists()


@pytest.mark.parametrize(
    "trouble",
    [
        "import shutil; shutil.rmtree(folder)",
        "import shutil; shutil.rmtree(folder); open(folder, 'w').close()",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",  # as a full disk: no byte can be written
    ],
    ids=["gone", "a file", "full"],
)
def test_it_works_where_the_place_is_lost_before_it_is_written(package, trouble):
    first, second = RUN.split("; ")
    place = "import package.kernel; folder = package.kernel.kernel._cache.cache_path"
    assert run(package, "\n".join([place, trouble, first, second])) == [2, 0]


def test_what_was_cut_off_is_compiled_and_kept_anew(package):
    run(package)
    for one in folders(package)[0].iterdir():
        one.write_bytes(one.read_bytes()[:20])
    assert run(package) == [2, 0]
    assert run(package) == [2, 1]


def test_each_source_of_the_folder_counts(tmp_path):
    """For one, that of the products alone."""
    copied = shutil.copytree(Path(cache.__file__).parent, tmp_path / "cpu")
    assert cache.sources_name(copied) == cache.OWN
    with (copied / "products.py").open("a") as file:
        file.write("\n")
    assert cache.sources_name(copied) != cache.OWN
    assert cache.sources_name(tmp_path) is None
