"""What a report says of results whose figures are fixed by hand, in every format."""

import io
import math
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from pyarrow import parquet

from tests import synthetic
from tune.report import bands, intervals, latex, markdown, numbers, tidy, write_report
from tune.report.drawing import png, svg
from tune.report.page import html
from tune.report.plots import plots_of
from tune.results import Entry, Results
from tune.statistics import pairs_needed
from tune.table import Arm

GOLDEN = Path(__file__).parent / "assets" / "report"

TOP1, ERROR = "target.top1", "source.error"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report."""
    folder = tmp_path_factory.mktemp("report") / "docs" / "parts"
    write_report(synthetic.results(), folder)
    return folder


def changed(results: Results, arm: str, column: str, **values: Any) -> Results:
    """With something of one entry changed."""
    entry = replace(results.entries[arm, column], **values)
    return replace(results, entries={**results.entries, (arm, column): entry})


# --- the whole, against files that someone has looked at ---------------------------------------------------------


FORMATS: dict[str, Callable[[Results], str]] = {
    "table.md": lambda results: markdown(results, runs=True),
    "table.tex": latex.table,
    "runs.tex": latex.runs,
    "table.csv": tidy.summary,
    "index.html": lambda results: html(results, {}, Path("docs/report")),
}
CASES: dict[str, Callable[[], Results]] = {
    "parts": synthetic.results,
    "paper-scale": lambda: synthetic.results("paper", "best-test", screening=False),
    "cycle": synthetic.over_x,
    "nothing": synthetic.without_runs,
}


def texts(results: Results) -> dict[str, str]:
    """Of what is read, by the name of its file, on one line each."""
    return {name: " ".join(FORMATS[name](results).split()) for name in ("table.md", "table.tex", "index.html")}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_report_is_what_someone_looked_at(case: str, name: str) -> None:
    found = FORMATS[name](CASES[case]())
    golden = GOLDEN / f"{case}-{name}"
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
        pytest.fail(f"{golden} was missing and is written anew: look at it, and run again")
    assert found == golden.read_text()


def test_the_files_are_what_the_formats_make(report: Path) -> None:
    for name in ("table.md", "table.tex", "runs.tex", "table.csv"):
        assert (report / name).read_text() == FORMATS[name](synthetic.results())


def test_a_report_has_these_files_and_leaves_no_other(tmp_path: Path) -> None:
    (tmp_path / "new" / "report").mkdir(parents=True)
    (tmp_path / "new" / "report" / "table.md").write_text("of before")
    written = write_report(synthetic.over_x(), tmp_path / "new" / "report")
    assert (tmp_path / "new" / "report" / "table.md").read_text() == FORMATS["table.md"](synthetic.over_x())
    texts = {"table.md", "table.tex", "runs.tex", "table.csv", "index.html", "figures.parquet"}
    assert {path.name for path in written} == texts | {"intervals.png", "series.png", "curves.png"}
    assert set(written) == set((tmp_path / "new" / "report").iterdir())


def test_a_report_that_cannot_be_made_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_report(changed(synthetic.results(), "mlp", TOP1, same_as="nobody"), tmp_path / "report")
    assert not list(tmp_path.iterdir())


# --- figures as text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spreads", "digits"),
    [
        ([0.35, 0.6, 0.4], 2),
        ([1.0, 1.2, 0.1], 1),
        ([20.0], 0),
        ([0.0003], 4),
        ([0.4, 20.0, 0.3], 2),
        ([0.0, 1e-14], 2),
        ([], 2),
    ],
)
def test_figures_have_the_digits_that_their_spread_deserves(spreads: list[float], digits: int) -> None:
    assert numbers.decimals(spreads) == digits


def test_a_mean_stands_with_its_deviation_but_one_value_alone() -> None:
    assert numbers.mean_and_spread([63.0, 64.0, 65.0], 1) == "64.0 ± 1.0"
    assert numbers.mean_and_spread([63.25, 63.75], 2) == "63.50 ± 0.35"
    assert numbers.mean_and_spread([63.25], 2) == "63.25"


@pytest.mark.parametrize(
    ("mean", "bounds", "digits", "text"),
    [
        (0.5, (-0.125, 1.125), 2, "+0.50 [\N{MINUS SIGN}0.12, +1.12]"),
        (-0.001, (-1.0, 1.0), 2, "0.00 [\N{MINUS SIGN}1.00, +1.00]"),
        (3.21, (-11.0, 17.4), 0, "+3 [\N{MINUS SIGN}11, +17]"),
        (0.5, (-math.inf, math.inf), 2, "+0.50"),
        (0.5, (math.nan, math.nan), 2, "+0.50"),
    ],
)
def test_a_difference_shows_its_sign_and_an_interval_if_it_has_one(
    mean: float, bounds: tuple[float, float], digits: int, text: str
) -> None:
    assert numbers.interval(mean, bounds, digits) == text


def test_probabilities_and_millions() -> None:
    assert [numbers.probability(p) for p in (0.03125, 0.0001, 1.0)] == ["0.031", "< 0.001", "1.000"]
    shown = [numbers.millions(number) for number in (95_432, 3_504_872, 29_012_345, 216_400_000)]
    assert shown == ["0.0954", "3.50", "29.0", "216"]


# --- what is said ------------------------------------------------------------------------------------------------


def row_of(results: Results, title: str, label: str) -> list[str]:
    """The cells of a row of the Markdown table."""
    panel = markdown(results).split(f"## {title}")[1].split("##")[0]
    row = next(line for line in panel.splitlines() if line.startswith(label))
    return [cell.strip() for cell in row.split("|")]


def test_a_row_is_the_arm_compared_with_its_baseline_beside_the_paper() -> None:
    """Differences by hand: 0.9, 0.2, 1.1, 0.9, 0.4, 1.2; mean 0.78, standard deviation 0.396, 2.571 of it / √6."""
    row = row_of(synthetic.results(), "MobileNetV2", "MLP adapter")
    assert row == ["MLP adapter", "64.53 ± 0.57", "6", "+0.78 [+0.37, +1.20]", "0.094", "64.69†"]


def test_where_lower_is_better_a_fall_is_a_positive_difference() -> None:
    assert row_of(synthetic.results(), "ResNet50", "MLP adapter")[2] == "+0.55 [+0.24, +0.86]"


def test_best_is_bold_and_what_ties_with_it_underlined() -> None:
    results = synthetic.results()
    assert row_of(results, "MobileNetV2", "attention")[1] == "**66.42 ± 0.56**"
    assert row_of(results, "MobileNetV2", "one way")[1] == "<u>66.00 ± 0.57</u>"
    table = latex.table(results)
    assert r"& \textbf{66.42 $\pm$ 0.56} &" in table and r"& \underline{66.00 $\pm$ 0.57} &" in table


def test_an_arm_that_shares_its_runs_is_not_compared_but_says_with_whom() -> None:
    shared = changed(
        synthetic.results(), "one-way", ERROR, comparison=synthetic.results().entries["mlp", ERROR].comparison
    )
    assert list(intervals.compared(shared, ERROR)) == ["mlp"]
    for results in (synthetic.results(), shared):
        assert row_of(results, "ResNet50", "one way") == ["one way", "31.77 ± 0.48", "as no transfer", "", ""]


def test_an_exploratory_comparison_shows_no_probability() -> None:
    assert row_of(synthetic.results(), "MobileNetV2", "one way")[4] == "exploratory"


def test_n_stands_in_the_rows_only_where_it_differs() -> None:
    assert " | n | " in markdown(synthetic.results()) and " | n | " not in markdown(synthetic.over_x())


def test_another_baseline_is_named() -> None:
    text = markdown(synthetic.results())
    number = re.search(r"- (.) compared with another network", text)
    assert number is not None and number[1] in row_of(synthetic.results(), "MobileNetV2", "beside the other")[0]


def test_what_is_held_stands_in_millions_beside_the_papers() -> None:
    assert row_of(synthetic.results(), "parameters", "no transfer")[1:] == ["3.50", "3.5†"]
    assert row_of(synthetic.results(), "parameters", "another network")[1] == "\N{EN DASH}"


def test_figures_of_the_paper_are_marked_at_every_other_scale() -> None:
    text = markdown(synthetic.results())
    assert re.findall(r"\d\d\.\d\d\b(?=†)", text) == ["63.87", "64.69", "66.50", "31.89", "31.47"]
    assert "not comparable in height" in " ".join(text.split())
    assert "†" not in markdown(synthetic.results("paper"))


@pytest.mark.parametrize(
    ("protocol", "words"),
    [("last", "last epoch"), ("best", "best validation epoch"), ("best-test", "best TEST epoch, as in the paper")],
)
def test_the_protocol_is_said_in_every_format(protocol: Any, words: str) -> None:
    for text in texts(synthetic.results(protocol=protocol)).values():
        assert words in text and ("optimistic" in text) == (protocol == "best-test")


@pytest.mark.parametrize("screening", [True, False])
def test_screening_is_said_first_and_nothing_is_claimed(screening: bool) -> None:
    """Two of 2^5 signs for five pairs, three comparisons: 6 / 32."""
    results = synthetic.results(screening=screening)
    for text in texts(results).values():
        assert (0 < text.find("Screening: no claim follows") < text.index("63.75")) == screening
        assert ("2/32, times 3 comparisons is 0.19, not below 0.05" in text) == screening
        assert ("cannot be told from the best" in text) != screening
    plot = plots_of(results)["intervals"]
    assert plot.title.endswith("(screening)") == screening and ("no claim" in plot.caption) == screening


@pytest.mark.parametrize(
    "note", ["Runs of two versions of torch", "seed 3 diverged", "made with 4 threads", "torch 2.11.0"]
)
def test_what_a_reader_must_know_is_in_every_format(note: str) -> None:
    assert all(note in text for text in texts(synthetic.results()).values())


def test_one_seed_has_neither_spread_nor_interval(tmp_path: Path) -> None:
    values = {"plain": [63.25], "mlp": [64.0]}
    arms = {arm: {"label": arm} for arm in values}
    table = synthetic.Table.model_validate(
        {**synthetic.TABLE, "arms": arms, "columns": {TOP1: {"title": "top-1"}}, "primary": []}
    )
    entries = {(arm, TOP1): Entry(synthetic.figures(arm, each)) for arm, each in values.items()}
    results = replace(synthetic.results(), table=table, entries=entries, seeds=(0,), held={})
    results = changed(results, "mlp", TOP1, comparison=synthetic.compared("plain", values, "mlp", None, None))
    assert row_of(results, "top-1", "mlp") == ["mlp", "64.00", "+0.75", "\N{EN DASH}"]
    for path in write_report(results, tmp_path):
        if path.suffix in (".md", ".tex", ".csv"):
            assert not re.search(r"\b(inf|nan|None)\b|\d ± |\$\\pm\$ \d", path.read_text()), path


def test_without_any_run_there_is_a_table_that_says_so(tmp_path: Path) -> None:
    written = write_report(synthetic.without_runs(), tmp_path)
    assert not [path for path in written if path.suffix == ".png"]
    for text in [*texts(synthetic.without_runs()).values(), latex.runs(synthetic.without_runs())]:
        assert "No run has finished yet." in text
    assert parquet.read_table(tmp_path / "figures.parquet")["state"].unique().to_pylist() == ["missing"]


# --- LaTeX -------------------------------------------------------------------------------------------------------


def test_latex_escapes_what_it_would_take_for_its_own() -> None:
    hostile = r"100 % of a_b & #1 $x$ {y} ~ ^ \par <z>"
    expected = (
        r"100 \% of a\_b \& \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}par "
        r"\textless{}z\textgreater{}"
    )
    assert latex.escape(hostile) == expected
    results = replace(changed(synthetic.results(), "mlp", TOP1, notes=(hostile,)), about=hostile, notes=(hostile,))
    table = latex.table(replace(results, made_with={hostile: hostile}))
    body = "\n".join(line for line in table.splitlines() if not line.startswith("%"))
    assert body.count(expected) == 5 and hostile not in body


def test_latex_neither_sets_its_comments_nor_takes_a_label_for_an_option() -> None:
    results = synthetic.results()
    arms = {**results.table.arms, "mlp": Arm(label="[row-row] only")}
    table = latex.table(
        replace(results, about="first\nsecond & more", table=results.table.model_copy(update={"arms": arms}))
    )
    assert all(line.startswith("%") for line in table.split(r"\begin{table}")[0].splitlines())
    assert "    {}[row-row] only & " in table


def test_a_command_in_latex_is_still_that_command() -> None:
    """Breaks removed and places of the font read back."""
    text = latex.runs(synthetic.results()).replace(r"\allowbreak{}", "").replace(r"\textquotesingle{}", "'")
    text = re.sub(r"\{\\char(\d+)\}", lambda place: chr(int(place[1])), text)
    for entry in synthetic.results().entries.values():
        for figure in entry.figures.values():
            assert rf"{{\ttfamily {figure.command}}}" in text


# --- the page ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that elements close in their order, and collects what the tests ask for."""

    EMPTY = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.sections: dict[str, str] = {}
        self.plots = 0
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.plots += tag == "svg"
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag == "section":
            self._section = given["id"] or ""
        if tag == "td" and given.get("data-head") == "ours":
            self.cells.append(("", ""))
        if self.cells and tag == "a" and "td" in self.open:
            self.cells[-1] = (given["href"] or "", self.cells[-1][1])
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data
        elif self.cells and "td" in self.open:
            self.cells[-1] = (self.cells[-1][0], self.cells[-1][1] + data)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "index.html").read_text())


