"""What a run and its cells are called: hashes of all that can influence them, and of nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mergenet.config import digest, identity
from mergenet.experiment import Experiment, LearnerOptions
from mergenet.method.edges import layer_of
from mergenet.method.options import TransferOptions
from mergenet.models import find_model
from mergenet.models.features import POOLED
from mergenet.wiring import split_end

NUMERICS = 2
"""Part of every hash: raised when the golden losses change, so that old results are not taken for new ones."""


@dataclass(frozen=True)
class Contents:
    """SHA-256 of what an experiment only names.

    Attributes:
        data: of pixels and labels, by the name of the data set.
        forms: what else a data set says to its learners (normalisation), by its name.
        weights: of the file that a learner starts from, by the learner.
        code: of the user's file that builds a learner's model, by the learner.
    """

    data: Mapping[str, str]
    forms: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)


def run_hash(experiment: Experiment, contents: Contents) -> str:
    """Names a run: the whole experiment with the contents of what it names."""
    plain = identity(experiment)
    plain["learners"] = {name: _described(name, learner, contents) for name, learner in experiment.learners.items()}
    data = {"data": dict(contents.data), "forms": dict(contents.forms)}
    return digest({"numerics": NUMERICS, "experiment": plain, **data})


def _described(name: str, learner: LearnerOptions, contents: Contents) -> dict[str, Any]:
    """A learner's identity, with the contents of files in place of their paths."""
    plain: dict[str, Any] = identity(learner)
    for part, digests in (("weights", contents.weights), ("code", contents.code)):
        if name in digests:
            plain[part] = digests[name]
    return plain


def cell_keys(
    experiment: Experiment, seed: int, steps: Mapping[str, int], contents: Contents, ticks_per_epoch: int
) -> dict[str, str]:
    """Learner that trains -> hash of everything that can influence what it becomes.

    A learner is described by its own options, and by what each enabled edge into it brings, which
    unfolds its source's description. Two graphs of n learners that differ at all differ within 2n levels.
    Names, paths and whatever can reach neither the learner nor its figures stay out: an arm has the same key alone and
    in company.

    Args:
        steps: learner that trains -> its steps in the whole run.
        contents: digests of what the experiment names.
        ticks_per_epoch: of the clock learner.
    """
    evaluation = identity(experiment.evaluation)
    del evaluation["every"]
    evaluation.pop("test", None)
    if experiment.evaluation.weights == "best":  # when it is looked for decides which is found
        evaluation["ticks"] = ticks_per_epoch * experiment.evaluation.every
    own = {name: _own_description(experiment, name, steps, contents) for name in experiment.learners}

    @cache
    def describe(name: str, levels: int) -> str:
        if levels == 0:
            return digest(own[name])
        incoming = [
            [_edge_description(experiment, transfer), describe(split_end(transfer.source)[0], levels - 1)]
            for transfer in experiment.enabled_transfers().values()
            if split_end(transfer.target)[0] == name
        ]
        for edge, others in [*_lesson_of(experiment, name, contents), *_shares_of(experiment, name)]:
            incoming.append([edge, [describe(other, levels - 1) for other in others]])
        return digest([own[name], sorted(incoming, key=digest)])

    return {
        name: digest([NUMERICS, seed, evaluation, describe(name, 2 * len(upstream(experiment, name)))])
        for name in experiment.trained()
    }


def _own_description(experiment: Experiment, name: str, steps: Mapping[str, int], contents: Contents) -> Any:
    learner = experiment.learners[name]
    if learner.frozen:
        return {"frozen": contents.weights[name]}
    plain = _described(name, learner, contents)
    del plain["training"]["epochs"]  # counts through the steps
    if learner.factored:
        plain["factored"] = _by_known_names(learner.model, plain["factored"])
    for task in plain["task"].values():
        task["data"] = [contents.data[task["data"]], contents.forms.get(task["data"])]
    return [plain, steps[name]]


def _by_known_names(model: str, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Layers under the names that people know, whatever they were called."""
    known = {path: name for name, path in find_model(model).ports.items()}
    return {known.get(layer.removesuffix(".weight"), layer.removesuffix(".weight")): of for layer, of in layers.items()}


def _edge_description(experiment: Experiment, transfer: TransferOptions) -> Any:
    """A transfer's options, its ports by their dotted names whatever they were called."""
    plain = identity(transfer)
    for key in ("from", "to"):
        plain[key] = _port(experiment, plain[key])
    source = experiment.learners[split_end(transfer.source)[0]]
    if transfer.control == "random" and source.frozen:  # a file's digest does not say which model is drawn anew
        plain["model"] = source.model
    return plain


Joined = tuple[Any, list[str]]
"""An edge described without names of learners, and the learners at its other end, in their order."""


def _lesson_of(experiment: Experiment, name: str, contents: Contents) -> list[Joined]:
    """By what a learner learns, and from whom; none where by its task's own loss."""
    found = experiment.lesson_of(name)
    if found is None:
        return []
    path, lesson = found
    teachers = [split_end(end)[0] for end in lesson.teachers]
    plain = {
        "kind": path.partition(".")[0],
        "loss": identity(lesson)["loss"],
        "to": _layer(experiment, name, layer_of(lesson, lesson.student)),
        "from": [_layer(experiment, split_end(end)[0], layer_of(lesson, end)) for end in lesson.teachers],
        "models": [_looks(experiment, teacher, contents) for teacher in teachers],
    }
    return [(plain, teachers)]


def _layer(experiment: Experiment, learner: str, layer: str | None) -> str | None:
    """A layer by its dotted name, whatever it was called."""
    if layer is None or layer == POOLED:
        return layer
    return find_model(experiment.learners[learner].model).layers.get(layer, layer)


def _looks(experiment: Experiment, teacher: str, contents: Contents) -> Any:
    """What a frozen teacher is beside its weights: a file does not say which model looks through them."""
    options = experiment.learners[teacher]
    return [options.model, contents.code.get(teacher)] if options.frozen else None


def _shares_of(experiment: Experiment, name: str) -> Iterator[Joined]:
    """The weights that a learner shares, as the one who holds them or who has a slice."""
    for share in experiment.enabled_shares().values():
        for own, other, role in ((share.large, share.small, "large"), (share.small, share.large, "small")):
            if split_end(own)[0] == name:
                ports = [_port(experiment, end) for end in (share.large, share.small)]
                yield {"kind": "share", "ports": ports, "order": share.order, "role": role}, [split_end(other)[0]]


def _port(experiment: Experiment, end: str) -> str:
    """A port by its dotted name, whatever it was called."""
    learner, port = split_end(end)
    return find_model(experiment.learners[learner].model).ports.get(port, port).removesuffix(".weight")


def upstream(experiment: Experiment, name: str) -> set[str]:
    """The learner and all that can influence it over enabled edges."""
    into: dict[str, set[str]] = {learner: set() for learner in experiment.learners}
    for edge in experiment.enabled_edges().values():
        read = {split_end(end)[0] for end in edge.reads()}
        for end in edge.changes():
            into[split_end(end)[0]] |= read
    found, waiting = {name}, [name]
    while waiting:
        fresh = into[waiting.pop()] - found
        found |= fresh
        waiting += fresh
    return found
