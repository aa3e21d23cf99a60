"""A folder a class: `train/CLASS/*.png` and `test/CLASS/*.png`, as torchvision's ImageFolder reads them."""

from pathlib import Path

import torch

from mergenet.config import InputError
from mergenet.data.formats.source import TEST_NAMES, UNEQUAL, Format, Found, Wishes, no_test_split
from mergenet.data.images import Split
from mergenet.data.pixels import Fit, decode_all, image_size
from mergenet.data.watch import Watch

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _recognise(source: Path) -> bool:
    return (source / "train").is_dir()


def _read(source: Path, wishes: Wishes, watch: Watch) -> Found:
    """Classes are labelled in the order of their names, and images lie in the order of class and path."""
    if not _recognise(source):
        raise InputError(f"{source} holds no folder train/")
    tests = [source / name for name in TEST_NAMES if (source / name).is_dir()]
    if not tests:
        raise no_test_split(source, f"{source / 'test'}/CLASS/")
    names = _classes(source / "train")
    _refuse_other_classes(names, _classes(tests[0]), tests[0])
    train = _read_split(source / "train", names, Fit(None, wishes.size, UNEQUAL), watch)
    test = _read_split(tests[0], names, Fit(image_size(train.images), wishes.size, UNEQUAL), watch)
    return Found(train, test, names)


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")))


def _refuse_other_classes(train: tuple[str, ...], test: tuple[str, ...], folder: Path) -> None:
    if not train:
        raise InputError(f"{folder.parent / 'train'} holds no folders; each class has its own, train/CLASS/")
    for name in sorted({*train} ^ {*test}):
        there, lacking = ("train", folder.name) if name in train else (folder.name, "train")
        raise InputError(f"{folder.parent}: class '{name}' is in {there}/ and not in {lacking}/; both need the same")


def _read_split(folder: Path, names: tuple[str, ...], fit: Fit, watch: Watch) -> Split:
    files = {name: _images(folder / name) for name in names}
    labels = [label for label, name in enumerate(names) for _ in files[name]]
    encoded = ((str(file), file) for name in names for file in files[name])
    images = decode_all(watch(encoded, len(labels), f"reading {folder.name}"), len(labels), fit)
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def _images(folder: Path) -> list[Path]:
    """The images of a class, in folders of any depth."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    found = sorted(file for file in files if not _is_hidden(file.relative_to(folder)))
    if not found:
        raise InputError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return found


def _is_hidden(file: Path) -> bool:
    """Whether it lies in a hidden folder or is hidden itself, as what notebooks and systems leave behind."""
    return any(part.startswith(".") for part in file.parts)


IMAGE_FOLDER = Format("folders train/CLASS and test/CLASS", _recognise, _read, takes=("size",))