def test_the_page_is_whole_and_needs_nothing_else(page: Page) -> None:
    assert page.open == [] and not page.tags & {"script", "link", "img", "iframe"} and "svg" in page.tags
    assert len(page.ids) == len(set(page.ids)) and page.plots == 2
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert all(not re.match(r"[a-z]+:|/", address) for address in page.addresses)


def test_every_cell_of_the_page_leads_to_its_runs(page: Page) -> None:
    results = synthetic.results()
    measured = [(arm, column) for column in (TOP1, ERROR) for arm in results.table.arms]
    assert len(page.cells) == 3 * len(results.table.arms)
    for (arm, column), (address, text) in zip(measured, page.cells, strict=False):
        figures = results.entries[arm, column].figures
        assert bool(address) == bool(figures), text
        for seed, figure in figures.items():
            section = page.sections[address.removeprefix("#")]
            assert figure.run in section and figure.command in section and f"--seed {seed}" in section
            assert ("diverged" if figure.value is None else f"{figure.value:.2f}") in section


def test_the_page_links_to_the_folders_that_are_here(report: Path, page: Page) -> None:
    folders = {f.folder for entry in synthetic.results().entries.values() for f in entry.figures.values() if f.folder}
    linked = {(report / address).resolve() for address in page.addresses if not address.startswith("#")}
    assert linked == {Path(folder).resolve() for folder in folders}


