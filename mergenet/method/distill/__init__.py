"""Distillation as plain losses on plain tensors, each exact to its official code; one file a method.

    from mergenet.method.distill import dkd

    dkd.loss(logits, teacher_logits, labels, epoch=1)

Each file has its options with the official defaults for CIFAR-100, the terms of its loss, and `VARIANTS`, other
published settings by name. `shared` is weight sharing: no loss, but the weight of a layer.
"""

from typing import Annotated

from mergenet.config import Choice
from mergenet.method.distill import dkd, kd, mgd, nkd, rkd, shared, tf_kd, uskd
from mergenet.method.distill.dkd import Dkd
from mergenet.method.distill.kd import Kd
from mergenet.method.distill.mgd import Mgd
from mergenet.method.distill.nkd import Nkd
from mergenet.method.distill.rkd import Rkd
from mergenet.method.distill.tf_kd import TfKdReg, TfKdSelf
from mergenet.method.distill.uskd import Uskd

__all__ = ["Distill", "dkd", "kd", "mgd", "nkd", "rkd", "shared", "tf_kd", "uskd"]

Distill = Annotated[
    Kd | Rkd | Dkd | Nkd | TfKdSelf | TfKdReg | Uskd | Mgd,
    Choice(
        named={
            "kd": kd.VARIANTS,
            "rkd": rkd.VARIANTS,
            "dkd": dkd.VARIANTS,
            "nkd": nkd.VARIANTS,
            "tf_kd_self": tf_kd.SELF_VARIANTS,
            "uskd": uskd.VARIANTS,
            "mgd": mgd.VARIANTS,
        },
        kd=Kd,
        rkd=Rkd,
        dkd=Dkd,
        nkd=Nkd,
        tf_kd_self=TfKdSelf,
        tf_kd_reg=TfKdReg,
        uskd=Uskd,
        mgd=Mgd,
    ),
]
