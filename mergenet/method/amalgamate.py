"""Knowledge amalgamation: by common feature learning (Luo et al. 2019), layer-wise (Shen et al. 2019), by logits alone.

Teachers of different architecture, each of its own classes, and a student of all of them, on images without labels.

Shape legend: N samples, D channels or dimensions of features, K dimensions of the common space, C classes. Features are
maps (N, D, H, W), H x W the same for all, or vectors (N, D).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import Choice, InputError
from mergenet.method import layerwise
from mergenet.method.common_features import CommonFeatures, Form, channels_of
from mergenet.method.criterion import Criterion, Given, Outputs
from mergenet.method.distill.common import check_logits, divergence, in_full_precision, resized, shape_of

SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)  # of the kernels, in both codes
SQUARES = 1e-12  # the least squared distance, in both codes
Compared = Literal["cross_entropy", "divergence"]


class _OfFeatures(Criterion):
    """A loss of logits and features, all of it within its layers.

    Attributes:
        resize: `bilinear` brings teachers' maps to the height and width of the student's; `none` refuses others, as
            the official codes do.
    """

    labelled: ClassVar[bool] = False

    resize: Literal["none", "bilinear"] = "none"

    @property
    def form(self) -> Form:
        """Of the features: maps (N, D, H, W) or vectors (N, D)."""
        return "maps"

    @property
    def layer(self) -> str:
        """`last`, the last map before pooling; `pooled`, the vectors that the classifier is given."""
        return "last" if self.form == "maps" else "pooled"

    def build(self, student: int, teachers: Sequence[int]) -> nn.Module:
        """The loss with its layers, for features of so many channels, `teachers` one number each."""
        raise NotImplementedError

    def layers_for(self, student: Outputs, teachers: Sequence[Outputs]) -> nn.Module:
        """What `build` makes for the channels of these features, in the default precision and on the default device.

        Raises:
            InputError: features of another form, or no teachers.
        """
        own, *others = channels_of([student.maps, *(teacher.maps for teacher in teachers)], self.form)
        return self.build(own, others)

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """What `layers` make of all logits and features; neither labels nor epoch are read.

        Raises:
            InputError: shapes that do not agree.
        """
        assert layers is not None, "the loss is what its layers give"
        logits, features = [teacher.logits for teacher in given.teachers], [teacher.maps for teacher in given.teachers]
        return layers(given.student.logits, logits, given.student.maps, features)


class Cfl(_OfFeatures):
    """Common feature learning; defaults of VainF/CommonFeatureLearning (`amal.py`, `models/cfl.py`, `loss/loss.py`).

    Attributes:
        compared: with the teachers' soft targets: `cross_entropy`, or `divergence`, which is less by a constant.
        temperature: of the soft targets.
        soft_targets: weight of the soft targets.
        alignment: weight of the discrepancy between student and teachers in the common space.
        reconstruction: weight of the error of the teachers' features as decoded from it.
        features: `maps` of a convolution, or `vectors`, for which KamalEngine has a block of its own.
        width: K, the size of the common space; `quarter`: of the student's features.
    """

    compared: Compared = "cross_entropy"
    temperature: PositiveFloat = 1.0
    soft_targets: NonNegativeFloat = 1.0
    alignment: NonNegativeFloat = 10.0
    reconstruction: NonNegativeFloat = 10.0
    features: Form = "maps"
    width: PositiveInt | Literal["quarter"] = 128

    def build(self, student: int, teachers: Sequence[int]) -> "CflLoss":
        """The loss with its layers, for features of so many channels, `teachers` one number each."""
        return CflLoss(student, teachers, self)

    @property
    def form(self) -> Form:
        """`features`."""
        return self.features


class Soft(Criterion):
    """Soft targets over the concatenated logits of all teachers and nothing else: what amalgamation is compared with.

    Defaults of VainF/CommonFeatureLearning (`kd.py`, `loss/loss.py`). KamalEngine, where the other losses' weights are
    zero (`examples/knowledge_amalgamation/comprehensive_classification_simple_kd.py`): `divergence`.

    Attributes:
        compared: with the teachers' soft targets: `cross_entropy`, or `divergence`, which is less by a constant.
        temperature: of the soft targets.
    """

    labelled: ClassVar[bool] = False

    compared: Compared = "cross_entropy"
    temperature: PositiveFloat = 1.0

    def value(self, given: Given, layers: nn.Module | None) -> Tensor:
        """`soft_targets` of the logits; nothing else is read.

        Raises:
            InputError: logits that are not (N, C) and (N, C_i), the C_i adding up to C.
        """
        logits = [teacher.logits for teacher in given.teachers]
        return soft_targets(given.student.logits, logits, self.temperature, self.compared)


class Layerwise(_OfFeatures):
    """Layer-wise amalgamation, as KamalEngine has it, at the last feature map.

    Defaults of zju-vipa/KamalEngine, its class and its examples alike
    (`kamal/amalgamation/layerwise_amalgamation.py`,
    `examples/knowledge_amalgamation/comprehensive_classification_layerwise_amalgamation.py`).

    Attributes:
        compared: with the teachers' soft targets: `divergence`, or `cross_entropy`, which is more by a constant.
        temperature: of the soft targets.
        soft_targets: weight of the soft targets.
        alignment: weight of the error of the student's features to the teachers' encoding.
        reconstruction: weight of the error of the teachers' features as decoded from it.
    """

    compared: Compared = "divergence"
    temperature: PositiveFloat = 1.0
    soft_targets: NonNegativeFloat = 1.0
    alignment: NonNegativeFloat = 1.0
    reconstruction: NonNegativeFloat = 1.0

    def build(self, student: int, teachers: Sequence[int]) -> "LayerwiseLoss":
        """The loss with its layers, for feature maps of so many channels, `teachers` one number each."""
        return LayerwiseLoss(student, teachers, self)


VARIANTS: Mapping[str, Cfl] = {
    "official": Cfl(),
    # zju-vipa/KamalEngine, kamal/amalgamation/common_feature.py and its examples with two and with four teachers
    "kamal": Cfl(compared="divergence", features="vectors", width="quarter"),
    "kamal_four": Cfl(compared="divergence", features="vectors", width="quarter", alignment=20.0, reconstruction=20.0),
}


# --- terms -------------------------------------------------------------------------------------------------------


@in_full_precision
def soft_targets(
    student: Tensor, teachers: Sequence[Tensor], temperature: float = 1.0, compared: Compared = "cross_entropy"
) -> Tensor:
    """T^2 times the student's cross-entropy with one softmax over all teachers' logits, or its divergence: a scalar.

    Args:
        student: logits (N, C) of the union.
        teachers: logits (N, C_i), the C_i adding up to C, in the order of the union; no gradient flows into them.
        temperature: what all logits are divided by.
        compared: the two differ by the entropy of the targets.
    """
    check_logits(student)
    if not teachers or any(logits.ndim != 2 or len(logits) != len(student) for logits in teachers):
        shapes = ", ".join(map(shape_of, teachers)) or "none"
        raise InputError(f"teachers' logits are {shapes}; they must be ({len(student)}, classes) each")
    joint = torch.cat([logits.detach() for logits in teachers], dim=1)
    check_logits(student, joint)
    of_student = functional.log_softmax(student / temperature, dim=1)
    of_teachers = functional.log_softmax(joint / temperature, dim=1)
    if compared == "divergence":
        return temperature**2 * divergence(of_student, of_teachers).sum(1).mean()
    return -(temperature**2) * (of_teachers.exp() * of_student).sum(1).mean()


@in_full_precision
def mmd(one: Tensor, other: Tensor, sigmas: Sequence[float] = SIGMAS) -> Tensor:
    """Squared maximum mean discrepancy of two sets (N, ...), with a sum of Gaussian kernels: a scalar, 0 or above.

    Samples are flattened and brought to length one; the estimate is the biased one, self-distances count. Distances
    come from the matrix of products: another way's rounding, some 2e-7 in float32, shows under a sigma of 0.001.

    Args:
        one: (N, ...).
        other: the same shape; both sides are trained.
        sigmas: of the kernels exp(-d^2 / (2 sigma^2)).
    """
    if one.shape != other.shape or one.ndim < 2 or not one.numel():
        raise InputError(f"sets are {shape_of(one)} and {shape_of(other)}; they must agree, (batch, ...)")
    one, other = (functional.normalize(samples.flatten(1), dim=1) for samples in (one, other))
    within = _kernels(one, one, sigmas).sum() + _kernels(other, other, sigmas).sum()
    between = _kernels(one, other, sigmas).sum()
    return functional.relu(within / len(one) ** 2 - 2 * between / len(one) ** 2)


def _kernels(one: Tensor, other: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The sum of kernels (N, N) of each of one set with each of another."""
    # a set's own squares stand on the diagonal of its products, so that it lies at no distance from itself
    squares = [(samples @ samples.T).diagonal() for samples in (one, other)]
    apart = (squares[0].unsqueeze(1) + squares[1].unsqueeze(0) - 2 * one @ other.T).clamp(min=SQUARES)
    return torch.stack([torch.exp(-apart / (2 * sigma**2)) for sigma in sigmas]).sum(0)