def test_the_page_shows_markup_in_a_sentence_as_text() -> None:
    results = replace(synthetic.results(), about="<script>alert(1)</script>")
    assert "script" not in Page(FORMATS["index.html"](results)).tags


# --- data --------------------------------------------------------------------------------------------------------


def test_parquet_has_every_seed_of_every_cell(report: Path) -> None:
    results = synthetic.results()
    rows = parquet.read_table(report / "figures.parquet").to_pylist()
    assert len(rows) == 2 * 6 * 6
    found = {(row["arm"], f"{row['learner']}.{row['metric']}", row["seed"]): row for row in rows}
    for (arm, column), entry in results.entries.items():
        for seed, figure in entry.figures.items():
            row = found[arm, column, seed]
            assert row["value"] == figure.value
            assert (row["run"], row["command"], row["folder"]) == (figure.run, figure.command, figure.folder)
            assert row["run_learner"] == figure.learner
            compared = entry.comparison
            assert row["baseline"] == (compared.baseline if compared else None)
            assert row["difference"] == (compared.differences.get(seed) if compared else None)
    states = [found["paper", TOP1, 3], found["one-way", TOP1, 2], found["plain", TOP1, 0]]
    assert [row["state"] for row in states] == ["diverged", "missing", "finished"]
    assert found["one-way", ERROR, 0]["same_as"] == "plain"
    about = {name: rows[0][name] for name in ("table", "scale", "protocol", "label", "better")}
    assert about == {
        **{"table": "parts", "scale": "digits", "protocol": "last", "label": "no transfer", "better": "higher"}
    }


