"""`mergenet models`: which models there are, and the ports of each."""

import shutil
from typing import TYPE_CHECKING

import click

from mergenet.config import InputError

if TYPE_CHECKING:
    from mergenet.method.ports import Port

Rows = list[tuple[str, ...]]


@click.command(short_help="Lists models, or the ports of one.")
@click.argument("name", required=False)
@click.option(
    "--classes", type=click.IntRange(min=1), default=100, show_default=True, help="Outputs of the classifier."
)
@click.option("--allow-code", is_flag=True, help="Lets NAME be package.module:function, and runs it.")
def models(name: str | None, classes: int, allow_code: bool) -> None:
    """Lists the models, or every port of the model NAME with the shape of its matrix."""
    from mergenet.cli.show import print_table

    if name is None:
        print_table(("model", "named ports"), ("parameters",), _rows_of_models(classes))
        _print_published()
    else:
        named, others = _rows_of_ports(name, classes, allow_code)
        print_table(("port", "weight"), ("matrix",), named)
        if others:
            print_table(("every other weight is a port too",), ("matrix",), others)
        print_table(("layer whose features losses compare", "module"), (), _rows_of_layers(name))


def _rows_of_models(classes: int) -> Rows:
    from mergenet.models import MODELS

    rows: Rows = []
    for name, model in MODELS.items():
        parameters = sum(parameter.numel() for parameter in model.sketch(classes).parameters())
        first, *others = model.ports
        shown = [first, *others] if len(others) < 3 else [first, others[0], "...", others[-1]]
        rows.append((name, ", ".join(shown), f"{parameters:,}"))
    return rows


def _print_published() -> None:
    from mergenet.models import MODELS, published_names

    names = ", ".join(name for name in published_names() if name not in MODELS)
    click.echo("torchvision's own, each with the port classifier:")
    width = min(shutil.get_terminal_size().columns, 100)
    click.echo(click.wrap_text(names, width, initial_indent="  ", subsequent_indent="  "))
    click.echo("\nA model of your own is package.module:function, with --allow-code.")


def _rows_of_ports(name: str, classes: int, allow_code: bool) -> tuple[Rows, Rows]:
    """The named ports, and every other weight that can take part."""
    from mergenet.method.ports import find_port
    from mergenet.models import find_model, named_ports, names_code

    if names_code(name) and not allow_code:
        raise InputError(f"model '{name}' is code of yours that would run here; add --allow-code to let it")
    model = find_model(name)
    parameters = dict(model.sketch(classes).named_parameters())
    ports = [find_port(parameters, port, model.ports) for port in named_ports(name)]
    named = [port for port in ports if port.name in model.ports]
    others = [port for port in ports if port.name not in model.ports]
    return [(port.name, port.path, _size(port)) for port in named], [(port.name, _size(port)) for port in others]


def _rows_of_layers(name: str) -> Rows:
    """The named layers; any other has its dotted name."""
    from mergenet.models import find_model
    from mergenet.models.features import INTO, POOLED, path_of

    model = find_model(name)
    names = [*(name for name in model.layers if name != POOLED), *([POOLED] if "classifier" in model.ports else [])]
    rows: Rows = [(name, path_of(model, name).replace(INTO, "what goes into ")) for name in names]
    return [*rows, ("any other", "by its dotted name")]


def _size(port: "Port") -> str:
    return f"{port.shape[0]} x {port.shape[1]}"
