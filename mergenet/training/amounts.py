"""What a run does, counted before it runs: ticks by what happens on them, samples measured, checkpoints.

The schedule is the one that `loop` and `run` follow; a test counts a real run beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mergenet.data.images import Images, held_out_size
from mergenet.experiment import Evaluation, Experiment
from mergenet.method.options import TransferOptions
from mergenet.training.plan import Plan
from mergenet.wiring import split_end


class Happening(NamedTuple):
    """What happens on a tick: the learners that step, the transfers that write, and those that learn."""

    steps: tuple[str, ...]
    writes: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()

    @property
    def transfers(self) -> tuple[str, ...]:
        """The transfers that do anything, each once."""
        return tuple(dict.fromkeys((*self.writes, *self.learns)))

    def distance(self, other: "Happening") -> tuple[bool, int, int, int]:
        """How unlike another tick, first by what costs most; all zero where the same happens.

        Names come last, so that ticks of another run can be compared too.
        """
        names = sum(len(set(ours) ^ set(theirs)) for ours, theirs in zip(self, other, strict=True))
        return (
            bool(self.transfers) != bool(other.transfers),
            abs(len(self.steps) - len(other.steps)),
            abs(len(self.transfers) - len(other.transfers)),
            names,
        )


@dataclass(frozen=True)
class Amounts:
    """What a whole run does.

    Attributes:
        ticks: what happens -> on how many ticks.
        samples: learner -> samples it is measured on, over all validations and the test.
        checkpoints: how often one is written.
        figures: lines of metrics in the record, at most.
    """

    ticks: Mapping[Happening, int]
    samples: Mapping[str, int]
    checkpoints: int
    figures: int

    def steps(self) -> int:
        """Ticks in all."""
        return sum(self.ticks.values())


def amounts_of(experiment: Experiment, plan: Plan, data: Mapping[str, Images]) -> Amounts:
    """What the run of a plan does.

    Args:
        data: name of a data set -> it.
    """
    evaluation, epochs = experiment.evaluation, experiment.learners[experiment.clock].training.epochs
    validations = -(-epochs // evaluation.every)
    samples = {
        name: _measured_samples(evaluation, validations, one.trained_task.images(data))
        for name, one in experiment.trained().items()
    }
    measures = sum(1 + 2 * len(one.trained_task.measures) for one in experiment.trained().values())
    return Amounts(
        ticks={kind: len(ticks) for kind, ticks in happenings(experiment, plan).items()},
        samples=samples,
        checkpoints=-(-plan.ticks // experiment.checkpoint.every),
        figures=validations * (measures + 2 * len(experiment.enabled_transfers())),
    )


def _measured_samples(evaluation: Evaluation, validations: int, images: Images) -> int:
    """Validations, one more of the weights that are kept, and the test as often as it is read."""
    held, test = held_out_size(len(images.train), evaluation.validation), len(images.test)
    tests = {"never": 0, "end": 1, "always": validations}[evaluation.test]
    return (validations + 1) * held + tests * test


def happenings(experiment: Experiment, plan: Plan) -> dict[Happening, list[int]]:
    """What happens -> the ticks on which it does, in their order; the most frequent first."""
    every = {name: one.training.every for name, one in experiment.trained().items()}
    calendars = calendars_of(experiment, plan)
    found: dict[Happening, list[int]] = {}
    for tick in range(plan.ticks):
        happening = Happening(
            tuple(name for name, pace in every.items() if tick % pace == 0),
            tuple(name for name, calendar in calendars.items() if tick in calendar.writes),
            tuple(name for name, calendar in calendars.items() if tick in calendar.learns),
        )
        found.setdefault(happening, []).append(tick)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


class Calendar(NamedTuple):
    """When a transfer works: writing tick -> the tick on which it learns from it, and the other way round."""

    writes: dict[int, int]
    learns: dict[int, int]


def calendars_of(experiment: Experiment, plan: Plan) -> dict[str, Calendar]:
    """Transfer that takes place -> when it works."""
    return {
        name: _calendar(one, plan.learners[target].steps, experiment.learners[target].training.every)
        for name, one in experiment.enabled_transfers().items()
        for target in [split_end(one.target)[0]]
    }


def _calendar(options: TransferOptions, steps: int, every: int) -> Calendar:
    """Of a transfer into a learner that takes so many steps, one on every `every`th tick."""
    span = options.cycle - 1 if options.span == "cycle" else 0
    due = (step for step in range(steps) if options.is_due(step, steps))
    writes = {step * every: min(step + span, steps - 1) * every for step in due}
    return Calendar(writes, {learns: tick for tick, learns in writes.items()})
