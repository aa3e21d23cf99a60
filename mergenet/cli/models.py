"""`mergenet models`: which models there are, and the ports of each."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("name", required=False)
@click.option(
    "--classes", type=click.IntRange(min=1), default=100, show_default=True, help="Outputs of the classifier."
)
def models(name: str | None, classes: int) -> None:
    """Lists the models, or every port of the model NAME with the shape of its matrix."""
    from mergenet.cli.show import print_table

    if name is None:
        print_table(("model", "named ports"), ("parameters",), _rows_of_models(classes))
    else:
        print_table(("port", "weight"), ("matrix",), _rows_of_ports(name, classes))


def _rows_of_models(classes: int) -> list[tuple[str, ...]]:
    from mergenet.models import MODELS

    rows: list[tuple[str, ...]] = []
    for name, model in MODELS.items():
        parameters = sum(parameter.numel() for parameter in _sketch(name, classes).parameters())
        first, *others = model.ports
        shown = [first, *others] if len(others) < 3 else [first, others[0], "...", others[-1]]
        rows.append((name, ", ".join(shown), f"{parameters:,}"))
    return rows


def _rows_of_ports(name: str, classes: int) -> list[tuple[str, ...]]:
    """The named ports first, then every other weight that can take part."""
    from mergenet.method.ports import find_port
    from mergenet.models import find_model

    named = find_model(name).ports
    model = _sketch(name, classes)
    matrices = [path.removesuffix(".weight") for path, weight in model.named_parameters() if weight.dim() > 1]
    ports = [
        find_port(model, port, named) for port in [*named, *(path for path in matrices if path not in named.values())]
    ]
    return [(port.name, port.path, f"{port.shape[0]} x {port.shape[1]}") for port in ports]


def _sketch(name: str, classes: int) -> "nn.Module":
    """The model without memory."""
    import torch

    from mergenet.models import find_model

    with torch.device("meta"):
        return find_model(name).build(classes)
