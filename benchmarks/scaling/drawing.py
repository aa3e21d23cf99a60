"""The two plots."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from tune.report.drawing import COLOURS, INK, SOFT, Plot, png

matplotlib.use("Agg")


def draw_steps(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Measured and predicted milliseconds of a step over the number of processes."""
    n = rows[0]["measured_s"].n
    caption = (
        f"Points: median of {n} rounds, bars from the least to the most. Lines: the model, from one process and from "
        "messages between two. Two cores: from three processes on they take turns."
    )
    plot = Plot("a step over processes, measured and predicted", caption, lambda: _steps(rows))
    path.write_bytes(_few_colours(png(plot, "Scale")))


def _steps(rows: Sequence[Mapping[str, Any]]) -> Figure:
    kinds = list(dict.fromkeys((row["trio"], row["cycle"]) for row in rows))
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axis, (trio, cycle) in zip(axes.flat, kinds, strict=True):
        own = [row for row in rows if (row["trio"], row["cycle"]) == (trio, cycle)]
        workers = [row["workers"] for row in own]
        measured = [row["measured_s"] for row in own]
        bars = [
            [1e3 * (one.median - one.least) for one in measured],
            [1e3 * (one.most - one.median) for one in measured],
        ]
        axis.errorbar(
            workers,
            [1e3 * one.median for one in measured],
            yerr=bars,
            fmt="o",
            color=COLOURS[0],
            capsize=3,
            label="measured",
        )
        said = [1e3 * row["predicted_s"].median for row in own]
        axis.plot(workers, said, color=COLOURS[1], label="predicted", zorder=1)
        axis.set_title(f"{trio} adapter, cycle {cycle}")
        axis.set_xticks(workers)
        axis.set_ylim(0, 1100 * max(row["measured_s"].most for row in rows))
    for axis in axes[-1]:
        axis.set_xlabel("processes")
    for axis in axes[:, 0]:
        axis.set_ylabel("milliseconds a step")
    axes[0, 0].legend(loc="upper left")
    return figure


def _few_colours(drawn: bytes) -> bytes:
    """The same picture in a third of the bytes."""
    file = io.BytesIO()
    Image.open(io.BytesIO(drawn)).convert("RGB").quantize(64).save(file, "png", optimize=True)
    return file.getvalue()


def draw_plays(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Utilisation and the driver's load over nodes."""
    caption = (
        f"Simulated, median of {rows[0]['utilisation'].n} seeds: one trial at a time a node, 30 epochs a trial, four "
        "trials a node; a driver as it was measured. Failures: each node once a day, back after five minutes."
    )
    plot = Plot("sweeps on many nodes, simulated", caption, lambda: _plays(rows))
    path.write_bytes(_few_colours(png(plot, "Scale")))


def _plays(rows: Sequence[Mapping[str, Any]]) -> Figure:
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    lengths = list(dict.fromkeys(row["epoch_s"] for row in rows))
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots(2, len(scenarios), sharex=True, sharey="row", squeeze=False)
    for column, scenario in zip(axes.T, scenarios, strict=True):
        for colour, epoch_s in zip(COLOURS, lengths, strict=False):
            own = [row for row in rows if (row["scenario"], row["epoch_s"]) == (scenario, epoch_s)]
            nodes = [row["nodes"] for row in own]
            label = f"epochs of {epoch_s:g} s"
            for axis, key in zip(column, ("steady", "driver"), strict=True):
                axis.plot(nodes, [100 * row[key].median for row in own], "o-", ms=3, color=colour, label=label)
        column[0].set_title(scenario)
        column[1].axhline(100, color=SOFT, linewidth=0.8)
        column[1].set_xscale("log")
        ticks = [row["nodes"] for row in rows if row["nodes"] in (10, 100, 1000)][:3]
        column[1].set_xticks(ticks, [str(tick) for tick in ticks])
        column[1].minorticks_off()
        column[1].set_xlabel("nodes")
        for axis in column:
            axis.set_ylim(0, 108)
            axis.tick_params(colors=INK)
    axes[0, 0].set_ylabel("places at work\nuntil the last draw, %")
    axes[1, 0].set_ylabel("driver busy, %")
    axes[0, 0].legend(loc="lower left", fontsize=7)
    return figure
