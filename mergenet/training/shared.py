"""Weights that two learners share: found and checked before the run, and at work in it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mergenet.config import InputError, about
from mergenet.experiment import Experiment
from mergenet.method.distill.shared import channel_order, slice_of
from mergenet.method.edges import Order, ShareOptions
from mergenet.method.ports import find_port
from mergenet.models import find_model
from mergenet.wiring import split_end

Taken = dict[tuple[str, str], str]
"""Learner and dotted parameter that is a slice of another -> the share that makes it so."""


def parameter_of(experiment: Experiment, end: str, weights: Mapping[str, Tensor]) -> str:
    """The dotted parameter that a `learner.port` names.

    Raises:
        InputError: there is no such weight.
    """
    learner, port = split_end(end)
    (name,) = find_port(weights, port, find_model(experiment.learners[learner].model).ports).parameters
    return name


def check_shares(experiment: Experiment, weights: Mapping[str, Mapping[str, Tensor]]) -> Taken:
    """Every share fits; those that are enabled do not touch each other's slices.

    Args:
        weights: learner -> its parameters, without memory.

    Raises:
        InputError: the first that does not fit.
    """
    taken: Taken = {}
    for name, share in experiment.share.items():
        large, small = (_named(experiment, f"share.{name}.{key}", end, weights) for key, end in _ends(share))
        if not small[1].endswith(".weight"):
            raise InputError(f"share.{name}.to: {share.small} is not the weight of a layer; name one that is")
        with about(f"share.{name}.to"):
            slice_of(weights[large[0]][large[1]], weights[small[0]][small[1]].shape)
        if share.enabled:
            if small in taken:
                raise InputError(f"share.{name}.to: {share.small} is shared by '{taken[small]}' already")
            taken[small] = name
    for name, share in experiment.enabled_shares().items():
        large = _named(experiment, f"share.{name}.from", share.large, weights)
        if large in taken:
            raise InputError(
                f"share.{name}.from: {share.large} is itself a slice, by '{taken[large]}'; name that one's"
            )
    return taken


def _ends(share: ShareOptions) -> list[tuple[str, str]]:
    return [("from", share.large), ("to", share.small)]


def _named(experiment: Experiment, path: str, end: str, weights: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, str]:
    learner, _ = split_end(end)
    with about(f"{path}: {experiment.learners[learner].model}"):
        return learner, parameter_of(experiment, end, weights[learner])


class SharedWeight:
    """A small layer whose weight is the slice of a large one.

    In a training pass the small layer's weight is the slice itself, through which gradients reach the large one;
    between steps it is a copy, as whoever measures, exports or reads it wants it.

    Args:
        large: the parameter that is trained.
        small: the layer; its own weight is given up.
    """

    def __init__(self, large: nn.Parameter, small: nn.Module, order: Order) -> None:
        self.large = large
        self.small = small
        self.order = order
        self.shape = tuple(small.get_parameter("weight").shape)
        self.orders: tuple[Tensor | None, Tensor | None] = (None, None)
        if order != "stands":
            self.sort()
        del small.weight
        small.register_buffer("weight", self._slice().detach().clone())

    def sort(self) -> None:
        """Takes the channels of the largest norm from now on, the largest first."""
        self.orders = (channel_order(self.large, 0), channel_order(self.large, 1))

    def _slice(self) -> Tensor:
        return slice_of(self.large, self.shape, *self.orders)

    def bind(self) -> None:
        """Before a training pass."""
        self.small.weight = self._slice()

    def settle(self) -> None:
        """After a step."""
        self.small.weight = self._slice().detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint must hold beside the weights."""
        return {"orders": self.orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, when the learners have their weights again."""
        where = self.large.device
        self.orders = tuple(None if order is None else order.to(where) for order in state["orders"])  # type: ignore[assignment]
        self.settle()


def share_weight(experiment: Experiment, share: ShareOptions, models: Mapping[str, nn.Module]) -> SharedWeight:
    """Joins two layers of models that stand as they begin.

    Args:
        models: learner -> its model.
    """
    (large, one), (small, other) = (
        (models[split_end(end)[0]], parameter_of(experiment, end, dict(models[split_end(end)[0]].named_parameters())))
        for end in (share.large, share.small)
    )
    weight = large.get_parameter(one)
    layer = small.get_submodule(other.removesuffix(".weight"))
    return SharedWeight(weight, layer, share.order)
