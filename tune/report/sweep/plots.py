"""The plots of a sweep."""

from functools import partial

from tune.report.drawing import Plot
from tune.report.sweep import history, pairs, parallel, slices
from tune.report.sweep.axes import valued
from tune.report.sweep.outcome import Outcome
from tune.search.sweep import Asha


def plots_of(outcome: Outcome) -> dict[str, Plot]:
    """Name -> plot, of those there is something to draw for."""
    plots: dict[str, Plot] = {}
    if any(valued(outcome, state, each) for state in ("finished", "stopped") for each in outcome.objectives):
        plots["history"] = Plot("trial by trial", history.HISTORY, partial(history.draw, outcome))
    if isinstance(outcome.log.sweep.scheduler, Asha) and any(trial.curve for trial in outcome.trials):
        plots["epochs"] = Plot("validation over epochs", history.EPOCHS, partial(history.draw_epochs, outcome))
    if len(outcome.objectives) > 1 and outcome.finished:
        plots["front"] = Plot("the Pareto front", pairs.FRONT, partial(pairs.draw_front, outcome))
    if slices.curved(outcome):
        plots["curves"] = Plot("rank, cycle and depth", slices.CURVES, partial(slices.draw_curves, outcome))
    for transfer in pairs.transfers(outcome):
        title, caption = f"which port meets which ({transfer})", pairs.caption(outcome)
        plots[f"pairs-{transfer}"] = Plot(title, caption, partial(pairs.draw_pairs, outcome, transfer))
    if slices.drawn(outcome):
        plots["slices"] = Plot("parameter by parameter", slices.SLICES, partial(slices.draw, outcome))
    if len(outcome.finished) > 1:
        caption = parallel.caption(outcome)
        plots["parallel"] = Plot("whole points", caption, partial(parallel.draw, outcome))
    return plots
