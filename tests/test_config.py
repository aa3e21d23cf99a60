"""Options: strict, changed by merging plain maps, named by a hash that survives new fields."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest

from mergenet.config import (
    Choice,
    InputError,
    Listed,
    Neutral,
    Options,
    as_yaml,
    digest,
    identity,
    merge,
    parse,
    read_file,
    read_override,
    read_yaml,
)
from mergenet.experiment import Experiment, load_experiment, recipes
from mergenet.method.distill import kd, nkd
from mergenet.method.options import TransferOptions
from mergenet.optimization import AdamW, Optimizer, Sgd
from tests.conftest import MISSING
from tests.refused import refusal


class Inner(Options):
    depth: int = 1
    width: float = 2.0


class Outer(Options):
    rate: float = 1.0
    steps: Listed[int] = (1,)
    flag: bool = False
    word: str = "word"
    inner: Inner = Inner(width=9.0)
    named: dict[str, Inner] = {}
    optimizer: Optimizer = AdamW(lr=1e-4)


# --- strictness --------------------------------------------------------------------------------------------------

REFUSED: list[Any] = [
    ({"ratee": 1.0}, "ratee: unknown key; nearest is 'rate'"),
    ({"inner": {"dept": 1}}, "inner.dept: unknown key; nearest is 'depth'"),
    ({"named": {"a": {"widht": 1.0}}}, "named.a.widht: unknown key; nearest is 'width'"),
    ({"optimizer": {"sgd": {"lrr": 1.0}}}, "optimizer.sgd.lrr: unknown key; nearest is 'lr'"),
    ({"zzzzzz": 1}, "zzzzzz: unknown key; there is flag, inner, named, optimizer, rate, steps, word"),
    ({"rate": "1"}, "rate: input should be a valid number, got '1'"),
    ({"rate": True}, "rate: input should be a valid number, got True"),
    ({"rate": float("nan")}, "rate: input should be a finite number, got nan"),
    ({"rate": float("-inf")}, "rate: input should be a finite number, got -inf"),
    ({"flag": 1}, "flag: input should be a valid boolean, got 1"),
    ({"word": 1}, "word: input should be a valid string, got 1"),
    ({"steps": 1}, "steps: input should be a valid tuple, got 1"),
    ({"steps": [1, 1.5]}, "steps.1: input should be a valid integer, got 1.5"),
    ({"inner": None}, "inner: input should be a valid dictionary"),
    ({"optimizer": {"sdg": {}}}, "optimizer: unknown choice 'sdg'; nearest is 'sgd'"),
    ({"optimizer": "sdg"}, "optimizer: unknown choice 'sdg'; nearest is 'sgd'"),
    ({"optimizer": {"sgd": {}, "adamw": {}}}, "optimizer: a choice is one word or a map with one key"),
    ({"optimizer": {}}, "optimizer: a choice is one word or a map with one key, got {}"),
    ({"optimizer": 3}, "optimizer: a choice is one word or a map with one key, got 3"),
    ({"optimizer": {"sgd": {"lr": 0.0}}}, "optimizer.sgd.lr: input should be greater than 0, got 0.0"),
    ({1: 2}, "1: keys should be strings"),
    ({"a\nb": 1}, "a b: unknown key"),
    ([1], "input should be a valid dictionary"),
    (None, "input should be a valid dictionary"),
]


@pytest.mark.parametrize(("values", "start"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_by_its_path(values: Any, start: str) -> None:
    assert refusal(lambda: parse(Outer, values)).startswith(start)


def test_an_absent_field_is_named_as_missing() -> None:
    assert refusal(lambda: parse(TransferOptions, {"from": "a.b"})) == "to: is missing"


def test_an_alias_replaces_the_field_name_in_files_and_errors() -> None:
    refused = refusal(lambda: parse(TransferOptions, {"from": "a.b", "to": "c.d", "source": "a.b"}))
    assert refused.startswith("source: unknown key; ") and "from" in refused


def test_a_whole_number_is_a_number() -> None:
    assert parse(Outer, {"rate": 3}).rate == 3.0


def test_options_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(Outer, {}).rate = 2.0  # type: ignore[misc]


# --- YAML --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E-4", 0.0005),
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("012", 12),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("{a: {}}", {"a": {}}),
    ],
)
def test_yaml_is_of_version_1_2(text: str, value: Any) -> None:
    found = read_yaml(f"key: {text}", "file.yaml")["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}",
        "a: [",
        "a: b: c",
        "a: *nowhere",
        "\x00",
        "--- 1\n--- 2",
        "a: !!python/tuple x",
    ],
)
def test_broken_yaml_is_refused_in_one_line_that_names_the_file(text: str) -> None:
    assert refusal(lambda: read_yaml(text, "file.yaml")).startswith("file.yaml")


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    assert refusal(lambda: read_yaml("a: 1\nb: 1\na: 2\n", "file.yaml")).startswith("file.yaml line 3: ")


@pytest.mark.parametrize("text", ["a: 2020-99-99", "a: !!int x", "a: !!bool x", "a: " + "[" * 2000])
def test_yaml_values_that_cannot_be_made_are_refused_too(text: str) -> None:
    assert refusal(lambda: read_yaml(text, "file.yaml")).startswith("file.yaml")


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"word", b"\xff\xfe\x00"])
def test_a_file_without_a_map_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    assert refusal(lambda: read_file(path)).startswith(str(path))


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    assert refusal(lambda: read_file(tmp_path / "none.yaml")).startswith(f"{tmp_path / 'none.yaml'}: cannot be read")


# --- overrides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=1e-3", {"a": {"b": {"c": 0.001}}}),
        ("a=x=y", {"a": "x=y"}),
        ("a={b: on}", {"a": {"b": "on"}}),
        ("a=[1, 2]", {"a": [1, 2]}),
    ],
)
def test_an_override_is_a_nested_map(text: str, values: dict[str, Any]) -> None:
    assert read_override(text) == values


@pytest.mark.parametrize("text", ["a", "", "=", "=1", "a.=1", ".a=1", "a..b=1", "a={", "a={x: 1, x: 2}", "a=b: c: d"])
def test_a_bad_override_is_quoted_in_one_line(text: str) -> None:
    assert refusal(lambda: read_override(text)).startswith(f"override '{text}'")


def test_an_override_changes_one_value_and_keeps_its_neighbours() -> None:
    changed = load_experiment("digits-cross-structure", ["transfers.main.encoding.svd.iterations=3"])
    encoding = changed.dump()["transfers"]["main"]["encoding"]["svd"]
    assert encoding["rank"] == 4 and encoding["iterations"] == 3


def test_later_overrides_win() -> None:
    assert load_experiment("digits-cross-structure", ["checkpoint.every=1", "checkpoint.every=2"]).checkpoint.every == 2


# --- choices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "optimizer"),
    [
        ("sgd", Sgd()),
        ({"sgd": {}}, Sgd()),
        ({"sgd": None}, Sgd()),
        ({"sgd": {"lr": 1}}, Sgd(lr=1.0)),
        ("adamw", AdamW(lr=1e-4)),
        ({"adamw": {}}, AdamW(lr=1e-4)),
        ({"adamw": {"weight_decay": 0.0}}, AdamW(lr=1e-4, weight_decay=0.0)),
        ({"adamw": None}, AdamW(lr=1e-4)),
    ],
)
def test_a_choice_keeps_the_defaults_of_its_field_under_the_same_key(given: Any, optimizer: Options) -> None:
    assert parse(Outer, {"optimizer": given}).optimizer == optimizer


@pytest.mark.parametrize(
    ("base", "change", "merged"),
    [
        ({"sgd": {"lr": 1.0, "momentum": 0.5}}, {"sgd": {"lr": 2.0}}, {"sgd": {"lr": 2.0, "momentum": 0.5}}),
        ({"sgd": {"lr": 1.0}}, "sgd", {"sgd": {"lr": 1.0}}),
        ({"sgd": {"lr": 1.0}}, {"adamw": {"lr": 2.0}}, {"adamw": {"lr": 2.0}}),
        ({"sgd": {"lr": 1.0}}, "adamw", {"adamw": {}}),
        ("sgd", {"sgd": {"lr": 2.0}}, {"sgd": {"lr": 2.0}}),
        (Sgd(lr=0.5, momentum=0.0), {"adamw": {}}, {"adamw": {}}),
    ],
)
def test_the_same_key_merges_and_another_key_replaces(base: Any, change: Any, merged: Any) -> None:
    assert merge(Choice(sgd=Sgd, adamw=AdamW), base, change) == merged


def test_an_override_of_the_adapters_optimizer_keeps_its_small_rate() -> None:
    path = "transfers.main.optimizer"
    changed = load_experiment("digits-cross-structure", [f"{path}.adamw.weight_decay=0.0"]).transfers["main"]
    assert changed.optimizer == AdamW(lr=1e-4, weight_decay=0.0)
    other = load_experiment("digits-cross-structure", [f"{path}=sgd"]).transfers["main"]
    assert other.optimizer == Sgd()


def test_named_things_merge_key_by_key_and_sequences_are_replaced() -> None:
    base = {"named": {"a": {"depth": 2}}, "steps": [1, 2]}
    merged = merge(Outer, base, {"named": {"b": {"depth": 3}}, "steps": [4]})
    assert merged == {"named": {"a": {"depth": 2}, "b": {"depth": 3}}, "steps": [4]}


def test_merging_leaves_its_inputs_alone() -> None:
    base, change = {"inner": {"depth": 2}}, {"inner": {"width": 3.0}}
    merge(Outer, base, change)
    assert base == {"inner": {"depth": 2}} and change == {"inner": {"width": 3.0}}


def test_a_partial_map_keeps_the_defaults_of_its_field() -> None:
    assert parse(Outer, {"inner": {"depth": 3}}).inner == Inner(depth=3, width=9.0)


# --- identity ----------------------------------------------------------------------------------------------------


class First(Options):
    """A release."""

    optimizer: Optimizer = Sgd()
    rate: float = 1.0


class Second(Options):
    """The next release: other order, and a field whose neutral value is not its default."""

    added: Annotated[int, Neutral(0)] = 1
    rate: float = 1.0
    optimizer: Optimizer = Sgd()


class Changed(Options):
    """A release with another default."""

    optimizer: Optimizer = Sgd()
    rate: float = 2.0


def name_of(options: Options) -> str:
    return digest(identity(options))


def test_a_new_field_at_its_neutral_value_leaves_the_hash_as_it_was() -> None:
    assert name_of(Second(added=0)) == name_of(First())
    assert name_of(Second(added=0, rate=3.0)) == name_of(First(rate=3.0))


def test_a_new_field_counts_at_any_other_value_even_its_default() -> None:
    assert len({name_of(First()), name_of(Second()), name_of(Second(added=2))}) == 3


def test_a_changed_default_shows_in_the_hash() -> None:
    assert name_of(Changed()) != name_of(First())
    assert name_of(Changed(rate=1.0)) == name_of(First())


def test_a_neutral_field_inside_a_choice_a_map_and_options_counts_alike() -> None:
    class Holder(Options):
        one: First | Second = First()
        chosen: Annotated[First | Second, Choice(it=First)] = First()
        named: dict[str, First] = {}

    class Next(Options):
        one: Second = Second()
        chosen: Annotated[Second | First, Choice(it=Second)] = Second()
        named: dict[str, Second] = {}

    old = Holder(named={"a": First()})
    new = Next(one=Second(added=0), chosen=Second(added=0), named={"a": Second(added=0)})
    assert name_of(new) == name_of(old)


def test_an_alias_is_what_counts_and_an_excluded_field_does_not() -> None:
    experiment = load_experiment("digits-cross-structure")
    plain = identity(experiment)
    assert "training" not in plain
    assert {"from", "to"} <= plain["transfers"]["main"].keys()
    assert plain["learners"]["target"]["copy"] == 0


def test_a_digest_depends_on_no_order_and_takes_no_nan() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


# --- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", recipes())
def test_what_is_dumped_reads_back_the_same_as_json_and_as_yaml(recipe: str) -> None:
    experiment = load_experiment(recipe, MISSING.get(recipe, []))
    dumped = experiment.dump()
    by_json = parse(Experiment, json.loads(json.dumps(dumped)))
    by_yaml = parse(Experiment, read_yaml(as_yaml(dumped), "dump"))
    assert by_json.dump() == by_yaml.dump() == dumped
    assert name_of(by_json) == name_of(by_yaml) == name_of(experiment)


NAMED = Choice(named={"kd": {"soft": kd.Kd(temperature=9.0), "hard": kd.Kd(soft_targets=0.0)}}, kd=kd.Kd, nkd=nkd.Nkd)


class Taught(Options):
    loss: Annotated[kd.Kd | nkd.Nkd, NAMED] = kd.Kd()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("kd/soft", kd.Kd(temperature=9.0)),
        ({"kd/soft": None}, kd.Kd(temperature=9.0)),
        ({"kd/soft": {"cross_entropy": 0.5}}, kd.Kd(temperature=9.0, cross_entropy=0.5)),
        ("kd/hard", kd.Kd(soft_targets=0.0)),
    ],
)
def test_a_choice_may_be_said_by_a_published_name(said: Any, meant: kd.Kd) -> None:
    assert parse(Taught, {"loss": said}).loss == meant
    assert parse(Taught, {"loss": said}).dump() == {"loss": {"kd": meant.dump()}}


def test_a_name_replaces_all_values_and_is_changed_by_path() -> None:
    before = {"loss": {"kd": {"temperature": 2.0, "soft_targets": 0.3}}}
    assert parse(Taught, merge(Taught, before, {"loss": "kd/soft"})).loss == kd.Kd(temperature=9.0)
    after = merge(Taught, {"loss": "kd/soft"}, {"loss": {"kd": {"soft_targets": 0.1}}})
    assert parse(Taught, after).loss == kd.Kd(temperature=9.0, soft_targets=0.1)
    assert parse(Taught, merge(Taught, {"loss": "nkd"}, {"loss": "kd/soft"})).loss == kd.Kd(temperature=9.0)


def test_an_unknown_name_is_refused() -> None:
    refused = "no published values 'kd/sofd'; nearest is 'kd/soft'"
    with pytest.raises(InputError, match=refused):
        parse(Taught, {"loss": "kd/sofd"})
    with pytest.raises(InputError, match=f"^{refused}$"):
        merge(Taught, {"loss": "kd"}, {"loss": "kd/sofd"})
