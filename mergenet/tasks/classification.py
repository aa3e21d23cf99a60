"""Classification of images: cross-entropy, top-1 and top-5."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from mergenet.config import Neutral, Options
from mergenet.data.images import Augmentation, Batch, Images
from mergenet.data.views import view


class Classification(Options):
    """Images into classes.

    Attributes:
        data: name of the data set.
        augmentation: random changes of training images.
        size: pixels of the square to which all images are shrunk.
        samples: how many training images there are to be, of each class the same share; the test split stays whole.
        labels: false says that training reads none; they are only measured by.
    """

    measures: ClassVar[tuple[str, ...]] = ("loss", "top1", "top5")
    selects: ClassVar[str] = "top1"  # the metric, higher is better, that chooses the best weights

    data: str
    augmentation: Augmentation = Augmentation()
    size: Annotated[PositiveInt | None, Neutral(None)] = None
    samples: Annotated[PositiveInt | None, Neutral(None)] = None
    labels: Annotated[bool, Neutral(True)] = True

    def images(self, data: Mapping[str, Images]) -> Images:
        """What it sees of its data set, which is one of `data` (name -> loaded set); the same object for the same view.

        Raises:
            InputError: a size or a number of samples that the data set does not have, by its field.
        """
        whole = data[self.data]
        if self.size is None and self.samples is None:
            return whole
        return view(whole, self.size, self.samples)

    def sees(self) -> dict[str, Any]:
        """What decides which images it sees, and how: tasks that agree in it may share batches."""
        return {field: value for field, value in self.dump().items() if field not in ("labels", "parts")}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of logits (B, classes) of any precision: a scalar in fp32."""
        return functional.cross_entropy(outputs.float(), batch.labels)

    def sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What a batch adds to each metric, as float64 sums over its samples.

        Sums of parts add up to the sums of the whole, however the samples were cut over ranks.
        """
        outputs = outputs.float()
        loss = functional.cross_entropy(outputs, batch.labels, reduction="sum")
        best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
        hits = best == batch.labels.unsqueeze(1)
        return {
            "loss": loss.double(),
            "top1": hits[:, :1].sum().double(),
            "top5": hits.sum().double(),
            "count": torch.full_like(loss, len(batch.labels), dtype=torch.float64),
        }

    def metrics(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """`loss` (nats a sample), `top1` and `top5` (percent) of summed `sums`."""
        count = float(sums["count"])
        return {
            "loss": float(sums["loss"]) / count,
            "top1": 100.0 * float(sums["top1"]) / count,
            "top5": 100.0 * float(sums["top5"]) / count,
        }
