"""Classification of images: cross-entropy, top-1 and top-5."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt, field_validator
from torch import Tensor
from torch.nn import functional

from mergenet.config import InputError, Listed, Neutral, Options
from mergenet.data.images import Augmentation, Batch, Images
from mergenet.data.views import view


class Classification(Options):
    """Images into classes.

    Attributes:
        data: name of the data set.
        augmentation: random changes of training images.
        size: pixels of the square to which all images are shrunk.
        samples: how many training images there are to be, of each class the same share; the test split stays whole.
            Where `classes` are chosen, it counts images of those alone.
        classes: `[low, high]`, the classes low to high - 1 of the data set, numbered from 0 again: images of others are
            in neither split. All if left out.
        labels: whether training reads the labels. Where it does not, they serve for measuring alone.
        parts: where the learner's classes are cut into parts that are measured apart: `[50]` of a hundred cuts them
            into 0 to 49 and 50 to 99. They are numbered as the learner sees them.
    """

    selects: ClassVar[str] = "top1"  # the metric, higher is better, that chooses the best weights

    data: str
    augmentation: Augmentation = Augmentation()
    size: Annotated[PositiveInt | None, Neutral(None)] = None
    samples: Annotated[PositiveInt | None, Neutral(None)] = None
    classes: Annotated[Listed[NonNegativeInt] | None, Neutral(None)] = None
    labels: Annotated[bool, Neutral(True)] = True
    parts: Annotated[Listed[PositiveInt], Neutral(())] = ()

    @field_validator("classes")
    @classmethod
    def _at_least_two(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and (len(classes) != 2 or classes[1] - classes[0] < 2):
            raise ValueError(
                f"write it as [low, high], which are the classes low to high - 1, two at least; got {list(classes)}"
            )
        return classes

    @field_validator("parts")
    @classmethod
    def _in_order(cls, parts: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in pairwise(parts)):
            raise ValueError(f"each cut must be above the one before, got {list(parts)}")
        return parts

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the `metrics`: those of a part are numbered from 1."""
        of_parts = (f"{name}{number}" for number in self._numbers for name in ("part", "within"))
        return ("loss", "top1", "top5", *of_parts)

    def images(self, data: Mapping[str, Images]) -> Images:
        """What it sees of its data set, which is one of `data` (name -> loaded set); the same object for the same view.

        Raises:
            InputError: a size, a number of samples, classes or parts that the data set does not have, by their field.
        """
        whole = data[self.data]
        if self.size is None and self.samples is None and self.classes is None:
            seen = whole
        else:
            seen = view(whole, self.size, self.samples, self.classes)
        if self.parts and self.parts[-1] >= seen.classes:
            raise InputError(f"parts: {self.parts[-1]} leaves none of {seen.classes} classes for the last part")
        return seen

    def check_measured(self, split: str, labels: Tensor, classes: int) -> None:
        """Refuses a split of these labels (N,), of so many classes, where a part has no samples to be measured by.

        Raises:
            InputError: by the field `parts`.
        """
        for number, low, high in self._parts(classes):
            if not _are_in(labels, low, high).any():
                raise InputError(f"parts: part {number}, classes {low} to {high - 1}, has no {split} samples")

    def sees(self) -> dict[str, Any]:
        """What decides which images it sees, and how: tasks that agree in it may share batches."""
        return {field: value for field, value in self.dump().items() if field not in ("labels", "parts")}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of logits (B, classes) of any precision: a scalar in fp32."""
        return functional.cross_entropy(outputs.float(), batch.labels)

    def sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What a batch adds to each metric, as float64 sums over its samples.

        Sums of parts add up to the sums of the whole, however the samples were cut over ranks. The keys are the same
        for every batch, whatever classes are in it.
        """
        outputs = outputs.float()
        loss = functional.cross_entropy(outputs, batch.labels, reduction="sum")
        best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
        hits = best == batch.labels.unsqueeze(1)
        sums = {
            "loss": loss.double(),
            "top1": hits[:, :1].sum().double(),
            "top5": hits.sum().double(),
            "count": torch.full_like(loss, len(batch.labels), dtype=torch.float64),
        }
        for number, low, high in self._parts(outputs.shape[1]):
            members = _are_in(batch.labels, low, high)
            chosen = low + outputs[:, low:high].argmax(1)
            sums[f"part{number}"] = (hits[:, 0] & members).sum().double()
            sums[f"within{number}"] = (chosen == batch.labels).sum().double()  # which says that it is of the part
            sums[f"count{number}"] = members.sum().double()
        return sums

    def metrics(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """`loss` (nats a sample), `top1` and `top5` (percent) of summed `sums`.

        Of each of `parts`, of its own samples in percent: `part1` has the right class as the first of all classes, and
        so `top1` is the mean of the parts by their samples; `within1` as the first of the part's own classes, which is
        what one who knows these alone is asked. Both are 0 where there was no sample, and not NaN, which means that a
        learner diverged; `check_measured` keeps such splits away.
        """
        count = float(sums["count"])
        metrics = {
            "loss": float(sums["loss"]) / count,
            "top1": 100.0 * float(sums["top1"]) / count,
            "top5": 100.0 * float(sums["top5"]) / count,
        }
        for number in self._numbers:
            members = max(float(sums[f"count{number}"]), 1.0)
            for name in (f"part{number}", f"within{number}"):
                metrics[name] = 100.0 * float(sums[name]) / members
        return metrics

    @property
    def _numbers(self) -> range:
        """Of the parts; none where nothing is cut."""
        return range(1, len(self.parts) + 2 if self.parts else 1)

    def _parts(self, classes: int) -> Iterable[tuple[int, int, int]]:
        """Number, first class and end of each part of so many classes."""
        ends = (0, *self.parts, classes)
        return ((number, ends[number - 1], ends[number]) for number in self._numbers)


def _are_in(labels: Tensor, low: int, high: int) -> Tensor:
    return (low <= labels) & (labels < high)
