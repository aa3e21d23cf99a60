"""Everything about a run that can be known, and refused, before any worker starts."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from mergenet.config import InputError, about
from mergenet.data.images import Images, Split, held_out_size, hold_out
from mergenet.experiment import Experiment, LearnerOptions
from mergenet.identity import Contents, cell_keys, run_hash
from mergenet.models import code_digest, find_model, names_code
from mergenet.models.weights import read_weights
from mergenet.training.ends import Ends, TransferPlan, check_slices, check_writers, find_ends, plan_transfer
from mergenet.training.factored import factor_layers
from mergenet.training.frozen import ANY, frozen_weights, outline
from mergenet.training.lessons import LessonPlan, plan_lesson, try_forward
from mergenet.training.shared import Taken, check_shares
from mergenet.training.spec import Origin
from mergenet.wiring import split_end


@dataclass(frozen=True)
class LearnerPlan:
    """Size and length of one learner's training; of a frozen one what is held of it, and no steps."""

    parameters: int
    steps_per_epoch: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """A checked run."""

    ticks: int
    learners: dict[str, LearnerPlan]
    transfers: dict[str, TransferPlan]
    lessons: dict[str, LessonPlan]
    contents: Contents
    cells: dict[str, str]
    hash: str

    def parameters_of(self, edge: str) -> int:
        """How many numbers train for `family.name`, beside the learners."""
        family, _, name = edge.partition(".")
        if family == "transfers":
            return self.transfers[name].adapter_parameters
        return self.lessons[edge].parameters if edge in self.lessons else 0


