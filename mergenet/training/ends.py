"""The two ends of each transfer, found and checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mergenet.config import InputError, about
from mergenet.experiment import Experiment
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port, check_flattening, find_port
from mergenet.method.upkeep import find_batchnorm
from mergenet.models import find_model
from mergenet.training.frozen import ANY
from mergenet.wiring import split_end

Size = tuple[int, int]


@dataclass(frozen=True)
class TransferPlan:
    """Shapes of a transfer: of the weights, and of what the encoding leaves of them."""

    source: Size
    target: Size
    encoded_source: Size
    encoded_target: Size
    adapter_parameters: int
    transfers: int


class Ends(NamedTuple):
    """The two ports that a transfer joins."""

    source: Port
    target: Port


def find_ends(
    name: str, transfer: TransferOptions, experiment: Experiment, weights: Mapping[str, Mapping[str, Tensor]]
) -> Ends:
    """Both ports, laid out as the transfer wants them."""

    def find(key: str, end: str) -> Port:
        learner, port = split_end(end)
        model = experiment.learners[learner].model
        with about(f"transfers.{name}.{key}: {model}"):
            return find_port(weights[learner], port, find_model(model).ports, transfer.layout)

    return Ends(find("from", transfer.source), find("to", transfer.target))


def check_writers(experiment: Experiment, ends: Mapping[str, Ends]) -> None:
    """One writer a weight, and none that reads what it writes, whichever of its names was used."""
    for name, transfer in experiment.transfers.items():
        same_learner = split_end(transfer.source)[0] == split_end(transfer.target)[0]
        if same_learner and not ends[name].source.parameters.keys().isdisjoint(ends[name].target.parameters):
            raise InputError(f"transfers.{name}.to: {transfer.target} is what it reads; name another port")
    writers: dict[tuple[str, str], str] = {}
    for name, transfer in experiment.enabled_transfers().items():
        learner, port = split_end(transfer.target)[0], ends[name].target
        for weight in ((learner, parameter) for parameter in port.parameters):
            if weight in writers:
                raise InputError(f"transfers.{name}.to: '{writers[weight]}' writes to {learner}.{port.path} already")
            writers[weight] = name


def check_slices(experiment: Experiment, ends: Mapping[str, Ends], taken: Mapping[tuple[str, str], str]) -> None:
    """No transfer reads or writes a weight that is a slice of another.

    Args:
        taken: learner and dotted parameter -> the share that makes it so.
    """
    for name, transfer in experiment.enabled_transfers().items():
        for key, end, port in (
            ("from", transfer.source, ends[name].source),
            ("to", transfer.target, ends[name].target),
        ):
            for parameter in port.parameters:
                share = taken.get((split_end(end)[0], parameter))
                if share is not None:
                    large = experiment.share[share].large
                    raise InputError(f"transfers.{name}.{key}: {end} is a slice of {large} (share.{share}); name that")


def plan_transfer(name: str, experiment: Experiment, ends: Ends, steps: int) -> TransferPlan:
    """Sizes of a transfer into a learner of so many steps.

    Raises:
        InputError: what it asks for cannot be had of these ports.
    """
    options = experiment.transfers[name]
    source = ends.target if options.control == "own" else ends.source
    _check_flattening(name, options, Ends(source, ends.target))
    _check_batchnorm(name, experiment, ends.target)
    encoded: list[Size] = []
    for key, port in (("from", source), ("to", ends.target)):
        try:
            encoded.append(options.encoding.build(port.shape).shape())
        except InputError as error:
            raise InputError(f"transfers.{name}.encoding: {error} (`{key}`, port '{port.name}')") from None
    with torch.device("meta"):
        adapter = options.adapter.build(encoded[1], encoded[0])
    parameters = sum(parameter.numel() for parameter in adapter.parameters())
    count = sum(options.is_due(step, steps) for step in range(steps)) if options.enabled else 0
    return TransferPlan(source.shape, ends.target.shape, encoded[0], encoded[1], parameters, count)


def _check_flattening(name: str, options: TransferOptions, ends: Ends) -> None:
    if options.flattening == "outputs":
        return
    with about(f"transfers.{name}.flattening"):
        check_flattening(ends)


def _check_batchnorm(name: str, experiment: Experiment, port: Port) -> None:
    options = experiment.transfers[name]
    if options.batchnorm == "keep":
        return
    model = find_model(experiment.learners[split_end(options.target)[0]].model).sketch(ANY)
    with about(f"transfers.{name}.batchnorm"):
        find_batchnorm(model, port.path, len(port.tensors[0]))
