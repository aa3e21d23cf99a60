"""What happened in a sweep, event by event: the truth about it, from which a sweep that died goes on.

sweep.json     the sweep, the experiment it is around, where and how it runs
trials.jsonl   an event a line: a trial asked for, a point refused, a trial ended

A line is on disk before what it tells of goes on, so a death loses no more than the line it cut short. The figures of a
trial lie in the record of its run, which the line names.
"""

import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mergenet.config import InputError, in_line, parse
from mergenet.training.copies import fetch, fetch_all, record_here
from mergenet.training.files import copied_from, lock, read_json, replacing, shown
from mergenet.training.place import OWNER, Mark
from mergenet.training.remote import Remote
from tune.search.plan import Setting
from tune.search.space import Space, make_space
from tune.search.sweep import Sweep

EVENTS, DEFINITION = "trials.jsonl", "sweep.json"
State = Literal["running", "finished", "stopped", "diverged", "failed"]
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A point that was tried.

    Attributes:
        point: path in the experiment -> what it was, as the sampler knows it: a number, or the label of a value.
        changes: path in the experiment -> what it was.
        run: folder name of its record, HASH8-sSEED.
        state: `running` while it has not ended; `stopped` by the scheduler before its end.
        values: of the objectives, in their order; None unless it finished.
        reason: why it did not finish.
        curve: (epoch, the measured objective on the validation split), in their order.
        seconds: of training; None unless it finished.
        began, over: seconds since 1970.
    """

    number: int
    point: Mapping[str, Any]
    changes: Mapping[str, Any]
    run: str
    state: State = "running"
    values: tuple[float, ...] | None = None
    reason: str | None = None
    curve: tuple[tuple[float, float], ...] = ()
    seconds: float | None = None
    began: float | None = None
    over: float | None = None


@dataclass(frozen=True)
class Log:
    """A sweep that began, as its files tell.

    Attributes:
        folder: of the sweep's own files.
        values: plain, of the experiment that it is around.
        layers: what was laid over the recipe to make it, in their order.
        paths: of its data sets.
        left_out: transfer -> its pairs of ports that could not be joined, `from -> to`, and why.
        made_with: versions and hardware of the driver.
    """

    folder: Path
    sweep: Sweep
    values: Mapping[str, Any]
    layers: tuple[tuple[str, Any], ...]
    setting: Setting
    paths: Mapping[str, str]
    left_out: Mapping[str, Mapping[str, str]]
    made_with: Mapping[str, Any]
    events: tuple[Event, ...]

    @property
    def space(self) -> Space:
        """What was searched."""
        return make_space(self.values, self.sweep.space, list)

    @property
    def runs(self) -> Path:
        """The folder of all records."""
        return self.folder.parents[1]

    @property
    def label(self) -> str:
        """Its name with the hash that tells it from others of that name."""
        return f"{self.sweep.name}-{self.folder.name.removeprefix('sweep-')}"

    def record(self, trial: Trial) -> Path:
        """The folder of a trial's run."""
        return self.folder.parent / trial.run

    def command(self, trial: Trial) -> str:
        """Runs a trial again, anywhere; where things lie here is left out."""
        layers = [*self.layers, *trial.changes.items()]
        words = ["mergenet", "train", self.sweep.experiment, *(f"{path}={in_line(value)}" for path, value in layers)]
        words += ["--seed", str(self.sweep.seed)] if self.sweep.seed else []
        words += ["--workers", str(self.setting.workers)] if self.setting.workers > 1 else []
        words += ["--threads", str(self.setting.threads)] if self.setting.threads > 1 else []
        return shlex.join(words)

    def trials(self) -> list[Trial]:
        """All that were asked for, by number."""
        return trials_of(self.events)


def trials_of(events: Iterable[Event]) -> list[Trial]:
    """The trials that events tell of, by number."""
    trials: dict[int, Trial] = {}
    for event in events:
        if event["event"] == "asked":
            trials[event["trial"]] = Trial(
                event["trial"], event["point"], event["changes"], event["run"], began=event["at"]
            )
        elif event["event"] == "ended":
            trials[event["trial"]] = replace(trials[event["trial"]], **ending(event))
    return [trials[number] for number in sorted(trials)]


def ending(event: Event) -> dict[str, Any]:
    """What the event of a trial that has ended says, by the names of `Trial`."""
    return {
        "state": event["state"],
        "values": None if event["values"] is None else tuple(event["values"]),
        "reason": event["reason"],
        "curve": tuple((epoch, value) for epoch, value in event["curve"]),
        "seconds": event["seconds"],
        "over": event["at"],
    }


def asked(trial: Trial) -> Event:
    """The event of a trial that begins."""
    point, changes = dict(trial.point), dict(trial.changes)
    return {"event": "asked", "trial": trial.number, "point": point, "changes": changes, "run": trial.run}


