"""What ticks of a run cost on this machine, measured before it starts: real ticks, in a process of its own.

A process of its own, because peak memory is a process's, and because a run starts in one.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

from mergenet.config import InputError
from mergenet.training.amounts import Happening
from mergenet.training.spec import RunSpec

PROBE_S = 20.0
"""Seconds that a probe may take, from the start of its process."""

REFUSED = 2
"""Exit code of a probe whose run was refused in a line."""


@dataclass(frozen=True)
class Timing:
    """Ticks on which the same happens.

    Attributes:
        seconds: median of those measured after the first.
        measured: how many those are; where there was only the first, one.
        first: seconds of the first, which warms up.
    """

    happening: Happening
    seconds: float
    measured: int
    first: float


@dataclass(frozen=True)
class Probe:
    """What was measured of a run.

    Attributes:
        ticks: what happens -> how long it takes.
        validation_s: learner -> seconds to measure it on one sample.
        import_s: from the start of the process until everything was imported.
        build_s: to read the data and build models, optimizers and adapters.
        checkpoint_s, checkpoint_bytes: to write one, and its size.
        memory_bytes: the most that one process held.
        gpu_bytes: the most that torch held on the GPU; None on processors.
        gpu_total_bytes: what that GPU has.
        stand_ins: learners with random weights in place of a file that another run has yet to train.
        diverged: learners and transfers that stopped while they were measured; what came after was not counted.
        workers: processes that shared each batch.
        seconds: that it took.
    """

    ticks: tuple[Timing, ...]
    validation_s: Mapping[str, float]
    import_s: float
    build_s: float
    checkpoint_s: float
    checkpoint_bytes: int
    memory_bytes: int
    gpu_bytes: int | None
    gpu_total_bytes: int | None
    stand_ins: tuple[str, ...]
    diverged: tuple[str, ...]
    workers: int
    seconds: float

    def as_plain(self) -> dict[str, Any]:
        """Values that travel to another process; `from_plain` reads them back."""
        ticks = [{**asdict(one), "happening": one.happening._asdict()} for one in self.ticks]
        return {**asdict(self), "ticks": ticks}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Probe":
        """The probe that `as_plain` gave."""

        def timing(one: Mapping[str, Any]) -> Timing:
            return Timing(**{**one, "happening": Happening(*(tuple(names) for names in one["happening"].values()))})

        tuples = {name: tuple(values[name]) for name in ("stand_ins", "diverged")}
        return cls(**{**values, **tuples, "ticks": tuple(map(timing, values["ticks"]))})


class ProbeFailed(RuntimeError):
    """A run that could not be measured; the text is one line that says why."""


def probes(spec: RunSpec, seconds: float, workers: int, beside: Sequence[int]) -> list[Probe]:
    """Several of the same run beside each other, as runs of a table are: what each is slowed down by the others.

    Args:
        beside: for each of them the number of the GPU that it would have; of no matter on processors.

    Raises:
        InputError, ProbeFailed: what `probe` does.
    """
    with ThreadPoolExecutor(len(beside)) as together:
        return list(together.map(lambda gpu: probe(spec, seconds, workers, gpu), beside))


def probe(spec: RunSpec, seconds: float = PROBE_S, workers: int = 1, gpu: int = 0) -> Probe:
    """Measures real ticks of a run; nothing is written but to a temporary folder.

    Args:
        seconds: it may take, start and all; a run of slow ticks takes as long as two of them need.
        workers: processes that share each batch.
        gpu: number of the one that it has, where one process does.

    Raises:
        InputError: whatever of the run does not fit.
        ProbeFailed: it ended otherwise, by want of memory for example.
    """
    with TemporaryDirectory(prefix="mergenet-probe-") as aside:
        asked = {"spec": spec.as_plain(), "seconds": seconds, "begun": time.time(), "aside": aside}
        processes = [_start(asked, surroundings) for surroundings in _ranks(workers, gpu)]
        try:
            out, error = _answer(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
    if processes[0].returncode:
        raise _failure(processes[0].returncode, error)
    return Probe.from_plain(json.loads(out.splitlines()[-1]))


def _ranks(workers: int, gpu: int) -> list[dict[str, str]]:
    """What tells each process of a group who it is, as torchrun does; one alone only which GPU it has."""
    if workers == 1:
        return [{"LOCAL_RANK": str(gpu)}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(workers)]


def _start(asked: Mapping[str, Any], surroundings: Mapping[str, str]) -> "subprocess.Popen[str]":
    """A process that measures; its output matters of the first alone."""
    first = surroundings.get("RANK", "0") == "0"
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if first else subprocess.DEVNULL,
        stderr=subprocess.PIPE if first else subprocess.DEVNULL,
        text=True,
        env={**os.environ, **surroundings},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    return process


def _answer(processes: "Sequence[subprocess.Popen[str]]") -> tuple[str, str]:
    """Output and errors of the first; when another of its group dies it would wait for ever."""
    while True:
        try:
            return processes[0].communicate(timeout=1.0)
        except subprocess.TimeoutExpired:
            if any(process.poll() for process in processes[1:]):
                processes[0].kill()


def _failure(code: int, error: str) -> Exception:
    line = (error.strip().splitlines() or [""])[-1]
    if code == REFUSED:
        return InputError(line)
    if code < 0:
        return ProbeFailed(f"its process was ended by signal {-code}{' (out of memory?)' if code == -9 else ''}")
    return ProbeFailed(line)


def main() -> None:
    """Reads what is asked for from standard input, measures, and prints a line of JSON."""
    from mergenet.training.probing import measure

    asked = json.loads(sys.stdin.readline())
    try:
        found = measure(RunSpec.from_plain(asked["spec"]), asked["begun"], asked["seconds"], asked["aside"])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    if found is not None:
        print(json.dumps(found.as_plain()))


if __name__ == "__main__":
    main()
