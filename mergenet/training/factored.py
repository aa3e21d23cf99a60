"""Learners some of whose layers are trained as two factors."""

from collections.abc import Mapping

from torch import Tensor, nn

from mergenet.experiment import LearnerOptions
from mergenet.method.factorization import factor, merge
from mergenet.models import find_model


def factor_layers(model: nn.Module, options: LearnerOptions) -> None:
    """Re-parameterises, in place, the layers that the learner names.

    Raises:
        InputError: no such layer, or a rank above what its weight has; it begins with the port.
    """
    ranks = {port: factorization.rank for port, factorization in options.factored.items()}
    factor(model, ranks, find_model(options.model).ports)


def merged(weights: Mapping[str, Tensor], options: LearnerOptions, classes: int) -> Mapping[str, Tensor]:
    """A learner's state dict as its plain model has it."""
    if not options.factored:
        return weights
    plain = find_model(options.model).sketch(classes).state_dict()
    return merge(weights, {name: tensor.shape for name, tensor in plain.items()})