def make_plan(
    experiment: Experiment,
    seed: int,
    data: Mapping[str, Images],
    workers: int,
    origins: Mapping[str, Origin] = MappingProxyType({}),
) -> Plan:
    """The plan of `experiment` on `data` (name -> loaded set) over `workers` processes.

    Models are built without memory (on torch's meta device), disabled transfers are checked like the others. Files of
    weights that other runs train (`origins`) are not opened: they may not be there yet.

    Raises:
        InputError: whatever does not fit, by its path in the experiment.
    """
    share = experiment.evaluation.validation
    images = {name: _images(name, options, data, share) for name, options in experiment.trained().items()}
    weights = {
        name: _outline(name, options, images.get(name), workers, origins.get(name))
        for name, options in experiment.learners.items()
    }
    taken = check_shares(experiment, weights)
    ends = {name: find_ends(name, transfer, experiment, weights) for name, transfer in experiment.transfers.items()}
    check_writers(experiment, ends)
    check_slices(experiment, ends, taken)
    lessons = {
        path: plan_lesson(path, lesson, experiment, images, origins, workers)
        for path, lesson in experiment.lessons(enabled=False).items()
    }
    epochs = {name: _steps_per_epoch(name, experiment, len(images[name].train), workers) for name in images}
    ticks = epochs[experiment.clock] * experiment.learners[experiment.clock].training.epochs
    steps = {name: -(-ticks // options.training.every) for name, options in experiment.trained().items()}
    transfers = {
        name: plan_transfer(name, experiment, ends[name], steps[split_end(transfer.target)[0]])
        for name, transfer in experiment.transfers.items()
    }
    contents = _contents(experiment, data, origins)
    learners = {
        name: LearnerPlan(_held(experiment, name, ends, weights[name]), 0, 0)
        if options.frozen
        else LearnerPlan(_trained(name, weights[name], taken), epochs[name], steps[name])
        for name, options in experiment.learners.items()
    }
    return Plan(
        ticks=ticks,
        learners=learners,
        transfers=transfers,
        lessons=lessons,
        contents=contents,
        cells=cell_keys(experiment, seed, steps, contents, epochs[experiment.clock]),
        hash=run_hash(experiment, contents),
    )


def plan_again(plan: Plan, experiment: Experiment, seed: int, origins: Mapping[str, Origin]) -> Plan:
    """The plan of the same experiment with another seed, and with weights of other origins."""
    contents = replace(plan.contents, weights={**plan.contents.weights, **weights_of(origins)})
    steps = {name: plan.learners[name].steps for name in experiment.trained()}
    cells = cell_keys(experiment, seed, steps, contents, plan.learners[experiment.clock].steps_per_epoch)
    return replace(plan, contents=contents, cells=cells, hash=run_hash(experiment, contents))


def _contents(experiment: Experiment, data: Mapping[str, Images], origins: Mapping[str, Origin]) -> Contents:
    """Digests of all that the experiment names; weights that were trained here are named by their cell."""
    learners = experiment.learners.items()
    files = {
        name: read_weights(one.model, one.weights).digest
        for name, one in learners
        if one.weights is not None and name not in origins
    }
    return Contents(
        data={name: images.digest() for name, images in data.items()},
        forms={name: [images.classes, images.mean, images.deviation] for name, images in data.items()},
        weights={**files, **weights_of(origins)},
        code={name: code_digest(one.model) for name, one in learners if names_code(one.model)},
    )


def weights_of(origins: Mapping[str, Origin]) -> dict[str, str]:
    """Learner -> what stands for the digest of weights that another run trains."""
    return {name: f"cell {origin.cell}" for name, origin in origins.items()}


def _numel(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _trained(learner: str, weights: Mapping[str, Tensor], taken: Taken) -> int:
    """How many numbers a learner trains itself: not those that are a slice of another's."""
    return _numel(weight for name, weight in weights.items() if (learner, name) not in taken)


def _held(experiment: Experiment, learner: str, ends: Mapping[str, Ends], weights: Mapping[str, Tensor]) -> int:
    """How many numbers of a frozen learner are held: all of a teacher's, else those that enabled transfers read."""
    teachers = {split_end(end)[0] for lesson in experiment.lessons().values() for end in lesson.teachers}
    if learner in teachers:
        trained = dict(find_model(experiment.learners[learner].model).sketch(ANY).named_parameters())
        return _numel(weight for name, weight in weights.items() if name in trained)  # running statistics are none
    held = {
        (ends[name].source.path, transfer.layout): ends[name].source
        for name, transfer in experiment.enabled_transfers().items()
        if split_end(transfer.source)[0] == learner
    }
    return sum(port.numel() for port in held.values())


def _images(name: str, options: LearnerOptions, data: Mapping[str, Images], share: float) -> Images:
    """What a learner that trains sees of the data, a `share` of whose training images are held out."""
    task = options.trained_task
    try:
        images = task.images(data)
        if task.parts:
            labels = images.train.labels
            _, held = hold_out(Split(labels, labels), share, images.digest())  # as training will, without the pixels
            if len(held):
                task.check_measured("validation", held.labels, images.classes)
            task.check_measured("test", images.test.labels, images.classes)
        return images
    except InputError as error:
        kind = next(iter(options.dump()["task"]))
        raise InputError(f"learners.{name}.task.{kind}.{error}") from None


def _outline(
    name: str, options: LearnerOptions, images: Images | None, workers: int, origin: Origin | None
) -> dict[str, Tensor]:
    """The parameters of a learner, or what the file of a frozen one holds, by dotted name and without memory."""
    with about(f"learners.{name}.{'weights' if options.frozen else 'model'}"):
        if images is None and origin is not None:
            return dict(find_model(options.model).sketch(origin.classes).named_parameters())
        if images is None:  # frozen
            return outline(frozen_weights(options))
        model = _fitting_sketch(options, images, workers)
    if options.weights is not None and origin is None:
        with about(f"learners.{name}.weights"):
            read_weights(options.model, options.weights).check_fits(model)
    try:
        factor_layers(model, options)
    except InputError as error:
        raise InputError(f"learners.{name}.factored.{error}") from None
    return dict(model.named_parameters())


def _fitting_sketch(options: LearnerOptions, images: Images, workers: int) -> nn.Module:
    """A learner's model without memory, which takes its part of a batch of such images.

    A user's own model may want values, and is taken at its word; its file may change, so it is built anew.
    """
    if names_code(options.model):
        return find_model(options.model).sketch(images.classes)
    part = max(options.training.batch_size // (workers * options.training.accumulation), 1)
    model = _known_sketch(options.model, images.classes, part, tuple(images.train.images.shape[1:]))
    return deepcopy(model) if options.factored else model  # factoring changes it


@lru_cache(maxsize=64)
def _known_sketch(name: str, classes: int, part: int, shape: tuple[int, ...]) -> nn.Module:
    """Made once: a sweep plans hundreds of runs of the same models."""
    model = find_model(name).sketch(classes)
    try_forward(name, model, torch.empty(part, *shape, device="meta"))
    return model


def _steps_per_epoch(name: str, experiment: Experiment, total: int, workers: int) -> int:
    """Whole batches of what is left of `total` training images when the validation split is cut off."""
    options = experiment.learners[name]
    size = options.training.batch_size
    parts = workers * options.training.accumulation
    held = held_out_size(total, experiment.evaluation.validation)
    samples = total - held
    if size % parts:
        right = f"{max(size // parts, 1) * parts} does"
        what = f"{workers} worker{'s'[: workers - 1]}"
        if parts == workers:
            raise InputError(f"learners.{name}.training.batch_size: {size} does not divide by {what}, {right}")
        raise InputError(
            f"learners.{name}.training.accumulation: a batch of {size} does not divide by {what} of {parts // workers} "
            f"parts each, {right}"
        )
    if experiment.evaluation.weights == "best" and not held:
        raise InputError("evaluation.weights: 'best' is chosen on a validation split, and it would hold no samples")
    if size > samples:
        raise InputError(f"learners.{name}.training.batch_size: {size} is above the {samples} training samples")
    return samples // size
