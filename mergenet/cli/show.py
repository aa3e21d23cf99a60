"""What the commands print: tables, the plan before a run, the figures after it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mergenet.config import as_yaml
from mergenet.experiment import Experiment
from mergenet.method.edges import DistillOptions, Edge, Lesson
from mergenet.training.ends import TransferPlan
from mergenet.training.files import in_turn, read_json, shown, world_sizes
from mergenet.training.plan import Plan
from mergenet.training.reporter import Unbreakable
from mergenet.training.sizes import among
from mergenet.training.spec import RunSpec
from mergenet.wiring import split_end

if TYPE_CHECKING:
    from tune.ablate import Ablation


def _console() -> Console:
    return Unbreakable(highlight=False)


def _table(texts: tuple[str, ...], figures: tuple[str, ...]) -> Table:
    """A table for narrow terminals: only its last text column folds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in texts:
        table.add_column(column, no_wrap=column != texts[-1])
    for column in figures:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_table(texts: tuple[str, ...], figures: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Rows under their columns: texts first, then figures."""
    table = _table(texts, figures)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """What each is of, and what is to be said of it, folded beside it."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for fact in facts:
        grid.add_row(*map(escape, fact))
    _console().print(grid)


def print_finding(name: str, verdict: str, text: str, remedy: str) -> None:
    """A line of a list that grows while it is read: its columns have widths of their own."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=12)
    grid.add_column(width=7)
    grid.add_column()
    colour = {"good": "green", "bad": "bold red", "skipped": "dim"}[verdict]
    grid.add_row(escape(name), f"[{colour}]{verdict}[/]", escape(text))
    if remedy:
        grid.add_row("", "", escape(f"-> {remedy}"))
    _console().print(grid)


def printed(text: str) -> None:
    """Text as it is, however wide the terminal."""
    _console().print(text, soft_wrap=True, markup=False)


# --- before ------------------------------------------------------------------------------------------------------


def print_plan(spec: RunSpec, plan: Plan, sizes: Sequence[int], folder: str) -> None:
    """The resolved experiment as YAML, then models, ports, shapes and lengths."""
    console = _console()
    console.print(as_yaml(spec.experiment.dump()), markup=False, soft_wrap=True)
    learners = _table(("learner", "model"), ("parameters", "steps\nan epoch", "steps", "cell"))
    for name, learner in plan.learners.items():
        options = spec.experiment.learners[name]
        figures = (str(learner.steps_per_epoch), str(learner.steps), plan.cells.get(name, "")[:8])
        if options.frozen:
            figures = ("-", "frozen", "-")
        learners.add_row(name, options.model, f"{learner.parameters:,}", *figures)
    console.print(learners)
    if plan.transfers:
        transfers = _table(("transfer", "from and to"), ("weights", "encoded", "adapter\nparameters", "transfers"))
        for name, transfer in plan.transfers.items():
            transfers.add_row(name, *_transfer_row(spec.experiment, name, transfer))
        console.print(transfers)
    others = _edge_rows(spec.experiment, plan)
    if others:
        print_table(("edge", "from and to"), ("by", "layers'\nparameters"), others)
    data = ", ".join(f"{name} {digest[:8]}" for name, digest in plan.contents.data.items())
    console.print(
        f"{plan.ticks} ticks on {among(sizes)} x {spec.device}, seed {spec.seed}, data {data}\n"
        f"would be recorded in {folder}",
        soft_wrap=True,
    )


def _edge_rows(experiment: Experiment, plan: Plan) -> list[tuple[str, ...]]:
    """Losses with teachers, and shared weights."""
    rows: list[tuple[str, ...]] = []
    for path, lesson in experiment.lessons(enabled=False).items():
        ends = "\n".join([*lesson.teachers, f"-> {lesson.student}"])
        own = f"{plan.lessons[path].parameters:,}" if lesson.enabled else "off"
        rows.append((path, ends, word_of(lesson), own))
    for name, share in experiment.share.items():
        rows.append((f"share.{name}", f"{share.large}\n-> {share.small}", "a slice", "-" if share.enabled else "off"))
    return rows


def word_of(lesson: Lesson) -> str:
    """The loss by the word that chooses it."""
    return str(next(iter(lesson.dump()["loss"])))


def _transfer_row(experiment: Experiment, name: str, plan: TransferPlan) -> tuple[str, ...]:
    def sizes(source: tuple[int, int], target: tuple[int, int]) -> str:
        return f"{source[0]} x {source[1]}\n{target[0]} x {target[1]}"

    options = experiment.transfers[name]
    return (
        f"{options.source}\n-> {options.target}",
        sizes(plan.source, plan.target),
        sizes(plan.encoded_source, plan.encoded_target),
        f"{plan.adapter_parameters:,}",
        str(plan.transfers) if options.enabled else "off",
    )


def print_ablation(ablation: "Ablation", most: int) -> None:
    """What of a table is there, and the runs that would make the rest."""
    table, cells = ablation.table, ablation.table.cells()
    missing = set(ablation.missing())
    rows = []
    for arm, options in table.table.arms.items():
        own = [cell for cell in cells if cell[0] == arm]
        there = sum(cell not in missing for cell in own)
        rows.append((arm, options.label, f"{there} of {len(own)}"))
    print_table(("arm", "what it is"), ("cells\nthere",), rows)
    runs = [
        (str(job.spec.seed), ", ".join(job.arms()), f"{job.ticks}", shown(job.spec.folder)) for job in ablation.jobs
    ]
    if runs:
        print_table(("seed", "arms"), ("ticks", "would be recorded in"), runs)
    count, seeds = len(runs), len(table.seeds)
    console = _console()
    console.print(
        f"{table.table.name} at scale {table.scale}, {seeds} seed{'s'[: seeds - 1]}: {len(cells) - len(missing)} of "
        f"{len(cells)} cells are there; {count} run{'s'[: count - 1] if count else 's'} would train, {most} at once",
        soft_wrap=True,
    )


# --- after -------------------------------------------------------------------------------------------------------


def print_result(spec: RunSpec, folder: str, again: str | None) -> None:
    """Each learner's figures, where the record lies, and what to try next by adding to the words `again`."""
    console = _console()
    result = read_json(spec.folder / "result.json")
    table = _table(("learner", "model", "taught by"), ("valid.\ntop-1", "test\ntop-1", "test\ntop-5"))
    for name, options in spec.experiment.learners.items():
        if options.frozen:
            table.add_row(name, options.model, "frozen", "-", "-", "-")
            continue
        taught = taught_by(spec.experiment, name, result["transfers"])
        table.add_row(name, options.model, taught, *_figures(result["learners"][name]))
    console.print(table)
    console.print(
        f"{result['ticks']} ticks in {result['seconds']:.0f} s, one seed: too few to tell a difference from chance.\n"
        f"{_changed(world_sizes(read_json(spec.folder / 'manifest.json')))}Record: {folder}",
        soft_wrap=True,
    )
    if again is not None:
        console.print(f"\nNext:\n{_next_steps(spec, again)}", soft_wrap=True, markup=False)


def _changed(sizes: Sequence[int]) -> str:
    """A line where the number of workers changed on the way."""
    if len(sizes) == 1:
        return ""
    return f"Trained by {in_turn(sizes)} workers, so unlike any run of a fixed number: tables and sweeps mark it.\n"


def taught_by(experiment: Experiment, learner: str, endings: Mapping[str, Any]) -> str:
    """What joins a learner to others: transfers into it, which never took place or stopped, its loss, a shared weight.

    `off` where there are only disabled ones.
    """
    ways = [*_transfers_into(experiment, learner, endings), *_others_into(experiment, learner)]
    off = [edge for of in experiment.edges().values() for edge in of.values() if not edge.enabled]
    return "\n".join(ways) or ("off" if any(_is_end(learner, edge) for edge in off) else "-")


def _transfers_into(experiment: Experiment, learner: str, endings: Mapping[str, Any]) -> Iterator[str]:
    for name, transfer in experiment.enabled_transfers().items():
        if split_end(transfer.target)[0] == learner:
            updates, stopped = endings[name]["updates"], endings[name]["stopped_at"]
            note = "" if updates else ", never"
            note += "" if stopped is None else f", stopped at tick {stopped}"
            yield f"{transfer.source} -> {split_end(transfer.target)[1]}{note}"


def _others_into(experiment: Experiment, learner: str) -> Iterator[str]:
    found = experiment.lesson_of(learner)
    if found is not None:
        _, lesson = found
        yield f"{word_of(lesson)} from {', '.join(lesson.teachers)}" if lesson.teachers else word_of(lesson)
    for share in experiment.enabled_shares().values():
        (large, held), (small, has) = split_end(share.large), split_end(share.small)
        if small == learner:
            yield f"{has}: a slice of {share.large}"
        if large == learner:
            yield f"{held}: shared with {share.small}"


def _is_end(learner: str, edge: Edge) -> bool:
    return learner in (split_end(end)[0] for end in edge.changes())


def _figures(figures: Mapping[str, Any]) -> tuple[str, ...]:
    if figures["diverged_at"] is not None:
        return ("diverged", "at tick", str(figures["diverged_at"]))
    validation, test = figures.get("validation", {}), figures.get("test", {})
    cells = (validation.get("top1"), test.get("top1"), test.get("top5"))
    return tuple("-" if cell is None else f"{cell:.2f}" for cell in cells)


def _next_steps(spec: RunSpec, again: str) -> str:
    steps = [("another seed", f"{again} --seed {spec.seed + 1}")]
    for path, lesson in spec.experiment.lessons().items():
        if isinstance(lesson, DistillOptions):
            steps.append(("without its loss, everything else equal", f"{again} {path}.enabled=false"))
        if isinstance(lesson, DistillOptions) and lesson.loss.taught:
            other = "nkd" if word_of(lesson) == "dkd" else "dkd"
            steps.append(("another loss", f"{again} {path}.loss={other}"))
        break
    for name, transfer in spec.experiment.enabled_transfers().items():
        path = f"transfers.{name}"
        steps.append(("the paper's own adapter", f"{again} {path}.adapter.lpka.form=paper"))
        steps.append(("rarer transfers", f"{again} {path}.cycle={4 * transfer.cycle}"))
        break
    steps.append(("all there is to change", f"{again} --dry-run"))
    return "\n".join(f"  # {what}\n  {command}" for what, command in steps)
