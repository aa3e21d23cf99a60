"""What all tests share: one thread, small experiments, real data where it lies."""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file
from xdist.scheduler import LoadScopeScheduling

from mergenet import cli
from mergenet.config import merge, parse
from mergenet.data import load_data
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.models import find_model

REAL = Path(os.environ.get("MERGENET_DATA") or "data").absolute()
"""Where real data lies."""
RAY_IS_FREE_WITHIN_S = 1200.0


CLONE_NEWNET = 0x40000000


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types here
    """Tests of a file stay together; and so do all that start a Ray, where processes share a network: it has one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _starts_ray(self.config.rootpath / file) and not networks_can_be_made() else file


@cache
def networks_can_be_made() -> bool:
    """Whether a process of tests may have a network of its own, with loopback alone: Linux lets root."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "unshare"))):
        return False
    probe = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0


def pytest_configure(config: pytest.Config) -> None:
    """Each process beside others gets a network of its own, so that each may start a Ray."""
    if "PYTEST_XDIST_WORKER" in os.environ and networks_can_be_made():
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=30)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How tests are dealt out to processes."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start a Ray begin first: they take long, and wait a lot."""
    items.sort(key=lambda item: not _starts_ray(item.path))


@cache
def _starts_ray(path: Path) -> bool:
    return any(word in path.read_text() for word in ("only_ray", "tests.hosts import"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-for-bit comparisons hold for one number of threads."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def only_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray at a time in a network, though files of tests run side by side: for the files that start one."""
    if networks_can_be_made():
        yield
        return
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / "ray.lock").open("w") as lock:
        give_up = time.monotonic() + RAY_IS_FREE_WITHIN_S
        while not _locked(lock):
            assert time.monotonic() < give_up, "another file of tests has not let go of its Ray"
            time.sleep(0.5)
        yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found but what a test names; no mirror, for a store takes seconds to make."""
    for variable in ("MERGENET_DATA", "MERGENET_RUNS", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MERGENET_MLFLOW", "off")


Outcome = tuple[int, str, str]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Calls the command line in `tmp_path`: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mergenet", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    yield command
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def cifar100_small() -> Path:
    """A folder with real CIFAR-100 images, 20 train and 10 test a class, as Parquet."""
    folder = REAL / "small" / "cifar100"
    if not folder.is_dir():
        pytest.skip(f"needs real CIFAR-100 in {folder}; set MERGENET_DATA")
    return folder


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The overrides without which a recipe cannot run: for frozen learners files, of networks as they begin."""
    folder = tmp_path_factory.mktemp("weights")

    def overrides(recipe: str) -> list[str]:
        said = []
        for learner, (model, classes) in FROZEN.get(recipe, {}).items():
            file = folder / f"{model}-{classes}.safetensors"
            if not file.exists():
                save_file(find_model(model).build(classes).state_dict(), file)
            said.append(f"learners.{learner}.weights={file}")
        return said

    return overrides


@pytest.fixture(scope="session")
def digits() -> Images:
    """scikit-learn's handwritten digits."""
    return load_data({"digits"}, {})["digits"]


FROZEN = {
    "cifar100-frozen": {"source": ("resnet50-cifar", 100)},
    "cifar100-distill": {"teacher": ("resnet50-cifar", 100)},
    "cifar100-amalgamation": {"first": ("resnet50-cifar", 50), "second": ("mobilenet_v2-cifar", 50)},
}
"""Recipe -> learner that stands frozen in a file -> model and number of classes."""

MISSING = {recipe: [f"learners.{name}.weights={name}.safetensors" for name in of] for recipe, of in FROZEN.items()}
"""What a recipe cannot say itself."""

SMALL: dict[str, Any] = {
    "name": "small",
    "learners": {
        "source": {"model": "resnet18-narrow", "task": {"classification": {"data": "digits"}}},
        "target": {"model": "mobilenet_v2-narrow", "task": {"classification": {"data": "digits"}}},
    },
    "transfers": {
        "main": {
            "from": "source.classifier",
            "to": "target.irb16",
            "encoding": {"svd": {"rank": 4}},
            "adapter": {"lpka": {"width": 16, "heads": 2, "depth": 1}},
            "cycle": 2,
        }
    },
    "training": {"epochs": 1, "batch_size": 256, "optimizer": {"sgd": {"lr": 0.05}}, "schedule": "cosine"},
}


@pytest.fixture
def small() -> Callable[..., Experiment]:
    """Makes a trio of narrow networks on digits, five ticks an epoch, changed by a nested map."""

    def make(change: dict[str, Any] | None = None) -> Experiment:
        return parse(Experiment, merge(Experiment, SMALL, change or {}))

    return make


@pytest.fixture(scope="session")
def _tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tables import plan, train

    folder = tmp_path_factory.mktemp("tiny")
    train(plan(seeds=(0,)), folder)
    return folder


@pytest.fixture
def folder(_tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy, to spoil, of a folder with the tiny table's runs of one seed (`tests.tables`)."""
    return shutil.copytree(_tiny_runs, tmp_path / "copy")
