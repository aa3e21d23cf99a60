"""The plots of a table."""

from functools import partial

from tune.report import bands, intervals
from tune.report.drawing import Plot, columns_of
from tune.results import Results


def plots_of(results: Results) -> dict[str, Plot]:
    """Name -> plot, of those there is something to draw for."""
    plots = {}
    if any(intervals.compared(results, column) for column in columns_of(results)):
        title = "paired differences (screening)" if results.screening else "paired differences"
        plots["intervals"] = Plot(title, intervals.caption(results), partial(intervals.draw, results))
    if any(bands.over_x(results, column) for column in columns_of(results)):
        title = f"over {results.table.x_title or 'x'}"
        plots["series"] = Plot(title, bands.OVER_X, partial(bands.draw_over_x, results))
    if any(bands.over_epochs(entry) for entry in results.entries.values()):
        plots["curves"] = Plot("validation over epochs", bands.OVER_EPOCHS, partial(bands.draw_over_epochs, results))
    return plots
