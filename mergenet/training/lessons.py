"""By what a student learns in place of its task's own loss: shapes known before the run, and the loss at work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.config import InputError, about
from mergenet.data.images import Images
from mergenet.experiment import Experiment, LearnerOptions
from mergenet.method.criterion import Criterion, Given, Outputs
from mergenet.method.edges import AmalgamateOptions, Lesson, layer_of
from mergenet.models import find_model, names_code
from mergenet.models.features import INTO, Features, find_layer, path_of
from mergenet.training.frozen import classes_of
from mergenet.training.spec import Origin
from mergenet.training.teachers import Teacher
from mergenet.wiring import split_end

META = torch.device("meta")


@dataclass(frozen=True)
class LessonPlan:
    """What student and teachers will give of a batch, without memory, and how much trains along.

    Attributes:
        parameters: of the loss's own layers.
    """

    student: Outputs
    teachers: tuple[Outputs, ...]
    parameters: int


def plan_lesson(
    path: str,
    lesson: Lesson,
    experiment: Experiment,
    images: Mapping[str, Images],
    origins: Mapping[str, Origin],
    workers: int,
) -> LessonPlan:
    """The lesson, tried on shapes alone.

    Args:
        path: in the experiment.
        images: learner that trains -> what it sees.

    Raises:
        InputError: layers that are not there, outputs that this loss cannot compare.
    """
    name = split_end(lesson.student)[0]
    training = experiment.learners[name].training
    part = max(training.batch_size // (workers * training.accumulation), 1)
    shape = (part, *images[name].train.images.shape[1:])

    def outputs(key: str, end: str) -> Outputs:
        of, _ = split_end(end)
        options = experiment.learners[of]
        classes = images[of].classes if of in images else _classes(of, options, origins.get(of))
        with about(f"{path}.{key}: {options.model}"):
            return _given(options.model, classes, shape, layer_of(lesson, end))

    if isinstance(lesson, AmalgamateOptions) and lesson.enabled:
        _check_union(path, lesson, experiment)
    student, teachers = outputs("to", lesson.student), tuple(outputs("from", end) for end in lesson.teachers)
    with about(f"{path}.loss"), META:
        layers = lesson.loss.layers_for(student, teachers)
        labels = torch.zeros(part, dtype=torch.int64) if lesson.loss.labelled else None
        lesson.loss.value(Given(student, teachers, labels, 1), layers)
    own = 0 if layers is None else sum(parameter.numel() for parameter in layers.parameters())
    return LessonPlan(student, teachers, own)


def _check_union(path: str, lesson: AmalgamateOptions, experiment: Experiment) -> None:
    """Where teachers' tasks say which classes they know, these are the student's, one after the other.

    Raises:
        InputError: they are not.
    """
    student = experiment.learners[split_end(lesson.student)[0]].trained_task
    tasks = [experiment.learners[split_end(end)[0]].task for end in lesson.teachers]
    ranges = [list(task.classes) for task in tasks if task is not None and task.classes is not None]
    if len(ranges) < len(tasks):
        return  # files that do not say; only how many is known
    low, high = student.classes or (0, ranges[-1][1])
    follow = all(one[1] == other[0] for one, other in pairwise(ranges))
    if not follow or (ranges[0][0], ranges[-1][1]) != (low, high):
        raise InputError(
            f"{path}.from: the teachers know the classes {ranges}; in their order they must follow each other, from "
            "the student's first to its last"
        )


def _classes(name: str, options: LearnerOptions, origin: Origin | None) -> int:
    """How many classes a frozen teacher tells apart, in its file and in its task alike."""
    classes = classes_of(options) if origin is None else origin.classes
    if options.task is not None and options.task.classes is not None:
        low, high = options.task.classes
        if high - low != classes:
            what = f"learners.{name}.task.classification.classes: {low} to {high} are {high - low} classes"
            raise InputError(f"{what}, and its weights tell {classes} apart")
    return classes


def _given(model: str, classes: int, shape: tuple[int, ...], layer: str | None) -> Outputs:
    """What a model gives of images of `shape`, on the meta device."""
    if names_code(model):  # it may want values, and its file may change
        return _forward(model, find_model(model).build(classes).eval(), torch.zeros(shape), layer)
    return _known(model, classes, shape, layer)


@lru_cache(maxsize=128)
def _known(model: str, classes: int, shape: tuple[int, ...], layer: str | None) -> Outputs:
    """Found once: a table plans many runs of the same models."""
    return _forward(model, find_model(model).sketch(classes).eval(), torch.empty(shape, device=META), layer)


def _forward(model: str, module: nn.Module, images: Tensor, layer: str | None) -> Outputs:
    row = find_model(model)
    features = Features(row, module, [layer] if layer else [])
    versions: list[int] = []
    path = path_of(row, layer) if layer else INTO
    if not path.startswith(INTO):
        find_layer(row, module, path).register_forward_hook(lambda _, __, output: versions.append(_version(output)))
    with torch.no_grad():
        logits = try_forward(model, module, images)
    if layer is None:
        return Outputs(logits.to(META))
    seen = features.take()[layer]
    if versions and versions[-1] != _version(seen):
        raise InputError(f"layer '{layer}': what follows it overwrites its output; name the layer behind it")
    return Outputs(logits.to(META), seen.to(META))


def _version(features: Any) -> int:
    """How often a tensor was written to in place."""
    return features._version if isinstance(features, Tensor) else 0


def try_forward(model: str, module: nn.Module, images: Tensor) -> Tensor:
    """A forward pass of the model of that name.

    Raises:
        InputError: it does not take such images.
    """
    try:
        return module(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        count, *shape = images.shape
        raise InputError(f"{model} does not take {count} images of {tuple(shape)} at once: {reason}") from None


# --- at work -----------------------------------------------------------------------------------------------------


@dataclass
class LiveLesson:
    """A student's loss with its teachers.

    Attributes:
        layer: of the student, whose features are compared.
        layers: that train along.
    """

    criterion: Criterion
    layer: str | None
    layers: nn.Module | None
    teachers: list[Teacher] = field(default_factory=list)


def make_lesson(
    lesson: Lesson, plan: LessonPlan, student: LearnerOptions, teachers: list[Teacher], seed: int
) -> LiveLesson:
    """The loss of a student, the initial weights of its layers keyed by (seed, loss, the student's model and copy)."""
    kind = type(lesson.loss).__name__
    with randomness.seeded("loss", seed, kind, student.model, student.copy_number):
        layers = lesson.loss.layers_for(plan.student, plan.teachers)
    return LiveLesson(lesson.loss, layer_of(lesson, lesson.student), layers, teachers)
