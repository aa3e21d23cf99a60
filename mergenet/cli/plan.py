"""`mergenet plan`: what a recipe, a table or a sweep would take, before anything of it starts."""

from pathlib import Path

import click

from mergenet.cli.words import runs_option
from mergenet.config import InputError, nearest, read_file

KINDS = {"table": "arms", "sweep": "space", "recipe": "learners"}
"""What can be planned -> the key by which its file is told apart."""


@click.command(short_help="Says what would run and what it takes, measured here.")
@click.argument("named", metavar="TABLE|SWEEP|RECIPE")
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--scale", help="Of a table: on which data and models.  [default: digits]")
@click.option("--seeds", type=click.IntRange(min=1), help="So many.  [default: what a table says; 1 of a recipe]")
@click.option("--data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated.")
@runs_option
@click.option(
    "--results", default="results", envvar="MERGENET_RESULTS", show_default=True, help="Folder of a table's reports."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="torch's, of each process.")
@click.option("--concurrent", type=click.IntRange(min=1), help="Runs at once.  [default: as there is room for]")
@click.option("--workers", type=click.IntRange(min=1), help="Of a recipe: processes that share a batch.  [default: 1]")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="To measure in, all probes."
)
@click.option(
    "--effect",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="A true difference that is to be found: says how many seeds would.",
)
@click.option("--allow-code", is_flag=True, help="Lets models named package.module:function run.")
@click.option("--json", "as_json", is_flag=True, help="Prints it as JSON, seconds and bytes.")
def plan(
    named: str,
    overrides: tuple[str, ...],
    scale: str | None,
    seeds: int | None,
    data: tuple[str, ...],
    runs: str,
    results: str,
    device: str,
    threads: int,
    concurrent: int | None,
    workers: int | None,
    seconds: float,
    effect: float,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Says what would run, how long it takes and what it needs, from real ticks on this machine; nothing is kept.

    \b
    mergenet plan digits-cross-structure training.epochs=5
    mergenet plan table8 --scale cifar16 --data cifar100=PATH
    mergenet plan digits-pairing budget.trials=100
    """
    kind = kind_of(named)
    _refuse_what_is_of_others(
        kind,
        {
            "--scale": scale,
            "--seeds": seeds,
            "--concurrent": concurrent,
            "--workers": workers,
            "--allow-code": allow_code,
            "path=value": overrides,
        },
    )
    from mergenet.cli.planning import Asked, planned
    from mergenet.jobs import resolve_device
    from mergenet.training.copies import fetch_all, runs_here

    asked = Asked(
        named,
        overrides,
        scale or "digits",
        seeds,
        data,
        fetch_all(runs_here(runs)),
        Path(results),
        resolve_device(device),
        threads,
        concurrent,
        workers or 1,
        seconds,
        effect,
        allow_code,
    )
    forecast = planned(kind, asked)
    if as_json:
        import json

        click.echo(json.dumps(forecast.as_plain(), indent=2))
    else:
        from mergenet.cli.show_forecast import print_forecast

        print_forecast(forecast)


# --- what it is ----------------------------------------------------------------------------------------------------


def kind_of(named: str) -> str:
    """Whether this is the name or the file of a table, a sweep or a recipe.

    Raises:
        InputError: of none, with the nearest.
    """
    from mergenet.experiment import recipes
    from tune.search.sweep import sweeps
    from tune.table import tables

    if "/" in named or named.endswith((".yaml", ".yml")):
        values = read_file(Path(named))
        for kind, key in KINDS.items():
            if key in values:
                return kind
        raise InputError(f"{named}: has neither `arms` (a table), `space` (a sweep) nor `learners` (a recipe)")
    names = {"table": tables(), "sweep": sweeps(), "recipe": recipes()}
    for kind, there in names.items():
        if named in there:
            return kind
    every = [name for there in names.values() for name in there]
    raise InputError(f"no table, sweep or recipe '{named}'; {nearest(named, every)} (a file is named by its path)")


def _refuse_what_is_of_others(kind: str, given: dict[str, object]) -> None:
    """Options that would say nothing."""
    of = {
        "--scale": ("table",),
        "--seeds": ("table", "recipe"),
        "--concurrent": ("table", "sweep"),
        "--workers": ("recipe",),
        "--allow-code": ("sweep", "recipe"),
        "path=value": ("sweep", "recipe"),
    }
    for option, value in given.items():
        if value and kind not in of[option]:
            raise InputError(f"{option} is of a {' or a '.join(of[option])}, and this is a {kind}; leave it out")
