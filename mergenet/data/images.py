"""Labelled images in memory, the validation split, and a stream of keyed batches."""

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional

from mergenet import randomness
from mergenet.config import Options

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) as uint8 and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> "Split":
        """The samples at `indices`."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Split":
        """The same on `device`."""
        return Split(self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True))

    def near(self, device: torch.device) -> "Split":
        """The same on `device` where it fits into half of what is free there; else where copies to it are quick."""
        if device.type != "cuda":
            return self.to(device)
        free, _ = torch.cuda.mem_get_info(device)
        if self.images.nbytes <= free // 2:
            return self.to(device)
        return Split(self.images.pin_memory(), self.labels.pin_memory())


@dataclass(frozen=True, eq=False)
class Images:
    """A data set: its splits and classes, and the channel means and deviations (of 255) it is normalised by.

    Its pixels and labels are never changed in place.

    Attributes:
        names: of the classes, where they are known.
        origin: digest of the data set that this is a view of, which is then its own.
    """

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    names: tuple[str, ...] = ()
    origin: str | None = None

    def digest(self) -> str:
        """SHA-256 of pixels and labels in their order: the same data from other files has the same digest."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if self.origin is not None:
            return self.origin
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            for part in (split.images, split.labels):
                sha.update(repr(tuple(part.shape)).encode())
                sha.update(part.contiguous().numpy().data)
        return sha.hexdigest()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) as normalised float32."""
        mean, deviation = (_of_channels(values, images.device) for values in (self.mean, self.deviation))
        return (images.to(torch.float32) / 255.0 - mean) / deviation


@cache
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`values` as (C, 1, 1); made once, because what is copied to a GPU waits for all that it was given to do."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, device=device).view(-1, 1, 1)


def held_out_size(total: int, share: float) -> int:
    """How many of `total` samples a `share` of them is."""
    return round(share * total)


def hold_out(split: Split, share: float, digest: str) -> tuple[Split, Split]:
    """`split` without a random `share` of it, and that share; which samples depends on the data's digest alone."""
    order = torch.randperm(len(split), generator=randomness.generator("validation split", digest))
    held = held_out_size(len(split), share)
    return split.at(order[held:].sort().values), split.at(order[:held].sort().values)


class Augmentation(Options):
    """Random changes of a training image, drawn anew each epoch.

    Attributes:
        crop: pixels of zero padding around the image before a crop of its own size.
        flip: left-right with probability one half.
        rotation: degrees, uniform in [-rotation, rotation], nearest pixel.
    """

    crop: NonNegativeInt = 0
    flip: bool = False
    rotation: NonNegativeFloat = Field(default=0.0, le=180.0)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) changed by `draws` (B, 4) from [0, 1): crop's row and column, flip, angle."""
        if self.crop:
            images = _crop(images, self.crop, draws[:, 0], draws[:, 1])
        if self.flip:
            images = torch.where((draws[:, 2] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        if self.rotation:
            images = _rotate(images, (2.0 * draws[:, 3] - 1.0) * self.rotation)
        return images


def _crop(images: Tensor, padding: int, row_draws: Tensor, column_draws: Tensor) -> Tensor:
    """Each image (B, C, H, W) shifted by up to `padding` pixels each way, zeros where it leaves."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    offsets = 2 * padding + 1
    rows = (row_draws * offsets).long().view(-1, 1) + torch.arange(height, device=images.device)
    columns = (column_draws * offsets).long().view(-1, 1) + torch.arange(width, device=images.device)
    batch = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[batch, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image (B, C, H, W) turned about its centre by its own angle, nearest pixel, zeros outside."""
    _, _, height, width = images.shape
    angle = torch.deg2rad(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid works in coordinates from -1 to 1, so the off-diagonal carries the aspect ratio.
    turn = torch.stack(
        [
            torch.stack([cosine, -sine * height / width, zero], dim=1),
            torch.stack([sine * width / height, cosine, zero], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(turn, list(images.shape), align_corners=False)
    turned = functional.grid_sample(images.to(torch.float32), grid, mode="nearest", align_corners=False)
    return turned.to(torch.uint8)


@dataclass(frozen=True)
class Batch:
    """Normalised images (B, C, H, W) as float32 and labels (B,)."""

    images: Tensor
    labels: Tensor

    def split(self, parts: int) -> list["Batch"]:
        """`parts` equal batches in their order."""
        size = len(self.labels) // parts
        pairs = zip(self.images.split(size), self.labels.split(size), strict=True)
        return [Batch(images, labels) for images, labels in pairs]


class Stream:
    """Batches of a split, step after step for ever; a step's batch depends on its key alone.

    The global batch of a step is cut into equal contiguous parts over the ranks, so every world size
    sees the same samples. A short last batch of an epoch is dropped.

    Args:
        data: what it comes from, for its normalisation.
        split: the training samples, wherever they lie.
        digest: the data's; with `seed` it keys order and augmentation.
        batch_size: samples a step over all ranks, divisible by `world`.
        device: where batches are wanted; augmentation runs there.
    """

    def __init__(
        self,
        data: Images,
        split: Split,
        digest: str,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device = CPU,
    ) -> None:
        self.data = data
        self.split = split
        self.device = device
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.key = (seed, digest)
        self.share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self.steps_per_epoch = len(split) // batch_size
        self._epoch: tuple[int, Tensor, Tensor] | None = None
        self._drawn: dict[int, Split] = {}

    def batch(self, step: int) -> Batch:
        """This rank's part of the batch of `step`.

        Its images are kept until a later step is asked for, as learners share them; each gets numbers of its own, for
        a model may change them in place.
        """
        self.prepare(step)
        return self._batch(self._drawn[step])

    def prepare(self, step: int) -> None:
        """Draws the images of `step`, where they are not drawn, and keeps them beside those of the step before."""
        if step not in self._drawn:
            before = {kept: samples for kept, samples in self._drawn.items() if kept == step - 1}
            self._drawn = {**before, step: self._draw(step, self.share)}

    def first_global_batch(self) -> dict[str, Tensor]:
        """Images and labels of step 0 over all ranks: what runs that are to be compared must share."""
        batch = self._batch(self._draw(0, slice(0, self.batch_size)))
        return {"images": batch.images, "labels": batch.labels}

    def _batch(self, samples: Split) -> Batch:
        return Batch(self.data.normalise(samples.images), samples.labels)

    def _draw(self, step: int, share: slice) -> Split:
        """The augmented images of a step, and their labels."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, draws = self._of_epoch(epoch)
        indices = order[position * self.batch_size :][share]
        samples = self.split.at(indices).to(self.device)
        images = self.augmentation.apply(samples.images, draws[indices].to(self.device))
        return Split(images, samples.labels)

    def _of_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of an epoch (N,) and each sample's draws (N, 4), where the samples lie."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = torch.randperm(len(self.split), generator=randomness.generator("order", *self.key, epoch))
            draws = torch.rand(len(self.split), 4, generator=randomness.generator("augmentation", *self.key, epoch))
            near = self.split.labels.device
            self._epoch = (epoch, order.to(near), draws.to(near))
        return self._epoch[1], self._epoch[2]
