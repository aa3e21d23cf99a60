"""`mergenet data`: bring images in, see what there is, check that it is whole."""

from pathlib import Path

import click

from mergenet.config import InputError, nearest

FORMATS = ("auto", "cifar-python", "cifar-binary", "image-folder", "parquet")

root_option = click.option(
    "--root", envvar="MERGENET_DATA", default="data", show_default=True, help="Folder of all data sets."
)


@click.group()
def data() -> None:
    """Brings in images to train on, lists them, verifies them."""


@data.command("import")
@click.argument("name")
@click.argument("source")
@root_option
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True)
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS", help="Brings all images to one square.")
@click.option("--label", metavar="COLUMN", help="Labels in Parquet.  [default: fine_label or label]")
@click.option("--image", metavar="COLUMN", help="Images in Parquet.  [default: image or img]")
def import_command(
    name: str, source: str, root: str, form: str, size: int | None, label: str | None, image: str | None
) -> None:
    """Makes SOURCE a data set to train on by NAME.

    It is read, written to ROOT/NAME as Parquet, and read back to compare every pixel.

    \b
    SOURCE is one of
      CIFAR-10 or CIFAR-100: the .tar.gz or its folder, Python or binary version
      a folder with train/CLASS/*.png and test/CLASS/*.png (or .jpg, ...)
      a folder with train*.parquet and test*.parquet
    \b
    mergenet data import cifar100 cifar-100-python.tar.gz
    mergenet data import flowers ~/flowers --size 64
    """
    from mergenet.cli.progress import watched
    from mergenet.data.formats.source import Wishes
    from mergenet.data.importer import import_data

    wishes = Wishes(size, label, image)
    described, already = import_data(name, Path(source), Path(root), None if form == "auto" else form, wishes, watched)
    size_text = " x ".join(map(str, described.size))
    click.echo(
        f"{Path(root) / name}{' holds this data already' if already else ''}: {described.train} training and "
        f"{described.test} test images of {size_text} in {len(described.classes)} classes, "
        f"digest {described.digest[:8]}"
    )


@data.command("list")
@root_option
def list_command(root: str) -> None:
    """Lists what lies in ROOT."""
    from mergenet.cli.show import print_table
    from mergenet.data.catalogue import data_sets

    there = data_sets(Path(root))
    if there:
        wrong: list[str] = []
        rows = [_row(name, folder, wrong) for name, folder in there.items()]
        print_table(("name", "state"), ("classes", "train", "test", "size", "digest"), rows)
        for line in wrong:
            click.echo(line)
    else:
        _say_nothing_there(root)


def _say_nothing_there(root: str) -> None:
    click.echo(f"No data sets in {root}; mergenet data import NAME SOURCE --root {root} brings one in.")


def _row(name: str, folder: Path, wrong: list[str]) -> tuple[str, ...]:
    """What is known of a data set; what is wrong with one goes to `wrong`."""
    from mergenet.data.catalogue import find_data_set

    try:
        found = find_data_set(name, folder)
    except InputError as error:
        wrong.append(str(error))
        return name, "broken", *("-",) * 5
    state, digest = ("imported", found.digest[:8]) if found.digest else ("bare Parquet", "-")
    size = " x ".join(map(str, found.size))
    return name, state, str(len(found.classes)), f"{found.train:,}", f"{found.test:,}", size, digest


@data.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@root_option
def verify_command(names: tuple[str, ...], root: str) -> None:
    """Reads every image and compares with the record.

    Of the data sets NAME, or of all in ROOT. Exit code 2 where something is wrong.
    """
    from mergenet.data.catalogue import data_sets

    there = data_sets(Path(root))
    for name in names:
        if name not in there:
            raise InputError(f"no data '{name}' in {root}; {nearest(name, there)}")
    if not there:
        _say_nothing_there(root)
    broken = [wrong for name in names or there if (wrong := _verify(name, there[name]))]
    if broken:
        raise InputError("; ".join(broken))


def _verify(name: str, folder: Path) -> str | None:
    """Prints a line, and returns what is wrong."""
    from mergenet.cli.progress import watched
    from mergenet.data.catalogue import find_data_set

    try:
        found = find_data_set(name, folder)
        digest = found.verify(watched)
    except InputError as error:
        click.echo(f"{name}: broken")
        return str(error)
    against = "as recorded" if found.digest else "none recorded to compare with"
    click.echo(f"{name}: {found.train} training and {found.test} test images, digest {digest[:8]}, {against}")
    return None