def refused(point: Mapping[str, Any], reason: str) -> Event:
    """The event of a point that is not tried."""
    return {"event": "refused", "point": dict(point), "reason": reason}


def ended(trial: Trial) -> Event:
    """The event of a trial that has ended."""
    return {
        **{"event": "ended", "trial": trial.number, "state": trial.state, "reason": trial.reason},
        **{"values": trial.values, "curve": trial.curve, "seconds": trial.seconds},
    }


class Ledger:
    """The files of one sweep, open for writing; another process that opens them is refused."""

    def __init__(self, folder: Path) -> None:
        self._lock = lock(folder, "sweep")
        self.folder = folder
        uri = copied_from(record_here(folder))
        self._mark = None if uri is None else Mark(Remote(uri), OWNER)
        self.events: list[Event] = list(_read_events(folder))
        self._cut_back()

    def _cut_back(self) -> None:
        """A line that a death cut short goes: the next one would be written behind it."""
        path = self.folder / EVENTS
        if path.exists():
            text = path.read_bytes()
            if text and not text.endswith(b"\n"):
                os.truncate(path, text.rfind(b"\n") + 1)

    def describe(self, definition: Mapping[str, Any]) -> None:
        """Writes what the sweep is; from now on this process writes it.

        Raises:
            InputError: it is kept in an object store, and another process is writing it there.
        """
        text = json.dumps(definition, indent=2, allow_nan=False) + "\n"
        if self._mark is not None:
            fetch(self.folder)
            if len(_read_events(self.folder)) != len(self.events):
                raise InputError(f"{shown(self.folder)}: another process is writing this sweep")
            self._mark.leave()
            self._mark.write(DEFINITION, text.encode())
        with replacing(self.folder / DEFINITION) as aside:
            aside.write_text(text)

    def definition(self) -> dict[str, Any]:
        """What it says the sweep is."""
        return read_json(self.folder / DEFINITION)

    def note(self, event: Event) -> None:
        """Adds an event with its time, and returns when it is on disk, and where the sweep is kept.

        Raises:
            InputError: the folder cannot be written any more; nothing may be noted after it.
            Away: the object store that it is kept in cannot be reached.
            TakenOver: another process writes this sweep now.
        """
        event = {**event, "at": round(time.time(), 3)}
        if self._mark is None:
            try:
                with (self.folder / EVENTS).open("a") as file:
                    file.write(_line(event))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise InputError(f"{shown(self.folder)}: cannot be written: {error.strerror}") from None
        else:  # the whole of it, from what is known here: readers bring and replace the copy
            text = "".join(map(_line, [*self.events, event]))
            self._mark.write(EVENTS, text.encode())
            with replacing(self.folder / EVENTS) as aside:
                aside.write_text(text)
        self.events.append(event)

    def close(self) -> None:
        """Lets others open the sweep."""
        self._lock.close()


def _line(event: Event) -> str:
    return json.dumps(event, allow_nan=False) + "\n"


# --- reading -----------------------------------------------------------------------------------------------------


def read_log(folder: Path) -> Log:
    """A sweep that began.

    Raises:
        InputError: no sweep lies there, or a broken one.
    """
    path = folder / DEFINITION
    values = read_json(path)
    try:
        sweep, setting = parse(Sweep, values["sweep"]), Setting(**values["setting"])
        layers = tuple((path, value) for path, value in values["layers"])
        parts = (values["experiment"], layers, setting, values["data"], values["left_out"], values["made_with"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{path}: broken: {error}") from None
    return Log(folder, sweep, *parts, events=tuple(_read_events(folder)))


def _read_events(folder: Path) -> Sequence[Event]:
    path = folder / EVENTS
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise InputError(f"{path}: broken: {error}") from None


def find_logs(runs: Path, name: str | None = None) -> list[Path]:
    """The folders of all sweeps in `runs`, of one name or of every."""
    return sorted(path.parent for path in runs.glob(f"{name or '*'}/sweep-*/{DEFINITION}"))


def find_log(runs: Path, named: str) -> Path:
    """The folder of the one sweep of this name, in this folder, or at this URI.

    Raises:
        InputError: there is none, or more than one.
    """
    if "://" in named or (Path(named) / DEFINITION).exists():
        folder = record_here(named).absolute()
        fetch_all(folder.parents[1])
        return folder
    found = find_logs(runs, named)
    if not found:
        raise InputError(
            f"{shown(runs.absolute())} holds no sweep '{named}'; begin it with mergenet sweep, or name --runs"
        )
    if len(found) > 1:
        folders = ", ".join(shown(folder.absolute()) for folder in found)
        raise InputError(f"{named} was swept {len(found)} times, with other settings: name one of {folders}")
    return found[0].absolute()
