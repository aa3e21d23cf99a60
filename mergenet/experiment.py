"""An experiment: a graph of learners, and of transfers and other edges between them, as typed data.

This is what is validated, hashed, run and recorded. A new option of a choice is one file and one row in
the union beside its family (`method.encoding.Encoding`, `tasks.Task`, ...).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mergenet.config import (
    InputError,
    Neutral,
    Options,
    merge,
    nearest,
    nest,
    parse,
    read_file,
    read_override,
)
from mergenet.method.edges import AmalgamateOptions, DistillOptions, Edge, Lesson, ShareOptions
from mergenet.method.options import TransferOptions
from mergenet.optimization import Optimizer, Schedule, Sgd, Steps
from mergenet.tasks import Task
from mergenet.wiring import check_wiring, split_end

RECIPES = Path(__file__).parent / "recipes"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""Of a learner, a transfer or another edge: a word that can stand in a path."""


FAMILIES = ("transfers", "distill", "amalgamate", "share")
"""Of edges between learners, as fields of an experiment."""


class Training(Options):
    """How a learner trains; given for the experiment it is the default of every learner.

    Attributes:
        epochs: of the clock learner; the others go on as long as it does.
        batch_size: global, over all workers.
        optimizer: defaults of the authors' CIFAR-100 script.
        schedule: of the learning rate over the learner's own steps.
        every: a learner other than the clock steps on ticks divisible by it.
        precision: `bf16` runs forward passes under autocast; weights, optimizer and adapters stay fp32.
        accumulation: parts that a worker cuts its share of a batch into, one forward and backward each,
            before the one optimizer step; saves memory.
        clip: the norm the gradient is clipped to, where it is to be.
        channels_last: memory layout of images and kernels; up to three times as fast on CPUs.
        compile: forward and loss of a training step through `torch.compile`.
    """

    epochs: PositiveInt = 200
    batch_size: PositiveInt = 128
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Steps()
    every: PositiveInt = 1
    precision: Annotated[Literal["fp32", "bf16"], Neutral("fp32")] = "fp32"
    accumulation: Annotated[PositiveInt, Neutral(1)] = 1
    clip: Annotated[PositiveFloat | None, Neutral(None)] = None
    channels_last: bool = True
    compile: Annotated[bool, Neutral(False)] = False


class Factorization(Options):
    """A layer trained as W = B A; `rank` columns of B and rows of A."""

    rank: PositiveInt


class LearnerOptions(Options):
    """A model with its task and how it trains.

    Attributes:
        model: name of a model.
        copy_number: written `copy`; tells two learners of one model apart, which otherwise start from equal weights.
        weights: a file, or torchvision's name of weights of this model, to start from.
        frozen: stays as it is: of what transfers read only those matrices are held, without a forward pass; a teacher
            is held whole, and sees its student's batches.
        factored: port -> how its layer is trained as two factors; what is exported is one weight again.
        task: what it is trained to do, on which data; a frozen learner needs none.
        training: overrides of the experiment's `training`.
    """

    model: str
    copy_number: NonNegativeInt = Field(default=0, alias="copy")
    weights: Annotated[str | None, Neutral(None)] = None
    frozen: Annotated[bool, Neutral(False)] = False
    factored: Annotated[dict[str, Factorization], Neutral({})] = Field(default={})
    task: Task | None = None
    training: Training = Training()

    @property
    def trained_task(self) -> Task:
        """The task of a learner that trains."""
        assert self.task is not None, "a frozen learner has no task"
        return self.task


class Evaluation(Options):
    """What is measured when.

    Attributes:
        validation: share of the training split held out for every choice.
        every: epochs of the clock learner between two validations.
        weights: which weights meet the test split, the `last` or the `best` of validation.
        test: when the test split is measured: once, at the `end`; `always`, at every validation too, which chooses
            nothing and is for yardsticks, that others publish as the best test epoch; or `never`, as in a sweep.
    """

    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    every: PositiveInt = 1
    weights: Literal["last", "best"] = "last"
    test: Annotated[Literal["end", "always", "never"], Neutral("end")] = "end"


class Checkpointing(Options):
    """Ticks between two checkpoints."""

    every: PositiveInt = 500


