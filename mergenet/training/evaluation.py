"""Measuring a learner on a split: every sample once, never padded, cut over the ranks."""

import torch

from mergenet.data.images import Batch, Split
from mergenet.training import ranks
from mergenet.training.learner import Learner, Sums

BATCH = 500


def evaluate(learner: Learner, split: Split) -> dict[str, float]:
    """The task's metrics over `split`; equal on all ranks, every rank must call it."""
    ranks.share_buffers(learner.model)
    learner.model.eval()
    mine = slice(ranks.rank(), None, ranks.world())
    images, labels = split.images[mine], split.labels[mine]
    sums = Sums()
    with torch.inference_mode():
        for start in range(0, max(len(labels), 1), BATCH):
            part = slice(start, start + BATCH)
            batch = Batch(learner.stream.data.normalise(images[part]), labels[part])
            sums.add(learner.options.task.sums(learner.model(batch.images), batch))
        return learner.options.task.metrics(sums.settle())
