"""How the tests of `cluster/` read its files, and read mergenet commands in them as the command line would."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from mergenet import cli
from mergenet.experiment import recipes
from tune.search.sweep import sweeps
from tune.table import tables

PROJECT = Path(__file__).parents[1]
CLUSTER = PROJECT / "cluster"
FILES = sorted(
    path
    for path in CLUSTER.rglob("*")
    if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts and path.name != ".env"
)
"""All but the package that lies beside them."""

NAMED = {
    "train": recipes,
    "sweep": sweeps,
    "ablate": tables,
    "report": lambda: [*tables(), *sweeps()],
}
"""Command -> what its first word may be."""


def load(path: Path) -> list[Any]:
    """The documents of a YAML file, as Kubernetes and Compose read it: YAML 1.1 with merges, no key twice."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return [document for document in yaml.load_all(path.read_text()) if document is not None]


def pin(package: str) -> str:
    """Its version in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.M)
    assert found, package
    return found[1]


def check_mergenet(words: list[str]) -> None:
    """Reads a command's words, without `mergenet`, as the command line would, and runs nothing.

    Raises:
        click.ClickException: no such command, option or value.
    """
    command: click.Command = cli.commands
    context = command.make_context("mergenet", list(words))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, list(rest), parent=context)
    if command.name == "submit":
        check_mergenet(list(context.params["words"]))
    elif command.name in NAMED and not context.params.get("resume"):
        argument = next(parameter.name for parameter in command.params if isinstance(parameter, click.Argument))
        assert context.params[argument] in NAMED[command.name](), f"{command.name}: no {context.params[argument]}"


def written_commands(text: str) -> Iterator[list[str]]:
    """The words of each mergenet command of a text, of which a line, `;`, `&`, `|` or a quote is the end."""
    for found in re.finditer(r"(?:\bmergenet|\.sbatch) ((?:cluster|train|sweep|ablate|report) [^\n;&|'`]*)", text):
        yield shlex.split(found[1], comments=True)
