"""Measuring a learner on a split: every sample once, never padded, cut over the ranks, in the learner's precision."""

import torch

from mergenet.data.images import Batch, Split
from mergenet.training import ranks
from mergenet.training.learner import Learner
from mergenet.training.sums import Sums

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
            part = Split(images[start : start + BATCH], labels[start : start + BATCH]).to(learner.stream.device)
            batch = Batch(learner.stream.data.normalise(part.images), part.labels)
            with learner.autocast():
                outputs = learner.model(batch.images)
            sums.add(learner.task.sums(outputs, batch))
        metrics = learner.task.metrics(sums.settle())
    learner.module.features.forget()
    learner.model.train()
    return metrics
