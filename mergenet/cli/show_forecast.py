"""What `mergenet plan` prints: every number with its unit and how it was come by."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mergenet.cli.show import print_facts, print_table, printed
from mergenet.training.checkpoint import KEEP

if TYPE_CHECKING:
    from tune.forecast.forecast import Forecast, Line, Span
    from tune.forecast.room import Disk, Packing
    from tune.forecast.seeds import Seeds


def print_forecast(forecast: "Forecast") -> None:
    """All of it, the command that starts it last."""
    printed(f"{forecast.about}; {_runs(forecast)}")
    if forecast.lines:
        _print_runs(forecast)
        if forecast.kind == "recipe":
            _print_parts(forecast)
        if forecast.arms:
            _print_arms(forecast)
    print_facts([*(_needs(forecast) if forecast.lines else ()), *_seeds(forecast)])
    printed(f"\nTo start it: {forecast.command}")


def _runs(forecast: "Forecast") -> str:
    what = "trial" if forecast.kind == "sweep" else "run"
    return f"{forecast.runs} {what}{'s'[: forecast.runs - 1] if forecast.runs else 's'} would train"


# --- runs ----------------------------------------------------------------------------------------------------------


def _print_runs(forecast: "Forecast") -> None:
    of_sweep = forecast.kind == "sweep"
    rows = [
        (
            line.run.name + (f" (reckoned by: {line.like})" if line.like else ""),
            *(() if of_sweep else (str(line.run.count),)),
            f"{line.run.amounts.steps()}",
            "-" if line.like else " + ".join(str(_ticks_measured(line, kind)) for kind in (False, True)),
            _tick(line, with_transfer=False),
            _tick(line, with_transfer=True),
            lasting(line.cost.seconds),
        )
        for line in forecast.lines
    ]
    counted = () if of_sweep else ("runs",)
    print_table(("run",), (*counted, "ticks", "measured", "a tick\nwithout", "with\ntransfer", "one run\ntakes"), rows)


def _ticks_measured(line: "Line", with_transfer: bool) -> int:
    return sum(one.measured for one in line.probe.ticks if bool(one.happening.transfers) == with_transfer)


def _tick(line: "Line", with_transfer: bool) -> str:
    """The mean over the run of the medians of its kinds."""
    from tune.forecast.cost import tick_s

    kinds = {kind: count for kind, count in line.run.amounts.ticks.items() if bool(kind.transfers) == with_transfer}
    if not kinds:
        return "-"
    seconds = sum(count * tick_s(line.probe, kind) for kind, count in kinds.items()) / sum(kinds.values())
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _print_parts(forecast: "Forecast") -> None:
    """What the seconds of one run go to."""
    line = forecast.lines[0]
    cost, amounts, probe = line.cost, line.run.amounts, line.probe
    samples = sum(amounts.samples.values())
    rows = [
        (f"{amounts.steps()} ticks", "count x median of each kind", cost.ticks_s),
        ("first ticks", "by how much they were slower", cost.warm_s),
        ("validation, test", f"{samples} samples, measured on some", cost.validation_s),
        ("checkpoints", f"{amounts.checkpoints} x {probe.checkpoint_s:.2f} s, one was written", cost.checkpoints_s),
        ("data and models", "measured once", cost.build_s),
        ("imports", "measured once", forecast.import_s),
    ]
    print_table(("of one run", "how it was found"), ("seconds",), [(a, b, f"{c:.1f}") for a, b, c in rows])


def _print_arms(forecast: "Forecast") -> None:
    print_table(("arm",), ("work",), [(arm, lasting(seconds)) for arm, seconds in forecast.arms.items()])


# --- needs ---------------------------------------------------------------------------------------------------------


def _needs(forecast: "Forecast") -> Iterator[tuple[str, str]]:
    packing, disk = forecast.packing, forecast.disk
    assert packing is not None and disk is not None, "what would run needs both"
    yield "measured", _measured(forecast)
    yield "time", _time(forecast, packing)
    if forecast.halved_s is not None:
        yield "", f"{_span(forecast.halved_s)} where successive halving stops as many trials as it is to"
    yield "at once", _packed(packing)
    if forecast.crowding > 1.0:
        yield "", _crowded(forecast, packing)
    if not packing.fits:
        yield "WARNING", "not even one run fits into the memory that is free"
    yield "disk", _disk(disk, forecast.runs)
    if not disk.fits:
        yield "WARNING", "that does not fit"
    yield from (("note", note) for note in forecast.notes)


def _measured(forecast: "Forecast") -> str:
    text = (
        "a tick: the median of so many real ones on this machine, without + with a transfer; one run: the ticks of "
        "each kind times their median, validation, checkpoints, reading data, building models"
    )
    shared = any(", " in line.run.name for line in forecast.lines) and forecast.kind == "table"
    return text + ("; work of a run of several arms is divided equally among them" if shared else "")


def _time(forecast: "Forecast", packing: "Packing") -> str:
    if forecast.kind == "recipe":
        return f"{_span(forecast.wall_s)}{', one run after another' if forecast.runs > 1 else ''}"
    at_once = min(packing.at_once, forecast.runs)
    work = f"{_span(forecast.work_s)} of work"
    return f"{_span(forecast.wall_s)} with {at_once} at once, Ray's own start not counted; {work}"


def _packed(packing: "Packing") -> str:
    what = "processors" if packing.by_gpu_memory is None else "GPUs"
    most = packing.there // packing.each
    by_places = f"{packing.there} {what} // {packing.each} = {most}"
    by_places += "" if packing.by_places == most else f", {packing.by_places} asked for"
    memory = f"{size(packing.free_bytes)} free // {size(packing.memory_bytes)} a run at its peak = {packing.by_memory}"
    by_gpu = "" if packing.by_gpu_memory is None else f"; {packing.by_gpu_memory} fit into the GPUs' memory"
    return f"{packing.at_once}: {by_places}; memory {memory}{by_gpu}; {packing.binds} bind"


def _crowded(forecast: "Forecast", packing: "Packing") -> str:
    at_once = min(packing.at_once, forecast.runs)
    text = f"{at_once} beside each other take {forecast.crowding:.1f} x as long each as one alone (measured just now)"
    return text + (": nothing is gained by more than one" if forecast.crowding >= at_once else "")


def _disk(disk: "Disk", runs: int) -> str:
    return (
        f"{size(disk.needed_bytes)} = {runs} x (the newest {KEEP} checkpoints + metrics); "
        f"{size(disk.free_bytes)} free in {disk.where}"
    )


# --- seeds ---------------------------------------------------------------------------------------------------------


def _seeds(forecast: "Forecast") -> Iterator[tuple[str, str]]:
    seeds = forecast.seeds
    if forecast.kind == "recipe":
        there = f"{seeds.there} seed{'s'[: seeds.there - 1]}"
        yield "seeds", f"{there}; one comparison takes {seeds.fewest} (2 / 2^{seeds.fewest} < 0.05)"
    elif forecast.kind == "sweep":
        yield "seeds", f"trials have one; --confirm {seeds.fewest} is one comparison (2 / 2^{seeds.fewest} < 0.05)"
    else:
        yield "seeds", _of_table(seeds)
        for column, needed in seeds.needed.items():
            many = "more than anyone has" if needed.seeds is None else str(needed.seeds)
            yield "", f"{column}: {many} find {seeds.effect:g} with 80 % (measured spread {needed.spread:.2g})"


def _of_table(seeds: "Seeds") -> str:
    k, n = seeds.comparisons, seeds.fewest
    carried = f"{k} primary comparison{'s'[: k - 1]} take {n} ({k} x 2 / 2^{n} < 0.05)"
    return f"{seeds.there}; {carried}: {'enough' if seeds.suffice else 'too few, the table is screening'}"


# --- words ---------------------------------------------------------------------------------------------------------


def _span(span: "Span") -> str:
    low, high = (lasting(seconds) for seconds in span)
    return low if low == high else f"{low} to {high}"


def lasting(seconds: float) -> str:
    """A time in the unit in which it is a small number."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in the unit in which they are a small number."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
    return f"{count / 1000:.3g} TB"
