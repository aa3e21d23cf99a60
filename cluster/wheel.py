"""This project as it travels to a cluster: the files of its wheel, whether it runs from a checkout or was installed."""

import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from mergenet import config
from mergenet.config import InputError

PACKAGES = ("mergenet", "tune", "cluster")
BUILD_S = 120.0


def unpack_wheel(into: Path) -> None:
    """Lays the project out in `into` as its wheel would be installed: packages, their data, and what pip knows of them.

    What it depends on is not there: nodes have it already.

    Raises:
        InputError: the wheel cannot be built.
    """
    root = Path(config.__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        copy_installed(root, into)
        return
    with TemporaryDirectory(prefix="mergenet-wheel-") as folder:
        shutil.unpack_archive(build_wheel(root, Path(folder)), into, "zip")


def build_wheel(checkout: Path, into: Path) -> Path:
    """The wheel of a checkout, with what has not been committed.

    Raises:
        InputError: it cannot be built.
    """
    # in a copy, for setuptools leaves files where it builds, and takes those of an earlier build for its own
    aside = into / "source"
    for package in PACKAGES:
        shutil.copytree(checkout / package, aside / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(checkout / file, aside / file)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    try:
        done = subprocess.run(
            [*build, "--no-build-isolation", "--wheel-dir", str(into), str(aside)],
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"the wheel of {checkout} cannot be built: pip takes more than {BUILD_S:g} s") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise InputError(f"the wheel of {checkout} cannot be built: {why}")
    (wheel,) = into.glob("*.whl")
    return wheel


def copy_installed(root: Path, into: Path) -> None:
    """Copies what pip has installed in `root` of this project."""
    (project,) = Distribution.discover(name="mergenet", path=[str(root)])
    for file in project.files or ():
        if file.parts[0] != ".." and "__pycache__" not in file.parts:
            there = into / file
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), there)
