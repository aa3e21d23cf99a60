"""The table of methods that tests of distillation run over: a new method is a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergenet.config import Options
from mergenet.method import amalgamate
from mergenet.method.criterion import Given, Outputs
from mergenet.method.distill import dkd, kd, mgd, nkd, rkd, tf_kd, uskd
from tests import official

CLASSES = 5
Shape = tuple[int, ...]
SEED = 11


@dataclass(frozen=True)
class Method:
    """A loss and its second writing.

    Attributes:
        options: what it is called with.
        student: shapes, without N, of what the student gives: its logits first.
        teacher: shapes of what teachers give, without N.
        loss: (module, student's, teachers', labels) to a scalar.
        second: the same of (weights, student's, teachers', labels) as arrays.
        build: its layers, where it trains some.
        differentiates: whether the loss's gradient is that of its value, and not of parts held still.
    """

    options: Options
    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    loss: Callable[[Any, list[Tensor], list[Tensor], Tensor], Tensor]
    second: Callable[[Any, list[Any], list[Any], Any], float]
    build: Callable[[], nn.Module] | None = None
    differentiates: bool = True

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module | None:
        """The layers, the same every time."""
        torch.manual_seed(SEED)
        return self.build().to(dtype) if self.build else None


@dataclass
class Batch:
    """What models give: leaves that ask for a gradient, the teacher's too."""

    student: list[Tensor]
    teacher: list[Tensor]
    labels: Tensor