@in_full_precision
def alignment(student: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """`mmd` of the student's common features (N, K, ...) to each teacher's, summed: a scalar."""
    if not teachers:
        raise InputError("teachers: there must be one or more")
    return torch.stack([mmd(student, teacher) for teacher in teachers]).sum()


@in_full_precision
def reconstruction(decoded: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """Mean squared error of each teacher's features (N, D_i, ...) as decoded, summed: a scalar.

    No gradient flows into the features.
    """
    shapes, wanted = ([tuple(one.shape) for one in several] for several in (decoded, teachers))
    if not wanted or shapes != wanted:
        raise InputError(f"decoded are {shapes}, the teachers' features {wanted}; they must agree")
    errors = [functional.mse_loss(one, other.detach()) for one, other in zip(decoded, teachers, strict=True)]
    return torch.stack(errors).sum()


# --- the whole ---------------------------------------------------------------------------------------------------


class CflLoss(nn.Module):
    """Soft targets, alignment and reconstruction, weighed, with the layers that train along.

    No gradient flows into what the teachers gave; their common features, which are learned, are trained by all three.
    """

    def __init__(self, student: int, teachers: Sequence[int], options: Cfl) -> None:
        super().__init__()
        self.options = options
        width = options.width if options.width != "quarter" else max(student // 4, 1)
        self.common = CommonFeatures(student, teachers, width, options.features)

    @in_full_precision
    def forward(
        self, student: Tensor, teachers: Sequence[Tensor], features: Tensor, teachers_features: Sequence[Tensor]
    ) -> Tensor:
        """A scalar.

        Args:
            student: logits (N, C) of the union of classes.
            teachers: logits (N, C_i), in the order of the union.
            features: the student's (N, D, H, W), or (N, D) with `features: vectors`.
            teachers_features: each teacher's (N, D_i, H, W), or (N, D_i).

        Raises:
            InputError: shapes that do not agree.
        """
        options = self.options
        soft = soft_targets(student, teachers, options.temperature, options.compared)
        teachers_features = _fitted(teachers_features, features, options)
        common = self.common(features, teachers_features)
        aligned = alignment(common.student, common.teachers)
        rebuilt = reconstruction(common.decoded, teachers_features)
        return options.soft_targets * soft + options.alignment * aligned + options.reconstruction * rebuilt


def _fitted(teachers: Sequence[Tensor], student: Tensor, options: _OfFeatures) -> list[Tensor]:
    """Teachers' features, without gradient, at the height and width of the student's where that is asked for."""
    wanted = options.resize == "bilinear"
    return [resized(maps.detach(), student) if wanted else maps.detach() for maps in teachers]


class LayerwiseLoss(nn.Module):
    """Soft targets, alignment and reconstruction, weighed, with the layers that train along.

    No gradient flows into what the teachers gave. Soft targets and alignment train the student, alignment the adapter,
    reconstruction alone the encoder and the decoder.
    """

    def __init__(self, student: int, teachers: Sequence[int], options: Layerwise) -> None:
        super().__init__()
        self.options = options
        self.block = layerwise.LayerwiseBlock(student, teachers)

    @in_full_precision
    def forward(
        self, student: Tensor, teachers: Sequence[Tensor], features: Tensor, teachers_features: Sequence[Tensor]
    ) -> Tensor:
        """A scalar.

        Args:
            student: logits (N, C) of the union of classes.
            teachers: logits (N, C_i), in the order of the union.
            features: the student's (N, D, H, W).
            teachers_features: each teacher's (N, D_i, H, W).

        Raises:
            InputError: shapes that do not agree.
        """
        options = self.options
        soft = soft_targets(student, teachers, options.temperature, options.compared)
        teachers_features = _fitted(teachers_features, features, options)
        made = self.block(features, teachers_features)
        aligned = layerwise.alignment(made.student, made.encoded)
        rebuilt = reconstruction(made.decoded, teachers_features)
        return options.soft_targets * soft + options.alignment * aligned + options.reconstruction * rebuilt


Amalgamation = Annotated[
    Cfl | Soft | Layerwise, Choice(named={"cfl": VARIANTS}, cfl=Cfl, soft=Soft, layerwise=Layerwise)
]
