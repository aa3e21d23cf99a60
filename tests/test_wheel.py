"""The wheel: what travels to a cluster, and what pip installs, is the project with its data and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.wheel import build_wheel, copy_installed, unpack_wheel
from tests.refused import refusal

CHECKOUT = Path(__file__).parents[1]


def files_in(folder: Path) -> set[str]:
    """Names of all files below, by /."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    unpack_wheel(folder)
    return folder


def test_it_holds_the_packages_and_their_data_and_no_tests(unpacked: Path) -> None:
    there = files_in(unpacked)
    for package in ("mergenet", "tune", "cluster"):
        checkout = {f"{package}/{name}" for name in files_in(CHECKOUT / package) if "__pycache__" not in name}
        kept = {name for name in checkout if name.endswith((".py", ".html", "py.typed"))}
        kept |= {name for name in checkout if name.endswith(".yaml") and not name.startswith("cluster/")}
        assert {name for name in there if name.startswith(f"{package}/")} == kept
    assert {name.partition("/")[0] for name in there} == {"mergenet", "tune", "cluster", "mergenet-0.1.0.dist-info"}


def test_it_runs_from_where_it_is_laid_out(unpacked: Path, tmp_path: Path) -> None:
    """As a job does: its folder comes before whatever else is installed."""
    words = ["-c", "import mergenet, sys; print(mergenet.__file__); from mergenet.cli import main; main()", "--version"]
    env = {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(unpacked / "mergenet"))


def test_what_was_not_committed_travels_and_an_earlier_build_does_not(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("mergenet", "tune", "cluster"):
        (checkout / package).mkdir(parents=True)
        (checkout / package / "__init__.py").touch()
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / file, checkout / file)
    (checkout / "mergenet" / "fresh.py").touch()
    stale = checkout / "build" / "lib" / "mergenet" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    shutil.unpack_archive(build_wheel(checkout, tmp_path), tmp_path / "there", "zip")
    there = files_in(tmp_path / "there")
    assert "mergenet/fresh.py" in there and "mergenet/stale.py" not in there
    assert sorted(path.name for path in checkout.iterdir()) == [
        *("README.md", "build", "cluster", "mergenet", "pyproject.toml", "tune")
    ], "nothing is left where it was built from"


def test_one_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    for package in ("mergenet", "tune", "cluster"):
        (tmp_path / "checkout" / package).mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").write_text("[build-system")
    (tmp_path / "checkout" / "README.md").touch()
    assert "cannot be built" in refusal(lambda: build_wheel(tmp_path / "checkout", tmp_path))


def test_a_build_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.wheel.BUILD_S", 0.01)
    assert "pip takes more than 0.01 s" in refusal(lambda: build_wheel(CHECKOUT, tmp_path))


def test_what_was_installed_for_good_travels_as_it_is(unpacked: Path, tmp_path: Path) -> None:
    """What pip adds when it installs, compiled files and commands, stays behind."""
    root = tmp_path / "site-packages"
    shutil.copytree(unpacked, root)
    information = root / "mergenet-0.1.0.dist-info"
    (root / "mergenet" / "__pycache__").mkdir()
    (root / "mergenet" / "__pycache__" / "cli.cpython-311.pyc").touch()
    with (information / "RECORD").open("a") as record:
        record.write("../../../bin/mergenet,,\nmergenet/__pycache__/cli.cpython-311.pyc,,\n")
    (root / "another.py").touch()
    copy_installed(root, tmp_path / "there")
    assert files_in(tmp_path / "there") == files_in(unpacked)
