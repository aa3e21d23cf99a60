"""The source of a transfer in a run: the weight that is named, or the control that stands in its place."""

from collections.abc import Mapping

from torch import nn

from mergenet import randomness
from mergenet.data.images import Images
from mergenet.experiment import LearnerOptions
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port, find_port
from mergenet.method.sources import Source, controlled
from mergenet.models import find_model
from mergenet.training.factored import factor_layers
from mergenet.training.frozen import classes_of


def is_live(options: TransferOptions) -> bool:
    """Whether what the transfer reads changes as its source trains."""
    return options.control in ("none", "shuffled")


def source_of(
    options: TransferOptions,
    port: Port,
    target: Port,
    learner: LearnerOptions,
    data: Mapping[str, Images],
    seed: int,
) -> Source:
    """What a transfer reads. Called before any learner has stepped, in a run that is resumed too.

    Args:
        port: where it reads.
        target: where it writes.
        learner: the one that `from` names.
        data: name of a data set -> it.
    """
    if options.control == "random":
        port = _initialised_otherwise(port, learner, data, seed)
    return controlled(options.control, port, target, seed)


def _initialised_otherwise(port: Port, learner: LearnerOptions, data: Mapping[str, Images], seed: int) -> Port:
    """The same port of the learner's model as it would begin from other random numbers."""
    classes = classes_of(learner) if learner.frozen else learner.trained_task.images(data).classes
    with randomness.seeded("random source", seed, learner.model, learner.copy_number):
        model: nn.Module = find_model(learner.model).build(classes)
    factor_layers(model, learner)
    found = find_port(dict(model.named_parameters()), port.path, {}, port.layout)
    return found.with_each(lambda _, tensor: tensor.detach().to(port.device))
