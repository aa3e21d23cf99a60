"""Real images written in the forms in which people keep them."""

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from mergenet.data.images import Images, Split

# --- CIFAR's pickles ---------------------------------------------------------------------------------------------


def python2_pickle(values: dict[str, Any]) -> bytes:
    """A map as Python 2 pickled it with protocol 2, arrays by the module names of the numpy of its time."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def one(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ" + b"\xff" * 4
            kind += b"J" + b"\xff" * 4 + b"K\x00tb"
            begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
            shape = b"".join(b"J" + struct.pack("<i", length) for length in value.shape) + b"\x86"
            return begin + b"(K\x01" + shape + kind + b"\x89" + text(value.tobytes()) + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(map(one, value)) + b"e"
        return b"J" + struct.pack("<i", value) if isinstance(value, int) else text(value.encode())

    return b"\x80\x02}(" + b"".join(text(key.encode()) + one(value) for key, value in values.items()) + b"u."


Dump = Callable[[dict[str, Any]], bytes]

DUMPS: dict[str, Dump] = {
    "python 2": python2_pickle,
    **{f"protocol {number}": lambda values, number=number: pickle.dumps(values, number) for number in (2, 4, 5)},
}


def batch_of(split: Split, labels: str) -> dict[str, Any]:
    """A split as CIFAR's authors keep it."""
    names = [f"image_{number}.png" for number in range(len(split))]
    data = split.images.reshape(len(split), -1).numpy()
    return {"filenames": names, "batch_label": "batch", labels: split.labels.tolist(), "data": data}


def write_cifar100_pickles(folder: Path, images: Images, dump: Dump = python2_pickle) -> Path:
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, split in (("train", images.train), ("test", images.test)):
        (folder / name).write_bytes(dump(batch_of(split, "fine_labels")))
    (folder / "meta").write_bytes(dump({"fine_label_names": list(images.names)}))
    return folder


def write_cifar10_pickles(folder: Path, images: Images) -> Path:
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, (pixels, labels) in enumerate(five(images.train), start=1):
        (folder / f"data_batch_{number}").write_bytes(python2_pickle(batch_of(Split(pixels, labels), "labels")))
    (folder / "test_batch").write_bytes(python2_pickle(batch_of(images.test, "labels")))
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": list(images.names)}))
    return folder


def five(split: Split) -> Iterable[tuple[Tensor, Tensor]]:
    """A split in five parts."""
    return zip(split.images.chunk(5), split.labels.chunk(5), strict=True)


# --- CIFAR's bytes -----------------------------------------------------------------------------------------------


def write_cifar100_binary(folder: Path, images: Images) -> Path:
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, split in (("train.bin", images.train), ("test.bin", images.test)):
        pairs = zip(split.images, split.labels.tolist(), strict=True)
        (folder / name).write_bytes(b"".join(bytes([label // 5, label]) + image_bytes(image) for image, label in pairs))
    return folder


def write_cifar10_binary(folder: Path, images: Images) -> Path:
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    parts = {f"data_batch_{number}.bin": part for number, part in enumerate(five(images.train), start=1)}
    for name, (pixels, labels) in {**parts, "test_batch.bin": (images.test.images, images.test.labels)}.items():
        pairs = zip(pixels, labels.tolist(), strict=True)
        (folder / name).write_bytes(b"".join(bytes([label]) + image_bytes(image) for image, label in pairs))
    return folder


def image_bytes(image: Tensor) -> bytes:
    """All red bytes row by row, then the green, then the blue."""
    return image.numpy().tobytes()


def archive(folder: Path, *, dotted: bool = False) -> Path:
    """`folder` as a .tar.gz beside it; the folder is removed."""
    packed = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder, arcname=f"./{folder.name}" if dotted else folder.name)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return packed


# --- folders and Parquet -----------------------------------------------------------------------------------------


def png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()


def write_image_folder(folder: Path, images: Images, test: str = "test") -> Path:
    for name, split in (("train", images.train), (test, images.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            file = folder / name / images.names[label] / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return folder


def write_hugging_face(
    folder: Path, images: Images, image: str = "img", label: str = "fine_label", test: str = "test"
) -> Path:
    """Two parts of the training split and one of the other, with the names of the classes in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {label: {"names": list(images.names), "_type": "ClassLabel"}, image: {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    half = len(images.train) // 2
    parts = {
        "train-00000-of-00002": images.train.at(slice(0, half)),  # type: ignore[arg-type]
        "train-00001-of-00002": images.train.at(slice(half, None)),  # type: ignore[arg-type]
        f"{test}-00000-of-00001": images.test,
    }
    for name, split in parts.items():
        rows = {
            image: [{"bytes": png(pixels), "path": None} for pixels in split.images],
            label: split.labels.tolist(),
            "coarse_label": [0] * len(split),
        }
        table = pyarrow.table(rows).replace_schema_metadata(metadata)
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=300)
    return folder