def draw(method: Method, samples: int, dtype: torch.dtype = torch.float64, scale: float = 2.0, seed: int = 0) -> Batch:
    """Normal numbers of a size, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: Shape) -> Tensor:
        drawn = torch.randn((samples, *shape), generator=generator, dtype=torch.float64)
        return (scale * drawn).to(dtype).requires_grad_()

    student, teacher = [one(shape) for shape in method.student], [one(shape) for shape in method.teacher]
    return Batch(student, teacher, torch.randint(CLASSES, (samples,), generator=generator))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _mask(samples: int, channels: int) -> Any:
    drawn = torch.rand((samples, channels, 1, 1), generator=generator()).double().numpy()
    return (drawn >= 0.15) * 1.0


def _cfl(name: str, features: tuple[Shape, ...], entropy: bool, weight: float) -> Method:
    options = amalgamate.VARIANTS[name].model_copy(update={"width": 3} if name == "official" else {})

    def second(own: Any, s: list[Any], t: list[Any], _: Any) -> float:
        apart, error = official.cfl_parts(s[1], t[2:], own)
        return official.soft_targets(s[0], t[:2], entropy) + weight * (apart + error)

    channels = [shape[0] for shape in features]
    return Method(
        options,
        ((CLASSES,), features[0]),
        ((2,), (CLASSES - 2,), *features[1:]),
        lambda module, s, t, _: module(s[0], t[:2], s[1], t[2:]),
        second,
        lambda: options.build(channels[0], channels[1:]),
    )


def _soft(options: amalgamate.Soft, entropy: bool) -> Method:
    return Method(
        options,
        ((CLASSES,),),
        ((2,), (1,), (CLASSES - 3,)),
        lambda _, s, t, y: options.value(Given(Outputs(s[0]), [Outputs(logits) for logits in t], None, 1), None),
        lambda _, s, t, y: official.soft_targets(s[0], t, entropy),
    )


def _layerwise(own: Any, s: list[Any], t: list[Any], _: Any) -> float:
    apart, error = official.layerwise_parts(s[1], t[2:], own)
    return official.soft_targets(s[0], t[:2], False) + apart + error


LOGITS = (CLASSES,)

METHODS = {
    "kd": Method(
        kd.Kd(),
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: kd.loss(s[0], t[0], y),
        lambda _, s, t, y: official.kd(s[0], t[0], y, 4.0, 0.1, 0.9, False),
    ),
    "kd_teacher_free": Method(
        kd.VARIANTS["teacher_free"],
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: kd.loss(s[0], t[0], y, kd.VARIANTS["teacher_free"]),
        lambda _, s, t, y: official.kd(s[0], t[0], y, 20.0, 0.05, 0.95, True),
    ),
    "rkd": Method(
        rkd.Rkd(),
        (LOGITS, (3, 2, 2)),
        ((7,),),
        lambda _, s, t, y: rkd.loss(s[1], t[0], y, s[0]),
        lambda _, s, t, y: official.rkd(s[1], t[0], y, s[0], 25.0, 50.0),
    ),
    "rkd_mergenet": Method(
        rkd.VARIANTS["mergenet"],
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: rkd.loss(s[0], t[0], y, options=rkd.VARIANTS["mergenet"]),
        lambda _, s, t, y: official.rkd(s[0], t[0], y, s[0], 1.0, 2.0),
    ),
    "dkd": Method(
        dkd.Dkd(),
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: dkd.loss(s[0], t[0], y, epoch=5),
        lambda _, s, t, y: official.dkd(s[0], t[0], y, 4.0, 1.0, 8.0, 0.25)[0],
    ),
    "dkd_cls_kd": Method(
        dkd.VARIANTS["cls_kd"],
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: dkd.loss(s[0], t[0], y, epoch=1, options=dkd.VARIANTS["cls_kd"]),
        lambda _, s, t, y: official.dkd(s[0], t[0], y, 4.0, 1.0, 8.0, 1.0)[0],
    ),
    "nkd": Method(
        nkd.Nkd(),
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: nkd.loss(s[0], t[0], y),
        lambda _, s, t, y: official.nkd(s[0], t[0], y, 3.0, 3.5, 1.0),
    ),
    "nkd_imagenet": Method(
        nkd.VARIANTS["imagenet"],
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: nkd.loss(s[0], t[0], y, nkd.VARIANTS["imagenet"]),
        lambda _, s, t, y: official.nkd(s[0], t[0], y, 1.0, 1.5, 1.0),
    ),
    "nkd_mergenet": Method(
        nkd.VARIANTS["mergenet"],
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: nkd.loss(s[0], t[0], y, nkd.VARIANTS["mergenet"]),
        lambda _, s, t, y: official.nkd(s[0], t[0], y, 1.0, 1.5, 0.0),
    ),
    "tf_kd_self": Method(
        tf_kd.TfKdSelf(),
        (LOGITS,),
        (LOGITS,),
        lambda _, s, t, y: tf_kd.self_loss(s[0], t[0], y),
        lambda _, s, t, y: official.kd(s[0], t[0], y, 20.0, 0.05, 0.95, True),
    ),
    "tf_kd_reg": Method(
        tf_kd.TfKdReg(),
        (LOGITS,),
        (),
        lambda _, s, t, y: tf_kd.reg_loss(s[0], y),
        lambda _, s, t, y: official.tf_kd_reg(s[0], y, 40.0, 0.95),
    ),
    "uskd": Method(
        uskd.Uskd(),
        (LOGITS, (3, 2, 2)),
        (),
        lambda module, s, _, y: module(s[0], s[1], y),
        lambda own, s, _, y: official.uskd(s[0], s[1], y, own, True, (0.1, 0.1, 0.1)),
        lambda: uskd.Uskd().build(3, CLASSES),
        differentiates=False,
    ),
    "uskd_imagenet": Method(
        uskd.VARIANTS["imagenet"],
        (LOGITS, (3,)),
        (),
        lambda module, s, _, y: module(s[0], s[1], y),
        lambda own, s, _, y: official.uskd(s[0], s[1], y, own, True, (1.0, 0.1, 0.005)),
        lambda: uskd.VARIANTS["imagenet"].build(3, CLASSES),
        differentiates=False,
    ),
    "uskd_probabilities": Method(
        uskd.VARIANTS["probabilities"],
        (LOGITS, (3,)),
        (),
        lambda module, s, _, y: module(s[0], s[1], y),
        lambda own, s, _, y: official.uskd(s[0], s[1], y, own, False, (0.1, 0.1, 0.1)),
        lambda: uskd.VARIANTS["probabilities"].build(3, CLASSES),
        differentiates=False,
    ),
    "mgd": Method(
        mgd.Mgd(),
        (LOGITS, (3, 4, 3)),
        ((4, 4, 3),),
        lambda module, s, t, y: module(s[1], t[0], s[0], y, generator()),
        lambda own, s, t, y: official.mgd(s[1], t[0], s[0], y, _mask(len(y), 4), own, 1.2e-3),
        lambda: mgd.Mgd().build(3, 4),
    ),
    "mgd_imagenet": Method(
        mgd.VARIANTS["imagenet"],
        (LOGITS, (3, 4, 3)),
        ((3, 4, 3),),
        lambda module, s, t, y: module(s[1], t[0], s[0], y, generator()),
        lambda own, s, t, y: official.mgd(s[1], t[0], s[0], y, _mask(len(y), 3), own, 7e-5),
        lambda: mgd.VARIANTS["imagenet"].build(3, 3),
    ),
    "cfl": _cfl("official", ((4, 3, 2), (3, 3, 2), (5, 3, 2)), True, 10.0),
    "cfl_kamal": _cfl("kamal", ((12,), (6,), (5,)), False, 10.0),
    "cfl_kamal_four": _cfl("kamal_four", ((12,), (6,), (5,)), False, 20.0),
    "soft": _soft(amalgamate.Soft(), True),
    "soft_divergence": _soft(amalgamate.Soft(compared="divergence"), False),
    "layerwise": Method(
        amalgamate.Layerwise(),
        (LOGITS, (4, 3, 2)),
        ((2,), (CLASSES - 2,), (3, 3, 2), (5, 3, 2)),
        lambda module, s, t, _: module(s[0], t[:2], s[1], t[2:]),
        _layerwise,
        lambda: amalgamate.Layerwise().build(4, [3, 5]),
    ),
}