class Experiment(Options):
    """Learners and the transfers between them.

    Attributes:
        name: of the run's folder.
        training: default of every learner; it is resolved into them and not kept.
        learners: name -> learner.
        transfers: name -> transfer.
        distill: name -> a loss with a teacher.
        amalgamate: name -> a loss with several teachers of different classes.
        share: name -> a weight that two learners share.
        clock: the learner whose steps are the ticks; `target` where there is one of that name.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    training: Training = Field(default=Training(), exclude=True)
    learners: dict[Name, LearnerOptions]
    transfers: dict[Name, TransferOptions] = Field(default={})
    distill: Annotated[dict[Name, DistillOptions], Neutral({})] = Field(default={})
    amalgamate: Annotated[dict[Name, AmalgamateOptions], Neutral({})] = Field(default={})
    share: Annotated[dict[Name, ShareOptions], Neutral({})] = Field(default={})
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpointing = Checkpointing()
    clock: str = "target"

    @model_validator(mode="before")
    @classmethod
    def _resolve_training(cls, values: Any) -> Any:
        """Lays the own `training` of each learner that trains over the experiment's."""
        learners = values.get("learners") if isinstance(values, dict) else None
        if not isinstance(learners, dict):
            return values
        defaults = values.get("training", {})
        resolved = {
            name: {**learner, "training": merge(Training, defaults, learner.get("training", {}))}
            if isinstance(learner, dict) and learner.get("frozen") is not True
            else learner
            for name, learner in learners.items()
        }
        return {**values, "learners": resolved}

    @model_validator(mode="after")
    def _connects(self) -> Self:
        check_wiring(self)
        return self

    def trained(self) -> dict[str, LearnerOptions]:
        """The learners that train."""
        return {name: learner for name, learner in self.learners.items() if not learner.frozen}

    def with_weights(self, files: Mapping[str, str]) -> Self:
        """The same, but for the files that the learners in `files` start from."""
        learners = {
            name: learner.model_copy(update={"weights": files[name]}) if name in files else learner
            for name, learner in self.learners.items()
        }
        return self.model_copy(update={"learners": learners})

    def enabled_transfers(self) -> dict[str, TransferOptions]:
        """The transfers that take place."""
        return {name: transfer for name, transfer in self.transfers.items() if transfer.enabled}

    def enabled_shares(self) -> dict[str, ShareOptions]:
        """The weights that are shared."""
        return {name: share for name, share in self.share.items() if share.enabled}

    def edges(self) -> dict[str, Mapping[str, Edge]]:
        """Family -> name -> edge: all that joins learners."""
        return {family: getattr(self, family) for family in FAMILIES}

    def enabled_edges(self) -> dict[str, Edge]:
        """`family.name` -> edge, of those that take place."""
        edges = self.edges().items()
        return {f"{family}.{name}": edge for family, of in edges for name, edge in of.items() if edge.enabled}

    def lessons(self, enabled: bool = True) -> dict[str, Lesson]:
        """`distill.NAME` or `amalgamate.NAME` -> by what a student learns; those that are `enabled`, or all."""
        distill = {f"distill.{name}": lesson for name, lesson in self.distill.items()}
        amalgamate = {f"amalgamate.{name}": lesson for name, lesson in self.amalgamate.items()}
        lessons: dict[str, Lesson] = {**distill, **amalgamate}
        return {path: lesson for path, lesson in lessons.items() if lesson.enabled or not enabled}

    def lesson_of(self, learner: str) -> tuple[str, Lesson] | None:
        """By what a learner learns in place of its task's own loss, with its path; None where by that."""
        return next((one for one in self.lessons().items() if split_end(one[1].student)[0] == learner), None)


# --- from files --------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_experiment(
    what: str | Path | Mapping[str, Any], overrides: Iterable[str] | Mapping[str, Any] = ()
) -> Experiment:
    """An experiment, with overrides laid over it.

    Args:
        what: a recipe's name, the path of a YAML file, or the nested map that such a file holds.
        overrides: `path=value` with values in YAML, or a map from paths to values.

    Raises:
        InputError: no such recipe or file, or a value that does not fit, by its path.
    """
    values: Any = dict(what) if isinstance(what, Mapping) else recipe_values(str(what))
    if isinstance(overrides, Mapping):
        changes = {path: nest(path, value) for path, value in overrides.items()}
    else:
        changes = {text: read_override(text) for text in overrides}
    for override, change in changes.items():
        _refuse_misspelt(values, change, override)
        values = merge(Experiment, values, change)
    return parse(Experiment, values)


def recipe_values(name_or_path: str) -> dict[str, Any]:
    """The plain values of a recipe or of a YAML file.

    Raises:
        InputError: no such recipe or file.
    """
    return read_file(_file_of(name_or_path))


def _file_of(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    if name_or_path not in recipes():
        raise InputError(
            f"no recipe '{name_or_path}'; {nearest(name_or_path, recipes())} (a file is named by its path)"
        )
    return RECIPES / f"{name_or_path}.yaml"


def _refuse_misspelt(values: Any, change: Any, override: str) -> None:
    """A value within a learner or transfer that is not there would make a new one that lacks everything else."""
    for family in ("learners", *FAMILIES):
        there = values.get(family, {})
        named = change.get(family)
        if not isinstance(there, dict) or not isinstance(named, dict) or override.partition("=")[0].count(".") < 2:
            continue
        for name in named.keys() - there.keys():
            raise InputError(
                f"override '{override}': no {family.removesuffix('s')} '{name}'; {nearest(str(name), there)}"
            )
