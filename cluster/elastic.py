"""Workers whose number follows what the cluster has, as Ray Train's elastic training, but for one thing.

Ray takes as many workers as there is room for; here only so many as every batch can be cut over. Ray has no public way
to say so, so this stands on two of its inner parts (2.60): a scaling policy's count of workers, and where a trainer
takes its policy from. Should a later Ray give a run a number that does not divide, its workers refuse it in a line.
"""

from collections.abc import Sequence
from typing import Any

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from typing_extensions import override

LOOK_EVERY_S = 60.0
"""Seconds between two looks whether the cluster has room for more workers."""


class ElasticTrainer(TorchTrainer):
    """A trainer that has as many workers as the largest of `sizes` says that there is room for.

    Args:
        sizes: ascending.
        gpu: whether each worker has one.
        others: what every trainer takes.
    """

    def __init__(self, sizes: Sequence[int], gpu: bool, **others: Any) -> None:
        between = (sizes[0], sizes[-1])
        scaling = ScalingConfig(num_workers=between, use_gpu=gpu, elastic_resize_monitor_interval_s=LOOK_EVERY_S)
        super().__init__(**others, scaling_config=scaling)
        self._sizes = tuple(sizes)

    @override
    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        policy = SizesPolicy(self.scaling_config, self._sizes)
        return super()._initialize_and_run_controller(**{**parts, "scaling_policy": policy})


class SizesPolicy(ElasticScalingPolicy):
    """Ray's own, but for the numbers between."""

    def __init__(self, scaling_config: ScalingConfig, sizes: tuple[int, ...]) -> None:
        super().__init__(scaling_config)
        self._sizes = sizes

    @override
    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= room), default=0)
