"""What joins learners besides transfers: a loss with teachers, and a weight that two layers share."""

from typing import Annotated, Literal

from pydantic import Field

from mergenet.config import Listed, Options
from mergenet.method.amalgamate import Amalgamation, Cfl
from mergenet.method.distill import Distill
from mergenet.method.distill.kd import Kd
from mergenet.method.options import TransferOptions


class DistillOptions(Options):
    """A student that learns by a loss of distillation, in place of its task's own.

    Attributes:
        teacher: `learner`, or `learner.layer` whose features are compared where it is not the loss's own choice; none
            for a loss that has no teacher. A frozen one sees the student's batches; one that trains gives what it gave
            in its own step of the same tick.
        student: `learner`, or `learner.layer`.
        loss: of the student, cross-entropy included.
        enabled: false trains the student by its task, everything else equal.
    """

    teacher: str | None = Field(default=None, alias="from")
    student: str = Field(alias="to")
    loss: Distill = Kd()
    enabled: bool = True

    def changes(self) -> list[str]:
        """The ends whose learners it has an influence on."""
        return [self.student]

    def reads(self) -> list[str]:
        """The ends whose learners it takes something from."""
        return list(self.teachers)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The end of each teacher."""
        return () if self.teacher is None else (self.teacher,)


class AmalgamateOptions(Options):
    """A student that learns all the classes that several frozen teachers know, from images without labels.

    Attributes:
        teachers: `learner` or `learner.layer`, in the order in which their classes make those of the student.
        student: `learner` or `learner.layer`; its task has `labels: false`.
        loss: of the student.
        enabled: false for an arm in which the student learns otherwise.
    """

    teachers: Annotated[Listed[str], Field(min_length=2)] = Field(alias="from")
    student: str = Field(alias="to")
    loss: Amalgamation = Cfl()
    enabled: bool = True

    def changes(self) -> list[str]:
        """The ends whose learners it has an influence on."""
        return [self.student]

    def reads(self) -> list[str]:
        """The ends whose learners it takes something from."""
        return list(self.teachers)


Lesson = DistillOptions | AmalgamateOptions
"""What a student learns by in place of its task's own loss."""


def layer_of(lesson: Lesson, end: str) -> str | None:
    """The layer of an end whose features are compared: the one it names, or the loss's own choice."""
    return end.partition(".")[2] or lesson.loss.layer


Order = Literal["stands", "start", "epoch"]


class ShareOptions(Options):
    """A layer whose weight is a slice of a larger layer's, trained by both at once (NetAug, Cai et al. 2022).

    The two learners take one optimizer step together: the gradients of both reach the larger weight, which is the
    larger learner's own. Biases and norms stay each layer's own.

    Attributes:
        large: `learner.port` of the weight that is held.
        small: `learner.port` of the layer that has a slice of it: no more outputs and inputs, and the same kernel.
        order: of the large weight's channels, from which the slice takes the first: as it `stands`, or the one of the
            largest L1 norm first, as found at the `start` or anew each `epoch`. NetAug sorts each epoch, and all layers
            of a block along; here the layers around the small one stay as they are, so that a new order scrambles
            what they have learned.
        enabled: false trains both layers on their own.
    """

    large: str = Field(alias="from")
    small: str = Field(alias="to")
    order: Order = "start"
    enabled: bool = True

    def changes(self) -> list[str]:
        """The ends whose learners it has an influence on: each on the other."""
        return [self.large, self.small]

    def reads(self) -> list[str]:
        """The ends whose learners it takes something from."""
        return [self.large, self.small]


Edge = TransferOptions | DistillOptions | AmalgamateOptions | ShareOptions
"""Whatever joins learners."""
