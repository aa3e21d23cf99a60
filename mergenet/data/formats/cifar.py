"""CIFAR-10 and CIFAR-100 as their authors give them: Python's pickles and plain bytes, in folders or .tar.gz."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mergenet.config import InputError
from mergenet.data.cifar import CIFAR10, CIFAR100, SIZE, Cifar
from mergenet.data.formats.files import Files, folders_in, is_archive, open_files, reading
from mergenet.data.formats.source import Format, Found, Wishes
from mergenet.data.formats.unpickle import unpickle
from mergenet.data.images import Split
from mergenet.data.watch import Watch

PIXELS = 3 * 32 * 32

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, 3, 32, 32) and labels (N,)."""


# --- the bytes of one file -----------------------------------------------------------------------------------------


def _read_pickle(content: bytes, labels: str) -> Batch:
    """A map with `data` (N, 3072), an image's red, green and blue rows one after the other, and a list of labels."""
    batch = unpickle(content)
    if not {"data", labels} <= batch.keys():
        raise ValueError(f"it holds {', '.join(batch)} and not data and {labels}")
    data, values = batch["data"], batch[labels]
    if not isinstance(values, list) or {*map(type, values)} != {int}:
        raise ValueError(f"{labels} is no list of whole numbers")
    if not isinstance(data, np.ndarray) or data.shape != (len(values), PIXELS):
        raise ValueError(f"data is no array of {len(values)} x {PIXELS} bytes, as the labels want it")
    return data.reshape(-1, *SIZE), np.array(values, dtype=np.int64)


def _read_records(content: bytes, label_bytes: int) -> Batch:
    """Records of labels, of which the last counts, and the 3,072 bytes of an image."""
    record = label_bytes + PIXELS
    if not content or len(content) % record:
        raise ValueError(f"{len(content)} bytes are no whole number of records of {record}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, *SIZE), records[:, label_bytes - 1].astype(np.int64)


# --- which files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The files of one data set in one format."""

    cifar: Cifar
    folder: str
    train: tuple[str, ...]
    test: str
    parse: Callable[[bytes], Batch]


FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))

PICKLES = (
    Layout(CIFAR10, "cifar-10-batches-py", FIVE, "test_batch", partial(_read_pickle, labels="labels")),
    Layout(CIFAR100, "cifar-100-python", ("train",), "test", partial(_read_pickle, labels="fine_labels")),
)
BINARIES = (
    Layout(
        CIFAR10,
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in FIVE),
        "test_batch.bin",
        partial(_read_records, label_bytes=1),
    ),
    Layout(CIFAR100, "cifar-100-binary", ("train.bin",), "test.bin", partial(_read_records, label_bytes=2)),
)


def _find(source: Path, layouts: tuple[Layout, ...]) -> list[tuple[Path, Layout]]:
    """Where in `source` which layouts lie: in itself, in the folder that each has in its archive, in the archive."""
    if is_archive(source):
        by_folder = {layout.folder: layout for layout in layouts}
        folder = next((folder for folder in folders_in(source) if folder in by_folder), None)
        return [(source, by_folder[folder])] if folder else []
    return [
        (place, layout)
        for layout in layouts
        for place in (source, source / layout.folder)
        if any((place / name).is_file() for name in (*layout.train, layout.test))
    ]


# --- reading them --------------------------------------------------------------------------------------------------


def _read(source: Path, wishes: Wishes, watch: Watch, layouts: tuple[Layout, ...]) -> Found:
    found = _find(source, layouts)
    if not found:
        raise InputError(f"{source} holds neither {' nor '.join(layout.folder for layout in layouts)}")
    if len(found) > 1:
        raise InputError(f"{source} holds {' and '.join(layout.folder for _, layout in found)}; name one of them")
    place, layout = found[0]
    with open_files(place, layout.folder) as files:
        train = _join(_read_file(files, name, layout) for name in watch(layout.train, len(layout.train), "reading"))
        return Found(train, _join(iter([_read_file(files, layout.test, layout)])), layout.cifar.names)


def _read_file(files: Files, name: str, layout: Layout) -> Batch:
    with reading(files.where(name)):
        content = files.read(name)
    try:
        images, labels = layout.parse(content)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{files.where(name)} cannot be read (cut short?): {error}") from None
    classes = len(layout.cifar.names)
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{files.where(name)} has a label outside 0 to {classes - 1}")
    return images, labels


def _join(batches: Iterator[Batch]) -> Split:
    images, labels = zip(*batches, strict=True)
    return Split(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))


def _format(layouts: tuple[Layout, ...]) -> Format:
    return Format(
        " or ".join(layout.folder for layout in layouts),
        lambda source: bool(_find(source, layouts)),
        partial(_read, layouts=layouts),
    )


CIFAR_PYTHON = _format(PICKLES)
CIFAR_BINARY = _format(BINARIES)
