"""Which parameters tell the top trials from the rest: PED-ANOVA (Watanabe et al. 2023) as Optuna has it.

A parameter that is not in all trials counts where it is, by the share of those trials (arXiv 2601.20800).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator

from tune.report.sweep.outcome import Outcome
from tune.search.ledger import Trial
from tune.search.sweep import Floats, Ints, Values, label_of

optuna.logging.set_verbosity(optuna.logging.ERROR)

LEAST = 10
"""Finished trials below which nothing is said."""
TOP, TOP_LEAST = 0.1, 5
"""The share of trials that counts as the top, and how many Optuna's documentation advises it to hold at least."""


@dataclass(frozen=True)
class Importance:
    """Of the parameters of a sweep.

    Attributes:
        finished: trials it stands on, of which `top` are the top.
        shares: objective -> path -> share of the sum; empty where nothing can be said of the objective.
    """

    finished: int
    top: int
    shares: dict[str, dict[str, float]]


def importance_of(outcome: Outcome) -> Importance:
    """For each objective, of the finished trials alone: one that was stopped has no final value to rank it by."""
    count = len(outcome.finished)
    if count < LEAST:
        return Importance(count, 0, {objective: {} for objective in outcome.objectives})
    quantile = max(TOP, TOP_LEAST / count)
    shares = {objective: _shares(outcome, objective, quantile) for objective in outcome.objectives}
    return Importance(count, -int(-quantile * count // 1), shares)


def _shares(outcome: Outcome, objective: str, quantile: float) -> dict[str, float]:
    paths = _varied(outcome)
    if not paths:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups of conditional trials that are too small, which it leaves out
        study = _study(outcome, objective)
        found = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study, params=paths)
    total = sum(found.values())
    return {path: found[path] / total for path in paths} if total > 0 else {}


def _varied(outcome: Outcome) -> list[str]:
    """The paths of which finished trials have more than one value."""
    values = {path: {trial.point.get(path) for trial in outcome.finished} for path in outcome.space.dimensions}
    return [path for path, found in values.items() if len(found - {None}) > 1]


def _study(outcome: Outcome, objective: str) -> optuna.Study:
    higher = outcome.log.sweep.objectives[objective] == "higher"
    study = optuna.create_study(direction="maximize" if higher else "minimize")
    known = {path: _distribution(outcome, path) for path in outcome.space.dimensions}
    final = outcome.final(objective)
    study.add_trials([_frozen(trial, known, final[trial.number]) for trial in outcome.finished])
    return study


def _frozen(trial: Trial, known: dict[str, BaseDistribution], value: float) -> Any:
    point = {path: trial.point[path] for path in known if path in trial.point}
    return optuna.trial.create_trial(params=point, distributions={path: known[path] for path in point}, value=value)


def _distribution(outcome: Outcome, path: str) -> BaseDistribution:
    match outcome.space.dimensions[path]:
        case Ints(low=low, high=high, step=step, log=log):
            return IntDistribution(low, high, log=log, step=step)
        case Floats(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
        case Values(of=of):
            met = [trial.point[path] for trial in outcome.finished if path in trial.point]
            return CategoricalDistribution(tuple(dict.fromkeys([*map(label_of, of), *met])))