def test_csv_has_the_figures_with_all_their_digits() -> None:
    lines = tidy.summary(synthetic.results()).splitlines()
    names = lines[0].split(",")
    mlp = dict(
        zip(names, next(line for line in lines if line.startswith("parts,digits,last,mlp")).split(","), strict=True)
    )
    values = [value for value in synthetic.TARGET["mlp"] if value is not None]
    assert float(mlp["mean"]) == pytest.approx(numpy.mean(values), rel=1e-7)
    assert float(mlp["std"]) == pytest.approx(numpy.std(values, ddof=1), rel=1e-7)
    assert (mlp["n"], mlp["pairs"], mlp["p"], mlp["p_holm"], mlp["paper"]) == ("6", "6", "0.03125", "0.09375", "64.69")


# --- plots -------------------------------------------------------------------------------------------------------


def test_plots_are_pictures_and_the_same_every_time(report: Path) -> None:
    for name, plot in plots_of(synthetic.results()).items():
        drawn = png(plot, "What each part is worth (digits)")
        assert drawn == (report / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(drawn)) as image:
            assert image.width > 600 and len(image.convert("RGB").getcolors(1 << 24) or []) > 20
        assert svg(plot, name) in (report / "index.html").read_text()


def test_the_interval_plot_shows_every_difference_and_where_zero_is() -> None:
    results = synthetic.results()
    axis = intervals.draw(results).axes[1]
    lines = [[float(x) for x in line.get_xdata()] for line in axis.get_lines()]  # type: ignore[union-attr]
    compared = results.entries["mlp", ERROR].comparison
    assert compared is not None
    assert [0.0, 0.0] in lines
    assert (
        list(compared.differences.values()) in lines and list(compared.interval) in lines and [compared.mean] in lines
    )
    assert [pytest.approx(31.89 - 31.47)] in lines
    labels = [label.get_text().replace("\n", " ") for label in intervals.draw(results).axes[0].get_yticklabels()]
    assert labels == [
        "MLP adapter",
        "attention, 100 % of it & more_",
        "one way",
        "beside the other (to another network)",
    ]


