"""Images between the bytes of a file and tensors: in whatever Pillow reads, out as PNG."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergenet.config import InputError

Size = tuple[int, int, int]
"""Channels, height, width."""

Encoded = tuple[str, Any]
"""Where an image stands, for errors, and its bytes or its file."""


@dataclass(frozen=True)
class Fit:
    """What size the images of a data set have.

    Attributes:
        size: the one that all must have; None for that of the first.
        square: pixels of the square to which each is brought: its shorter side resized, its middle cut out.
        advice: what an error line adds for an image of another size.
    """

    size: Size | None = None
    square: int | None = None
    advice: str = ""


def decode_all(encoded: Iterable[Encoded], count: int, fit: Fit) -> Tensor:
    """The `count` images of `encoded` as uint8 (count, 3, H, W).

    One after the other: Pillow holds Python's lock for most of the time that a small PNG takes, and threads
    make it slower.

    Raises:
        InputError: the first that is none, or is of another size.
    """
    images: NDArray[np.uint8] | None = None
    for row, (where, content) in enumerate(encoded):
        image = _decode(where, content, fit.square)
        if images is None:
            images = np.empty((count, *(fit.size or image.shape)), dtype=np.uint8)
        if image.shape != images.shape[1:]:
            raise InputError(f"{where}: an image of {image.shape}, not {images.shape[1:]}{fit.advice}")
        images[row] = image
    assert images is not None and row + 1 == count
    return torch.from_numpy(images)


def _decode(where: str, content: bytes | Path, square: int | None) -> NDArray[np.uint8]:
    """One image as RGB (3, H, W)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as opened:
            if opened.mode[0] in "IF":  # Pillow would turn all but the darkest 256 greys to white
                raise ValueError("it has more than 8 bits a channel; save it with 8")
            image = opened if opened.mode == "RGB" else opened.convert("RGB")
            if square is not None:
                image = ImageOps.fit(image, (square, square), Image.Resampling.BILINEAR)
            return np.asarray(image).transpose(2, 0, 1)
    except UnidentifiedImageError:  # which names an object and its address
        raise InputError(f"{where}: not an image that can be read (cut short?): of no known kind") from None
    except Exception as error:  # broken bytes lead Pillow's readers to raise whatever Python does
        raise InputError(f"{where}: not an image that can be read (cut short?): {error}") from None


def image_size(images: Tensor) -> Size:
    """Channels, height and width of images (N, C, H, W)."""
    channels, height, width = images.shape[1:]
    return channels, height, width


def encode(image: Tensor) -> bytes:
    """uint8 (3, H, W) as a PNG, from which the same pixels can be read."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()
