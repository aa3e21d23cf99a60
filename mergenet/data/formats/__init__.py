"""The formats that images can be imported from, by name."""

from pathlib import Path

from mergenet.config import InputError
from mergenet.data.formats.cifar import CIFAR_BINARY, CIFAR_PYTHON
from mergenet.data.formats.image_folder import IMAGE_FOLDER
from mergenet.data.formats.parquet import PARQUET
from mergenet.data.formats.source import Format

FORMATS: dict[str, Format] = {
    "cifar-python": CIFAR_PYTHON,
    "cifar-binary": CIFAR_BINARY,
    "image-folder": IMAGE_FOLDER,
    "parquet": PARQUET,
}


def recognise(source: Path) -> str:
    """The name of the format that `source` is in.

    Raises:
        InputError: it is in none, or in several.
    """
    found = [name for name, form in FORMATS.items() if form.recognise(source)]
    if len(found) > 1:
        raise InputError(f"{source} could be {' or '.join(found)}; say which with --format")
    if not found:
        looked_for = "; ".join(f"{form.looked_for} ({name})" for name, form in FORMATS.items())
        raise InputError(f"{source} holds no images in a known form. Looked for {looked_for}")
    return found[0]
