"""`mergenet export`: a trained learner as a folder that needs torch and torchvision alone."""

from pathlib import Path

import click


@click.command(short_help="Writes a trained model for use elsewhere.")
@click.argument("run")
@click.option("--learner", metavar="NAME", help="Which of the run's learners.  [default: the clock's]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The folder to write.  [default: RUN/export/LEARNER]"
)
@click.option("--no-program", is_flag=True, help="Leaves out model.pt2, the program that needs torch alone.")
@click.option("--allow-code", is_flag=True, help="Lets a model of your own, package.module:function, run.")
def export(run: str, learner: str | None, out: Path | None, no_program: bool, allow_code: bool) -> None:
    """Writes a trained learner of the finished run recorded in RUN, a folder or a URI: weights, model, card.

    \b
    mergenet export runs/digits-cross-structure/0123abcd-s0
    mergenet export runs/digits-cross-structure/0123abcd-s0 --learner source --out teacher
    """
    from mergenet.training.export import export_model

    folder = export_model(run, out, learner, not no_program, allow_code)
    click.echo(f"{folder}")
    for path in sorted(folder.iterdir()):
        click.echo(f"  {path.name:<18} {path.stat().st_size / 1e3:>10,.1f} kB")
    click.echo("README.md says what it is and how to load it.")
