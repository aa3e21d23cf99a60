"""A table's missing cells, found and trained: nothing that has finished is trained again."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file

from cluster.session import available, session
from cluster.side_by_side import Workers
from cluster.trust import check_cluster
from mergenet.config import InputError
from mergenet.training.checkpoint import checkpoints, problem_of
from mergenet.training.copies import WEIGHTS, check_writable, fetch
from mergenet.training.files import (
    await_finished,
    check_free,
    copied_from,
    has_begun,
    replacing,
    shown,
)
from mergenet.training.place import hand_on
from mergenet.training.record import read_manifest, run_folder
from mergenet.training.spec import RunSpec
from mergenet.training.trained import read_trained
from tune.cells import Cell, TablePlan
from tune.evidence import Evidence, find_evidence, learner_of
from tune.groups import Group, group_cells


@dataclass(frozen=True)
class Places:
    """Where things lie and what they run on.

    Attributes:
        runs: folder of all records.
        results: folder of committed results.
        device: cpu or cuda.
        threads: torch's, of each run.
    """

    runs: Path
    results: Path
    device: str = "cpu"
    threads: int = 1

    def weights(self, key: str) -> Path:
        """The file in which a cell hands its weights on, named by its key."""
        return (self.runs / WEIGHTS / f"{key[:16]}.safetensors").absolute()


@dataclass(frozen=True)
class Job:
    """A run that makes missing cells."""

    spec: RunSpec
    cells: tuple[Cell, ...]
    ticks: int
    makes: frozenset[str]

    def needs(self) -> set[str]:
        """Keys of the cells whose weights it begins with."""
        return {origin.cell for origin in self.spec.origins.values()}

    def arms(self) -> list[str]:
        """The arms that its cells are of, each once."""
        return list(dict.fromkeys(arm for arm, _, _ in self.cells))


@dataclass(frozen=True)
class Ablation:
    """What of a table is there, and the runs that make the rest.

    Attributes:
        evidence: key of a cell -> the finished run it is in, for all that was found.
    """

    table: TablePlan
    places: Places
    evidence: Mapping[str, Evidence]
    jobs: tuple[Job, ...]

    def missing(self) -> list[Cell]:
        """Cells of the table that no finished run has."""
        return [cell for cell, key in self.table.cells().items() if key not in self.evidence]

    def check_free(self, resume: bool, say: Callable[[str], None] = lambda text: None) -> None:
        """Who goes on with runs waits for other processes to let go of them, and `say` is told so.

        Raises:
            InputError: another process is writing a run that is missing, or one has begun and `resume` is not said.
        """
        begun = [job.spec.folder for job in self.jobs if has_begun(job.spec.folder)]
        for folder in begun:
            check_free(folder, resume, say)
        if begun and not resume:
            those = f"{shown(begun[0])}{f' and {len(begun) - 1} more' if len(begun) > 1 else ''}"
            raise InputError(f"{those} stopped before the end: go on with --resume, or remove what is not to be kept")


# --- what is to do -----------------------------------------------------------------------------------------------


def find_missing(
    table: TablePlan,
    places: Places,
    shows: Callable[[Evidence], bool] = lambda evidence: True,
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> Ablation:
    """What is there, and what is to do.

    Args:
        shows: whether a finished run has the figures that are wanted of it.
        wanted: which of the missing cells are to be made.
    """
    found = find_evidence(places.runs, places.results, shows)
    missing = [cell for cell, key in table.cells().items() if key not in found and wanted(cell)]
    groups = group_cells(table, missing)
    while lacking := [cell for cell in _lacking(table, groups, found, places) if cell not in missing]:
        missing += lacking
        groups = group_cells(table, missing)
    return Ablation(table, places, found, tuple(_job(group, table, places) for group in groups))


def _lacking(table: TablePlan, groups: Iterable[Group], found: Mapping[str, Evidence], places: Places) -> list[Cell]:
    """Cells whose weights are asked for, are not here, and would not be made in time.

    Committed results hold no weights; and a run may train what it waits for, for another to be made first.
    """
    waiting = list(groups)
    wanted = {key for group in waiting for key in group.needs()}
    there = {key for key in wanted if places.weights(key).exists() or _has_weights(found.get(key))}
    while able := [group for group in waiting if group.needs() <= there]:
        waiting = [group for group in waiting if not group.needs() <= there]
        there |= {key for group in able for key in group.plan.cells.values()}
    gone = {key for group in waiting for key in group.needs()} - there
    by_key = {
        key: (arm, learner, seed)
        for arm, plan in reversed(list(table.arms.items()))  # of arms with the same cell the first has it
        for seed, keys in plan.keys.items()
        for learner, key in keys.items()
    }
    return [by_key[key] for key in sorted(gone)]


def _has_weights(evidence: Evidence | None) -> bool:
    """Whether its last checkpoint is there and whole."""
    if evidence is None or evidence.folder is None:
        return False
    there = checkpoints(evidence.folder / "checkpoints")
    # what is large of a copy comes when it is needed
    return bool(there) and (copied_from(evidence.folder) is not None or problem_of(there[-1]) is None)


def _job(group: Group, table: TablePlan, places: Places) -> Job:
    files = {learner: str(places.weights(origin.cell)) for learner, origin in group.origins.items()}
    experiment = group.experiment.with_weights(files)
    folder = run_folder(places.runs, experiment.name, group.plan.hash, group.seed).absolute()
    setting = (places.device, places.threads, group.origins, copied_from(folder))
    spec = RunSpec(experiment, group.seed, table.paths, folder, *setting)
    return Job(spec, group.cells, group.plan.ticks, frozenset(group.plan.cells.values()))


# --- doing it ----------------------------------------------------------------------------------------------------


class Teller(Protocol):
    """Told how the runs get on."""

    def begin(self, jobs: Sequence[Job]) -> None:
        """These are to run."""

    def ticked(self, spec: RunSpec, done: int) -> None:
        """`done` ticks of a run are done."""

    def ended(self, job: Job, failure: str | None) -> None:
        """A run has ended; `failure` says in a line why it did not finish."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def stop(self) -> None:
        """No more of it, for whatever reason."""


