"""One run of an experiment: what the experiment itself leaves open, and the data it reads."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergenet.config import InputError, parse
from mergenet.data import load_data, locate
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.training.place import OWNER


@dataclass(frozen=True)
class Origin:
    """Where weights come from that another run trained: known before that run has taken place.

    Attributes:
        cell: key of the learner that ends with these weights.
        classes: it tells apart.
    """

    cell: str
    classes: int


@dataclass(frozen=True)
class RunSpec:
    """One run of an experiment: what the experiment itself leaves open.

    Attributes:
        data: name of a data set -> its path.
        folder: of the record.
        device: cpu or cuda.
        threads: torch's, on the CPU; another number may round differently.
        origins: learner -> what its file of weights was trained as, which stands for the file's contents in all hashes.
        remote: URI of the record where it is kept in an object store; what is in `folder` is a copy then.
        owner: what those who write it there sign with, who all work for one command.
    """

    experiment: Experiment
    seed: int
    data: Mapping[str, str]
    folder: Path
    device: str = "cpu"
    threads: int = 1
    origins: Mapping[str, Origin] = field(default_factory=dict)
    remote: str | None = None
    owner: str = OWNER

    def as_plain(self) -> dict[str, Any]:
        """Values that travel to another process; `from_plain` reads them back."""
        return {
            **vars(self),
            "experiment": self.experiment.dump(),
            "folder": str(self.folder),
            "data": dict(self.data),
            "origins": origins_as_plain(self.origins),
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "RunSpec":
        """The spec that `as_plain` gave."""
        experiment = parse(Experiment, values["experiment"])
        origins = origins_from_plain(values["origins"])
        return cls(**{**values, "experiment": experiment, "folder": Path(values["folder"]), "origins": origins})


def origins_as_plain(origins: Mapping[str, Origin]) -> dict[str, dict[str, Any]]:
    """As a manifest keeps it; `origins_from_plain` reads it back."""
    return {learner: asdict(origin) for learner, origin in origins.items()}


def origins_from_plain(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Origin]:
    """What `origins_as_plain` gave."""
    return {learner: Origin(**origin) for learner, origin in values.items()}


def _names_of_data(experiment: Experiment) -> set[str]:
    return {learner.trained_task.data for learner in experiment.trained().values()}


def locate_data(experiments: Iterable[Experiment], given: Mapping[str, str]) -> dict[str, str]:
    """The absolute path of each data set of experiments that has one: the one given, or where data usually lies.

    Raises:
        InputError: a path given for what no experiment reads, or a set that is found nowhere.
    """
    names = {name for experiment in experiments for name in _names_of_data(experiment)}
    for name in given.keys() - names:
        raise InputError(f"--data {name}: this experiment reads {', '.join(sorted(names))} and not {name}")
    return locate(names, given)


def data_of(experiment: Experiment, paths: Mapping[str, str]) -> dict[str, Images]:
    """The loaded data sets of an experiment.

    Raises:
        InputError: an unknown name, missing or broken files.
    """
    return load_data(_names_of_data(experiment), paths)
