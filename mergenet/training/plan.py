"""Everything about a run that can be known, and refused, before any worker starts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mergenet.config import InputError
from mergenet.data.images import Images, held_out_size
from mergenet.experiment import Experiment, LearnerOptions, cell_keys, run_hash, split_end
from mergenet.method.ports import Port, find_port
from mergenet.method.transfer import TransferOptions
from mergenet.models import find_model

Size = tuple[int, int]


@dataclass(frozen=True)
class LearnerPlan:
    """Size and length of one learner's training."""

    parameters: int
    steps_per_epoch: int
    steps: int


@dataclass(frozen=True)
class TransferPlan:
    """Shapes of a transfer: of the weights, and of what the encoding leaves of them."""

    source: Size
    target: Size
    encoded_source: Size
    encoded_target: Size
    adapter_parameters: int
    transfers: int


@dataclass(frozen=True)
class Plan:
    """A checked run."""

    ticks: int
    learners: dict[str, LearnerPlan]
    transfers: dict[str, TransferPlan]
    digests: dict[str, str]
    cells: dict[str, str]
    hash: str


def make_plan(experiment: Experiment, seed: int, data: Mapping[str, Images], workers: int) -> Plan:
    """The plan of `experiment` on `data` (name -> loaded set) over `workers` processes.

    Models are built without memory (on torch's meta device), disabled transfers are checked like the others.

    Raises:
        InputError: whatever does not fit, by its path in the experiment.
    """
    digests = {name: images.digest() for name, images in data.items()}
    models = {name: _sketch(name, options, data) for name, options in experiment.learners.items()}
    ports = {end: _find(path, end, experiment, models) for path, end in _ends(experiment)}
    _check_writers(experiment, ports)
    epochs = {name: _steps_per_epoch(name, experiment, data, workers) for name in experiment.learners}
    ticks = epochs[experiment.clock] * experiment.learners[experiment.clock].training.epochs
    steps = {name: -(-ticks // options.training.every) for name, options in experiment.learners.items()}
    transfers = {
        name: _plan_transfer(name, transfer, ports, steps[split_end(transfer.target)[0]])
        for name, transfer in experiment.transfers.items()
    }
    return Plan(
        ticks=ticks,
        learners={name: LearnerPlan(_count(models[name]), epochs[name], steps[name]) for name in models},
        transfers=transfers,
        digests=digests,
        cells=cell_keys(experiment, seed, steps, digests, epochs[experiment.clock]),
        hash=run_hash(experiment, digests),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sketch(name: str, options: LearnerOptions, data: Mapping[str, Images]) -> nn.Module:
    try:
        with torch.device("meta"):
            return find_model(options.model).build(data[options.task.data].classes)
    except InputError as error:
        raise InputError(f"learners.{name}.model: {error}") from None


def _ends(experiment: Experiment) -> list[tuple[str, str]]:
    """Each end of each transfer: its path in the experiment, and `learner.port`."""
    return [
        (f"transfers.{name}.{key}", end)
        for name, transfer in experiment.transfers.items()
        for key, end in (("from", transfer.source), ("to", transfer.target))
    ]


def _find(path: str, end: str, experiment: Experiment, models: Mapping[str, nn.Module]) -> Port:
    learner, port = split_end(end)
    model = experiment.learners[learner].model
    try:
        return find_port(models[learner], port, find_model(model).ports)
    except InputError as error:
        raise InputError(f"{path}: {model}: {error}") from None


def _check_writers(experiment: Experiment, ports: Mapping[str, Port]) -> None:
    """One writer a weight, and none that reads what it writes, whichever of its names was used."""
    for name, transfer in experiment.transfers.items():
        same_learner = split_end(transfer.source)[0] == split_end(transfer.target)[0]
        if same_learner and ports[transfer.source].path == ports[transfer.target].path:
            raise InputError(f"transfers.{name}.to: {transfer.target} is what it reads; name another port")
    writers: dict[tuple[str, str], str] = {}
    for name, transfer in experiment.enabled_transfers().items():
        weight = (split_end(transfer.target)[0], ports[transfer.target].path)
        if weight in writers:
            raise InputError(f"transfers.{name}.to: '{writers[weight]}' writes to {'.'.join(weight)} already")
        writers[weight] = name


def _plan_transfer(name: str, options: TransferOptions, ports: Mapping[str, Port], steps: int) -> TransferPlan:
    source, target = ports[options.source], ports[options.target]
    encoded: list[Size] = []
    for key, port in (("from", source), ("to", target)):
        try:
            encoded.append(options.encoding.build(port.shape).shape())
        except InputError as error:
            raise InputError(f"transfers.{name}.encoding: {error} (`{key}`, port '{port.name}')") from None
    with torch.device("meta"):
        adapter = options.adapter.build(encoded[1], encoded[0])
    count = sum(options.is_due(step, steps) for step in range(steps)) if options.enabled else 0
    return TransferPlan(source.shape, target.shape, encoded[0], encoded[1], _count(adapter), count)


def _steps_per_epoch(name: str, experiment: Experiment, data: Mapping[str, Images], workers: int) -> int:
    options = experiment.learners[name]
    size = options.training.batch_size
    total = len(data[options.task.data].train)
    held = held_out_size(total, experiment.evaluation.validation)
    samples = total - held
    if size % workers:
        raise InputError(
            f"learners.{name}.training.batch_size: {size} does not divide by {workers} workers, "
            f"{max(size // workers, 1) * workers} does"
        )
    if experiment.evaluation.weights == "best" and not held:
        raise InputError("evaluation.weights: 'best' is chosen on a validation split, and it would hold no samples")
    if size > samples:
        raise InputError(f"learners.{name}.training.batch_size: {size} is above the {samples} training samples")
    return samples // size