def train_missing(
    ablation: Ablation, most: int, teller: Teller, finished: Callable[[Job], None] = lambda job: None
) -> int:
    """Trains what is missing, at most so many runs at once; a run that fails does not stop the others.

    Args:
        finished: called with each run that has.

    Returns:
        How many failed.
    """
    check_writable(ablation.places.runs)
    teller.begin(ablation.jobs)
    try:
        with session():
            check_cluster(ablation.places.runs, ablation.table.paths)
            return _train(
                ablation, Workers(most, _share_of_gpu(most, ablation.places), teller.ticked), teller, finished
            )
    finally:
        teller.stop()


def _share_of_gpu(most: int, places: Places) -> float:
    """Of one, for each of so many runs; Ray gives no run parts of two."""
    return 1 / math.ceil(most / available("cuda")) if places.device == "cuda" else 0.0


def _train(ablation: Ablation, workers: Workers, teller: Teller, finished: Callable[[Job], None]) -> int:
    waiting, by_folder = list(ablation.jobs), {job.spec.folder: job for job in ablation.jobs}
    folders = {key: one.folder for key, one in ablation.evidence.items() if one.folder is not None}
    failed = 0
    while waiting or len(workers):
        for job in ready(waiting, ablation.places, folders):
            if workers.has_room():
                waiting.remove(job)
                workers.start(job.spec)
        if not len(workers):
            break
        for end in workers.wait():
            job = by_folder[end.spec.folder]
            fetch(end.spec.folder)
            if end.failure is None and await_finished(end.spec.folder) is None:
                end = replace(end, failure="it has finished, and its result cannot be seen from here")
            if end.failure is None:
                folders |= dict.fromkeys(job.makes, end.spec.folder)
                finished(job)
            failed += end.failure is not None
            teller.ended(job, end.failure)
    for job in waiting:
        teller.ended(job, "it begins with weights of a run that failed or diverged")
    return failed + len(waiting)


def ready(waiting: Sequence[Job], places: Places, folders: Mapping[str, Path]) -> list[Job]:
    """Those whose weights are there, or can be taken from a finished run."""
    return [job for job in waiting if all(_handed_on(key, places, folders.get(key)) for key in sorted(job.needs()))]


def _handed_on(key: str, places: Places, folder: Path | None) -> bool:
    """Whether the weights of a cell lie where others read them; puts them there from the run they were trained in."""
    file = places.weights(key)
    if file.exists():
        return True
    if folder is None:
        return False
    try:
        trained = read_trained(folder, learner_of(key, read_manifest(folder)), allow_code=True)
    except InputError:  # it diverged
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as aside:
        save_file(dict(trained.weights), aside)
        hand_on(aside, file)
    return True