def test_intervals_without_bounds_are_drawn_as_their_mean_alone() -> None:
    axis = intervals.draw(synthetic.results()).axes[0]
    ends = [x for line in axis.get_lines() for x in line.get_xdata()]  # type: ignore[union-attr]
    assert numpy.isfinite(numpy.array(ends, dtype=float)).all()


def test_over_x_a_series_is_its_mean_with_one_standard_deviation() -> None:
    series = bands.over_x(synthetic.over_x(), TOP1)
    assert list(series) == ["paper form", "gated form"]
    x, mean, low, high = series["paper form"]
    seeds = numpy.array([[66.0 - abs(at - 4) / 2 + spread for spread in (0.0, 0.7, -0.4)] for at in (1, 2, 4, 8)])
    assert x == [1, 2, 4, 8]
    numpy.testing.assert_allclose(mean, seeds.mean(axis=1))
    numpy.testing.assert_allclose(low, seeds.mean(axis=1) - seeds.std(axis=1, ddof=1))
    numpy.testing.assert_allclose(high, seeds.mean(axis=1) + seeds.std(axis=1, ddof=1))


def test_over_x_powers_of_two_stand_evenly_with_the_baseline_across() -> None:
    axis = bands.draw_over_x(synthetic.over_x()).axes[0]
    assert axis.get_xscale() == "log" and [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4", "8"]
    across = axis.get_lines()[-1]
    assert across.get_label() == "no transfer" and list(across.get_xdata()) == [1, 8]  # type: ignore[arg-type]
    assert list(across.get_ydata()) == pytest.approx([numpy.mean([63.1, 63.9, 64.2])] * 2)  # type: ignore[arg-type]


def curves() -> Iterator[tuple[float, tuple[tuple[float, float], ...]]]:
    yield 60.0, ((1.0, 40.0), (2.0, 50.0), (3.0, 60.0))
    yield 62.0, ((1.0, 42.0), (2.0, 55.0), (3.0, 61.0), (4.0, 62.0))


def test_a_curve_is_the_mean_of_the_seeds_within_their_range_without_those_that_diverged() -> None:
    figures = [replace(synthetic.figure("mlp", 0, value, "target"), curve=curve) for value, curve in curves()]
    figures.append(replace(figures[0], value=None, curve=((1.0, 10.0),)))
    band = bands.over_epochs(Entry(dict(enumerate(figures))))
    assert band == ([1.0, 2.0, 3.0], [41.0, 52.5, 60.5], [40.0, 50.0, 60.0], [42.0, 55.0, 61.0])
    assert bands.over_epochs(Entry(dict(enumerate(figures)), same_as="plain")) is None
    assert bands.over_epochs(Entry({})) is None


def test_seeds_that_would_find_a_wanted_effect_are_said_where_it_is_named() -> None:
    plain = synthetic.results()
    assert "would find" not in markdown(plain)
    text = " ".join(markdown(replace(plain, effect=1.0)).split())
    deviations = [
        entry.comparison.deviation
        for (_, column), entry in plain.entries.items()
        if column == "target.top1" and entry.comparison and math.isfinite(entry.comparison.deviation)
    ]
    wanted = pairs_needed(statistics.median(deviations), 1.0, plain.family)
    assert f"MobileNetV2 top-1: {wanted} seeds would find a true difference of 1 with a chance of 80 %" in text
    assert f", {plain.family} to test)" in text
