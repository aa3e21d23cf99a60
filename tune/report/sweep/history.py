"""The plots over time: what trials came to, one after the other, and how they learned over epochs."""

from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tune.report.drawing import COLOURS, SOFT
from tune.report.sweep.axes import LOST, WORDS, dots, figures, legend, lost, valued
from tune.report.sweep.outcome import Outcome
from tune.search.ledger import Trial

HISTORY = (
    "Each trial by its number: full at its final validation figure; the line is the best of the finished so far. "
    "Grey: not finished, so in no line: hollow at its last figure, or a mark at the foot where it has none."
)
EPOCHS = (
    "Validation over epochs, each trial a line: blue finished, orange the best of those, grey not finished; "
    "its last figure is marked."
)


def draw(outcome: Outcome) -> Figure:
    """Each objective a panel, beneath each other."""
    count = len(outcome.objectives)
    figure = Figure(figsize=(8.0, 2.8 * count + 0.4), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for objective, axes in zip(outcome.objectives, panels, strict=True):
        _panel(axes, outcome, objective)
    panels[-1].set_xlabel("trial")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure)
    return figure


def _panel(axes: Axes, outcome: Outcome, objective: str) -> None:
    met = {state: valued(outcome, state, objective) for state in ("finished", "stopped")}
    figures(axes, outcome, objective, [value for found in met.values() for _, value in found])
    for state, found in met.items():
        dots(axes, [trial.number for trial, _ in found], [value for _, value in found], state)
    _running_best(axes, outcome, objective)
    for state in LOST:
        lost(axes, [trial.number for trial in outcome.trials if trial.state == state], state)


def _running_best(axes: Axes, outcome: Outcome, objective: str) -> None:
    final = outcome.final(objective)
    higher = outcome.log.sweep.objectives[objective] == "higher"
    best = list(accumulate(final.values(), max if higher else min))
    if len(best) > 1:
        axes.step(list(final), best, where="post", color=COLOURS[1], linewidth=1.4, label="best finished so far")


# --- over epochs -------------------------------------------------------------------------------------------------


def draw_epochs(outcome: Outcome) -> Figure:
    """All trials in one panel, the best on top."""
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(outcome.final(outcome.chief).items(), key=lambda pair: outcome.cost(pair[1], outcome.chief))
    best = ranked[0][0] if ranked else None
    for trial in sorted(outcome.trials, key=lambda trial: (trial.number == best, trial.state == "finished")):
        if trial.curve:
            _curve(axes, trial, trial.number == best)
    figures(axes, outcome, outcome.chief, ())
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure)
    return figure


def _curve(axes: Axes, trial: Trial, best: bool) -> None:
    epochs, values = zip(*trial.curve, strict=True)
    if trial.state == "finished":
        colour, label = (COLOURS[1], f"trial {trial.number}, the best") if best else (COLOURS[0], WORDS["finished"])
        width, alpha = (2.0, 1.0) if best else (0.9, 0.55)
        axes.plot(epochs, values, color=colour, linewidth=width, alpha=alpha, label=label)
    else:
        axes.plot(epochs, values, color=SOFT, linewidth=0.8, alpha=0.6)
    mark = {"finished": ".", "stopped": "o", **LOST}[trial.state]
    colour, size = (colour, 5) if trial.state == "finished" else (SOFT, 4)
    fill = "none" if trial.state == "stopped" else colour
    label = "_" if trial.state == "finished" else WORDS[trial.state]
    axes.plot(epochs[-1], values[-1], mark, color=colour, markerfacecolor=fill, markersize=size, label=label)
