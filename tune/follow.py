"""Follows the record of a run that is under way and keeps MLflow up to it, in a process of its own.

A process and not a thread: importing MLflow and waiting for it takes nothing from the training, its settings and its
chatter stay its own, one that hangs can be ended, and when the driver is killed it still says so to MLflow.
The follower ends when its standard input does; what came in there is the folder of the model. What it prints is said
to the user.
"""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mergenet.training.files import has_begun, shown
from tune.records import LOCK, Mirror, bring_up
from tune.store import QUIET, alone, check_uri, default_uri, reason, require_mlflow, without_password

EVERY_S = 5.0
PATIENCE_S = 60.0  # for the last sync with the model; MLflow that is away is noticed in a few seconds
URI = "MERGENET_FOLLOWED_URI"
HASTE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}


@contextmanager
def mirrored(
    folder: Path,
    uri: str,
    say: Callable[[str], None],
    model: Callable[[], Path | None] = lambda: None,
    every: float = EVERY_S,
) -> Iterator[None]:
    """Keeps MLflow up to the record in `folder` while the run inside writes it, and ends its MLflow run after it.

    Whatever happens to MLflow, the run goes on: one line is said, and `sync` sends later what is missing.

    Args:
        say: takes a line for the user, from another thread.
        model: called when the run inside has ended well; a folder to keep as the artifact `model`.
        every: seconds between two looks at the record.

    Raises:
        InputError: no such kind of store, or MLflow is not installed.
    """
    require_mlflow()
    check_uri(uri)
    follower = _start(folder, uri, every)
    relay = threading.Thread(target=_relay, args=(follower.stdout, say), daemon=True)
    relay.start()
    kept = None
    try:
        yield
        kept = _made(model, say)
    finally:
        _end(follower, "" if kept is None else str(kept.absolute()))
        relay.join()
        if follower.returncode:
            say(away(folder, uri, "it took too long" if follower.returncode < 0 else "its follower ended early"))


def _made(model: Callable[[], Path | None], say: Callable[[str], None]) -> Path | None:
    """The model; a run that has ended well is not made to fail by it."""
    try:
        return model()
    except Exception as error:
        say(f"the trained model is not sent to MLflow: {reason(error)}")
        return None


def away(folder: Path, uri: str, why: str) -> str:
    """What the user is told."""
    place = without_password(uri)
    to = "" if uri == default_uri(folder.parents[1]) else f" --to {place}"
    return f"MLflow at {place} is away ({why}); the record is whole, `mergenet sync {shown(folder)}{to}` sends it later"


def _start(folder: Path, uri: str, every: float) -> "subprocess.Popen[str]":
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tune.follow", str(folder), str(every)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**QUIET, **HASTE, **os.environ, "PYTHONPATH": paths, URI: uri},  # which may hold a password
        start_new_session=True,  # Ctrl-C is for the run; the follower ends after it
        text=True,
    )


def _relay(lines: IO[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line.rstrip("\n"))


def _end(follower: "subprocess.Popen[str]", model: str) -> None:
    """Lets it send what is left, and ends it where that takes too long or the user is in a hurry."""
    assert follower.stdin is not None
    with suppress(BrokenPipeError):
        follower.stdin.write(model)
        follower.stdin.close()
    try:
        follower.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
    except KeyboardInterrupt:
        follower.kill()
        follower.wait()
        raise


# --- in the follower ---------------------------------------------------------------------------------------------


class Follower:
    """What the process does; it never raises."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._uri = uri
        self._mirror: Mirror | None = None
        self._machine: Machine | None = None
        self._said = False

    def follow(self, until: IO[str], every: float) -> None:
        """Sends what is new every few seconds until the input ends, and then how the run ended."""
        self._attempt(self._send)
        while not select.select([until], [], [], every)[0]:
            self._attempt(self._send)
        model = until.read()
        self._attempt(lambda: self._last(Path(model) if model else None))

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            if has_begun(self._folder):
                call()
        except Exception as error:
            self._mirror = None  # what MLflow has is asked anew
            if not self._said:
                print(away(self._folder, self._uri, reason(error)), flush=True)
            self._said = True

    def _send(self) -> None:
        with alone(self._folder / LOCK):
            if self._mirror is None:
                self._mirror = Mirror(self._folder, self._uri)
                self._mirror.mark("running")
                self._machine = self._machine or Machine(self._mirror.run_id, self._uri)
            self._mirror.send()
            if self._machine is not None:
                self._mirror.log_machine(self._machine.sample())

    def _last(self, model: Path | None) -> None:
        with alone(self._folder / LOCK):
            bring_up(self._folder, self._uri, lambda: model)


class Machine:
    """MLflow's own figures of this machine's processors, memory, disk, network and GPUs."""

    def __init__(self, run_id: str, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # Not started: its thread ends at the first error and waits for the server when it is stopped.
        self._monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
        self.sample()  # a load is measured since the sample before

    def sample(self) -> dict[str, float]:
        """Figures since the last sample."""
        self._monitor.collect_metrics()
        figures = dict(self._monitor.aggregate_metrics())
        for part in self._monitor.monitors:
            part.clear_metrics()
        return figures


if __name__ == "__main__":
    Follower(Path(sys.argv[1]), os.environ[URI]).follow(sys.stdin, float(sys.argv[2]))
