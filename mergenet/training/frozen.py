"""A frozen learner as transfers read it: weights in a file, of which only the matrices that are read are held.

One that teaches by its outputs is a `teachers.FrozenTeacher`.
"""

import torch
from torch import Tensor

from mergenet.experiment import LearnerOptions
from mergenet.method.layout import Layout
from mergenet.method.ports import Port, find_port
from mergenet.models import find_model
from mergenet.models.weights import Weights, read_weights

ANY = 1000
"""Classes of a model that is only compared with: a file's classifier may have another number of them."""


def frozen_weights(options: LearnerOptions) -> Weights:
    """The file of a frozen learner, opened.

    Raises:
        InputError: missing, broken, or no weights of this model.
    """
    assert options.weights is not None, "an experiment with a frozen learner without weights is refused"
    weights = read_weights(options.model, options.weights)
    weights.check_fits(find_model(options.model).sketch(ANY))
    return weights


def outline(weights: Weights) -> dict[str, Tensor]:
    """Every tensor of a file by its name, without memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in weights.shapes.items()}


def classes_of(options: LearnerOptions) -> int:
    """How many classes the file of a frozen learner tells apart."""
    weights, classifier = frozen_weights(options), find_model(options.model).ports.get("classifier")
    return ANY if classifier is None else weights.shapes[f"{classifier}.weight"][0]


def frozen_port(options: LearnerOptions, name: str, device: torch.device, layout: Layout) -> Port:
    """The port `name` of a frozen learner, what takes part alone read from the file, in fp32."""
    weights = frozen_weights(options)
    port = find_port(outline(weights), name, find_model(options.model).ports, layout)
    return port.with_each(lambda parameter, _: weights.tensor(parameter).to(device, torch.float32))
