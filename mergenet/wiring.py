"""What must hold between the learners of an experiment and all that joins them, before data or models are looked at."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mergenet.config import nearest
from mergenet.method.edges import AmalgamateOptions, DistillOptions, Lesson, ShareOptions
from mergenet.method.options import TransferOptions

if TYPE_CHECKING:
    from mergenet.experiment import Experiment, LearnerOptions


def split_end(end: str) -> tuple[str, str]:
    """`learner.port` as its two names; the second is empty where only the learner is named."""
    learner, _, port = end.partition(".")
    return learner, port


def check_wiring(experiment: "Experiment") -> None:
    """Raises:
    ValueError: the first thing that does not hold, by its path.
    """
    for name, learner in experiment.learners.items():
        _check_trains_or_is_frozen(f"learners.{name}", learner)
    _check_clock(experiment)
    for name, transfer in experiment.transfers.items():
        _check_transfer(experiment, f"transfers.{name}", transfer)
    for path, lesson in experiment.lessons(enabled=False).items():
        _check_lesson(experiment, path, lesson)
    for name, share in experiment.share.items():
        _check_share(experiment, f"share.{name}", share)
    _check_students(experiment)
    steps_in_order(experiment)


# --- learners ----------------------------------------------------------------------------------------------------


def _check_trains_or_is_frozen(path: str, learner: "LearnerOptions") -> None:
    if not learner.frozen:
        if learner.task is None:
            raise ValueError(f"{path}.task: is missing")
        return
    if learner.weights is None:
        raise ValueError(f"{path}.weights: a frozen learner is read from a file; name it, {path}.weights=FILE")
    as_default = {
        "training": learner.training == type(learner.training)(),
        "copy": learner.copy_number == 0,
        "factored": not learner.factored,
    }
    for name, holds in as_default.items():
        if not holds:
            raise ValueError(f"{path}.{name}: a frozen learner does not train; leave it out")


def _check_clock(experiment: "Experiment") -> None:
    clock, trained = experiment.clock, experiment.trained()
    if clock not in trained:
        what = "is frozen" if clock in experiment.learners else "is no learner"
        raise ValueError(f"clock: '{clock}' {what}; {nearest(clock, trained)}")
    if trained[clock].training.every != 1:
        raise ValueError(f"learners.{clock}.training.every: the clock learner steps on every tick")
    epochs = trained[clock].training.epochs
    for name, learner in trained.items():
        if learner.training.epochs != epochs:
            raise ValueError(
                f"learners.{name}.training.epochs: those of the clock learner '{clock}', {epochs}, are everyone's; "
                "set training.epochs"
            )


def _learner_at(experiment: "Experiment", path: str, end: str) -> tuple[str, "LearnerOptions"]:
    """The learner that an end names."""
    name = split_end(end)[0]
    if name not in experiment.learners:
        raise ValueError(f"{path}: no learner '{name}'; {nearest(name, experiment.learners)}")
    return name, experiment.learners[name]


def _check_port(experiment: "Experiment", path: str, end: str) -> tuple[str, "LearnerOptions"]:
    if not split_end(end)[1]:
        raise ValueError(f"{path}: write it as learner.port, got '{end}'")
    return _learner_at(experiment, path, end)


# --- transfers ---------------------------------------------------------------------------------------------------


def _check_transfer(experiment: "Experiment", path: str, transfer: TransferOptions) -> None:
    _, source = _check_port(experiment, f"{path}.from", transfer.source)
    name, target = _check_port(experiment, f"{path}.to", transfer.target)
    if target.frozen:
        raise ValueError(f"{path}.to: '{name}' is frozen; name a port of one that trains")
    if transfer.control == "initial" and source.frozen:
        raise ValueError(f"{path}.control: a frozen source stays as it began; leave 'initial' out")
    if transfer.optimizer_state != "keep" and not target.training.optimizer.remembers:
        raise ValueError(f"{path}.optimizer_state: '{name}' trains without momentum; leave it out")


# --- losses with teachers ----------------------------------------------------------------------------------------


def _check_lesson(experiment: "Experiment", path: str, lesson: Lesson) -> None:
    name, student = _learner_at(experiment, f"{path}.to", lesson.student)
    if student.frozen:
        raise ValueError(f"{path}.to: '{name}' is frozen; name one that trains")
    if isinstance(lesson, DistillOptions):
        _check_has_teacher(path, lesson)
    for key, end in [*(("from", end) for end in lesson.teachers), ("to", lesson.student)]:
        if split_end(end)[1] and lesson.loss.layer is None:
            raise ValueError(
                f"{path}.{key}: this loss compares no features of a layer; leave '.{split_end(end)[1]}' out"
            )
    for end in lesson.teachers:
        _check_teacher(experiment, path, lesson, end)
    names = [split_end(end)[0] for end in lesson.teachers]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}.from: each teacher once, got {', '.join(names)}")


def _check_has_teacher(path: str, lesson: DistillOptions) -> None:
    if lesson.loss.taught and lesson.teacher is None:
        raise ValueError(f"{path}.from: is missing; name the learner that teaches")
    if not lesson.loss.taught and lesson.teacher is not None:
        raise ValueError(f"{path}.from: this loss has no teacher; leave '{lesson.teacher}' out")


def _check_teacher(experiment: "Experiment", path: str, lesson: Lesson, end: str) -> None:
    name, teacher = _learner_at(experiment, f"{path}.from", end)
    student = split_end(lesson.student)[0]
    if name == student:
        raise ValueError(f"{path}.from: '{name}' is the student itself; a copy of it is a learner of its own")
    if teacher.frozen or not lesson.enabled:
        return
    if isinstance(lesson, AmalgamateOptions):
        raise ValueError(f"{path}.from: '{name}' trains, and each teacher knows other classes; freeze it")
    _check_equal_batches(path, name, teacher, student, experiment.learners[student])


def _check_equal_batches(
    path: str, name: str, teacher: "LearnerOptions", student: str, learner: "LearnerOptions"
) -> None:
    """A teacher that trains is asked about what it sees itself."""
    one, other = _batches(teacher), _batches(learner)
    for key in one:
        if one[key] != other[key]:
            raise ValueError(
                f"{path}.from: '{name}' trains on other batches than '{student}', {key} {_say(one[key])} and not "
                f"{_say(other[key])}; make them equal, or freeze it"
            )


def _batches(learner: "LearnerOptions") -> Mapping[str, Any]:
    """What decides which images a learner sees when."""
    return {
        **learner.trained_task.sees(),
        "training.batch_size": learner.training.batch_size,
        "training.every": learner.training.every,
    }


def _say(value: Any) -> str:
    return "all" if value is None else str(value)


def _check_students(experiment: "Experiment") -> None:
    """One loss a student, and labels where it reads them."""
    lessons: dict[str, str] = {}
    for path, lesson in experiment.lessons().items():
        student = split_end(lesson.student)[0]
        if student in lessons:
            raise ValueError(f"{path}.to: '{student}' learns by {lessons[student]} already; disable one of them")
        lessons[student] = path
    for name, learner in experiment.trained().items():
        _check_labels(experiment, name, learner, lessons.get(name))


def _check_labels(experiment: "Experiment", name: str, learner: "LearnerOptions", path: str | None) -> None:
    labelled, where = learner.trained_task.labels, f"learners.{name}.task.{next(iter(learner.dump()['task']))}.labels"
    reads = path is None or experiment.lessons()[path].loss.labelled
    if reads and not labelled:
        what = "its task's own loss" if path is None else path
        raise ValueError(f"{where}: false, and {what} reads them; only amalgamation does without")
    if labelled and not reads:
        raise ValueError(f"{where}: {path} trains '{name}' on images alone; set it to false")


# --- shared weights ----------------------------------------------------------------------------------------------


def _check_share(experiment: "Experiment", path: str, share: ShareOptions) -> None:
    ends = [
        (key, *_check_port(experiment, f"{path}.{key}", end))
        for key, end in (("from", share.large), ("to", share.small))
    ]
    (_, large, one), (_, small, other) = ends
    if large == small:
        raise ValueError(f"{path}.to: '{small}' is the learner it is shared with; name another")
    for key, name, learner in ends:
        if learner.frozen:
            raise ValueError(f"{path}.{key}: '{name}' is frozen; a shared weight is trained by both")
        if share.enabled and learner.training.compile:
            raise ValueError(
                f"learners.{name}.training.compile: {path} puts another weight in place each step; leave it out"
            )
    for field in ("every", "accumulation") if share.enabled else ():
        if getattr(one.training, field) != getattr(other.training, field):
            raise ValueError(
                f"learners.{small}.training.{field}: '{large}' and '{small}' step together; give both the same"
            )


def joined(experiment: "Experiment") -> list[tuple[str, ...]]:
    """Learners that train, those that share a weight together, in the order of the experiment."""
    groups = [{name} for name in experiment.trained()]
    for share in experiment.share.values():
        if share.enabled:
            ends = {split_end(share.large)[0], split_end(share.small)[0]}
            touched = [group for group in groups if group & ends]
            groups = [group for group in groups if not group & ends] + [set().union(*touched)]
    order = list(experiment.trained())
    together = [tuple(sorted(group, key=order.index)) for group in groups]
    return sorted(together, key=lambda group: order.index(group[0]))


# --- order -------------------------------------------------------------------------------------------------------


def steps_in_order(experiment: "Experiment") -> list[tuple[str, ...]]:
    """Learners in the order in which they step on a tick, teachers before students; those that step together together.

    Raises:
        ValueError: learners that teach each other in a circle.
    """
    waiting = joined(experiment)
    of = {name: group for group in waiting for name in group}
    before = {group: set[tuple[str, ...]]() for group in waiting}
    for path, lesson in experiment.lessons().items():
        student = split_end(lesson.student)[0]
        live = {split_end(end)[0] for end in lesson.teachers} & of.keys()
        if any(of[name] == of[student] for name in live):
            raise ValueError(f"{path}.from: it shares a weight with '{student}', and so steps with it and not before")
        before[of[student]] |= {of[name] for name in live}
    ordered: list[tuple[str, ...]] = []
    while waiting:
        ready = [group for group in waiting if before[group] <= set(ordered)]
        if not ready:
            circle = _listed(_taught_in_circles(waiting, before))
            raise ValueError(f"distill: {circle} teach each other in a circle; freeze one of them")
        ordered += ready
        waiting = [group for group in waiting if group not in ready]
    return ordered


def _taught_in_circles(
    waiting: list[tuple[str, ...]], before: Mapping[tuple[str, ...], set[tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """Those who wait for each other, without students of theirs for whom nobody waits."""
    while last := [group for group in waiting if not any(group in before[other] for other in waiting)]:
        waiting = [group for group in waiting if group not in last]
    return waiting


def _listed(groups: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(f"'{name}'" for group in groups for name in group)
