"""What the driver of a sweep is asked for, and at how many trials at once it can do no more.

One process decides on everything: it draws trials, starts them, takes every epoch's figure, reads the news of ticks.
Its load is the processor seconds that a second of the sweep asks of it; at 1 it is the bottleneck. MLflow is written
by a thread that is not waited for: above a load of 1 it lags behind, and the sweep ends later by what it lags.
"""

from dataclasses import dataclass

NEWS_PER_S = 2.0
"""Messages a second of one trial, at most (`cluster.side_by_side.NEWS_EVERY_S`)."""


@dataclass(frozen=True)
class Driver:
    """Seconds of the driver's processor.

    Attributes:
        trial_s: to draw a trial at random, check, note, start and end it.
        report_s: an epoch's figure.
        message_s: a trial's news of its ticks.
        ask_s: TPE's draw beyond a random one, before it has learned of any trial.
        ask_growth_s: by how much each trial that it knows makes a draw longer.
        mirror_trial_s: of MLflow's thread, a trial.
        mirror_metric_s: of MLflow's thread, a point of a curve.
    """

    trial_s: float
    report_s: float
    message_s: float = 0.0
    ask_s: float = 0.0
    ask_growth_s: float = 0.0
    mirror_trial_s: float = 0.0
    mirror_metric_s: float = 0.0

    def start_s(self, known: int) -> float:
        """For one more trial when so many are known."""
        return self.trial_s + self.ask_s + self.ask_growth_s * known


@dataclass(frozen=True)
class Sweep:
    """What a sweep asks of its driver.

    Attributes:
        at_once: trials that run side by side.
        epochs, epoch_s: of a trial.
        metrics: points of curves that a trial leaves, over all its epochs.
    """

    at_once: int
    epochs: int
    epoch_s: float
    metrics: int = 0

    @property
    def trials_per_s(self) -> float:
        """That end, and begin."""
        return self.at_once / (self.epochs * self.epoch_s)

    @property
    def reports_per_s(self) -> float:
        """Epochs that end."""
        return self.at_once / self.epoch_s


def load(driver: Driver, sweep: Sweep, known: int = 0) -> float:
    """Seconds of the driver's processor that a second of the sweep asks for, when so many trials are known."""
    return (
        sweep.trials_per_s * driver.start_s(known)
        + sweep.reports_per_s * driver.report_s
        + sweep.at_once * NEWS_PER_S * driver.message_s
    )


def mirror_load(driver: Driver, sweep: Sweep) -> float:
    """Seconds of MLflow's thread that a second of the sweep asks for."""
    return sweep.trials_per_s * (driver.mirror_trial_s + sweep.metrics * driver.mirror_metric_s)


def most_at_once(driver: Driver, epochs: int, epoch_s: float, known: int = 0) -> int:
    """Trials side by side that a driver bears: its load is proportional to them."""
    return int(1 / load(driver, Sweep(1, epochs, epoch_s), known))


def shortest_epoch_s(driver: Driver, at_once: int, epochs: int, known: int = 0) -> float:
    """Seconds of an epoch below which the driver is the bottleneck; infinite where the news alone are too much."""
    left = 1 - at_once * NEWS_PER_S * driver.message_s
    return at_once * (driver.start_s(known) / epochs + driver.report_s) / left if left > 0 else float("inf")
