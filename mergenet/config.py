"""Strict, hashable options: typed fields, one-key choices, overrides by path, errors of one line.

A file of options is YAML 1.2. It is read as plain maps, changed by `merge` while it is still plain,
and only then validated whole by `parse`, so that an error names the path the user wrote.
"""

import difflib
import hashlib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound="Options")


class InputError(ValueError):
    """What the user gave is wrong. One line: what is wrong and what would be right (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def about(what: str) -> Iterator[None]:
    """Says of whatever is refused within what it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


class Options(BaseModel):
    """Base of all options: unknown keys refused, types strict, values frozen, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        """Lays what a file says of a field over the field's own default: `adamw: {lr: 1}` keeps the other values."""
        if not isinstance(values, dict):
            return values
        laid = dict(values)
        for name, info in cls.model_fields.items():
            key = info.alias or name
            if isinstance(info.default, Options) and isinstance(laid.get(key), dict | str):
                laid[key] = merge(fields_of(cls)[key], info.default, laid[key])
        return laid

    def dump(self) -> dict[str, Any]:
        """The options as plain JSON values under the names a file uses; `parse` reads it back."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class Neutral:
    """Marks a field added after the first release with the value that means "as before the field existed".

    `identity` leaves the field out while it has this value, so a new option does not void old results,
    and a default that changes later does not relabel them.
    """

    value: Any


class Choice:
    """Marks a field that is one of several options, written as a one-key map: `{svd: {rank: 8}}`.

    A bare word `svd` means `{svd: {}}`. Under `merge`, another key replaces the choice whole and the
    same key merges. `word/name` stands for the option with the values published under a name, others laid over them.

    Args:
        named: word -> name -> values.
        options: word -> class.
    """

    def __init__(self, named: Mapping[str, Mapping[str, Options]] | None = None, **options: type[Options]) -> None:
        self.options = options
        self.named = {f"{word}/{name}": values for word, of in (named or {}).items() for name, values in of.items()}

    def key_of(self, value: Options) -> str:
        """The word under which `value`'s class is listed; the dotted name of a class of the user's own."""
        own = f"{type(value).__module__}.{type(value).__qualname__}"
        return next((key for key, option in self.options.items() if type(value) is option), own)

    def lists(self, value: Any) -> bool:
        """Whether `value` is of a class that is listed."""
        return type(value) in self.options.values()

    def as_map(self, value: Any) -> Any:
        """`value` (a word, a map or an instance) as a one-key map; anything else unchanged."""
        if isinstance(value, str):
            value = {value: {}}
        if isinstance(value, dict) and len(value) == 1:
            ((key, options),) = value.items()
            return self._spelt_out(key, {} if options is None else options)
        if isinstance(value, Options) and self.lists(value):
            return {self.key_of(value): value}
        return value

    def _spelt_out(self, key: Any, options: Any) -> dict[Any, Any]:
        """`options` under `key`; where that is `word/name`, over the values of that name.

        Raises:
            InputError: nothing is published under that name.
        """
        if key not in self.named:
            if "/" in str(key):
                raise InputError(f"no published values '{key}'; {nearest(str(key), self.named)}")
            return {key: options}
        word = key.partition("/")[0]
        return {word: merge(self.options[word], self.named[key], options)}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def discriminate(value: Any) -> str | None:
            one_key = isinstance(value, dict) and len(value) == 1
            return str(next(iter(value))) if one_key else None

        def branch(key: str, option: type[Options]) -> CoreSchema:
            return core_schema.no_info_before_validator_function(
                lambda value: value[key], handler.generate_schema(option)
            )

        branches = {key: branch(key, option) for key, option in self.options.items()}
        union = core_schema.tagged_union_schema(branches, discriminate)
        return core_schema.no_info_before_validator_function(
            self.as_map,
            union,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: {self.key_of(value): value.dump()}
            ),
        )


Listed = Annotated[tuple[T, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""A YAML sequence, kept as a tuple."""


# --- reading -----------------------------------------------------------------------------------------------------


def read_yaml(text: str, name: str) -> Any:
    """Plain values of a YAML 1.2 text; `name` says in errors where it stood."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # ruamel's constructors raise whatever Python does for a value like 2020-99-99
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise InputError(f"{name}{where}: not YAML: {problem}") from None


def read_file(path: Path) -> dict[str, Any]:
    """The map in a YAML file."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: {'is empty' if values is None else 'holds no map'}; options stand as `key: value`")
    return values


def read_override(text: str) -> dict[str, Any]:
    """`a.b.c=value` as the nested map `{a: {b: {c: value}}}`, the value read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"override '{text}': write it as path=value, for example training.epochs=3")
    return nest(path, read_yaml(value, f"override '{text}'"))


def nest(path: str, value: Any) -> dict[str, Any]:
    """`value` at the dotted `path` of nested maps."""
    first, _, rest = path.partition(".")
    return {first: nest(rest, value) if rest else value}


def parse(kind: type[OptionsT], values: Any) -> OptionsT:
    """`values` validated as `kind`.

    Raises:
        InputError: the first thing wrong, by its path, with the nearest right name where one exists.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(kind, error)) from None


# --- walking and merging by type ---------------------------------------------------------------------------------


def fields_of(kind: type[Options]) -> dict[str, Any]:
    """Field name as a file writes it -> the kind of its value (see `_kind`)."""
    return {info.alias or name: _kind(info.annotation, info.metadata) for name, info in kind.model_fields.items()}


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> Any:
    """A `Choice`, an `Options` class, `dict[str, ...]`, or anything else for a plain value."""
    for mark in metadata:
        if isinstance(mark, Choice):
            return mark
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return _kind(inner, marks)
    if get_origin(annotation) in (Union, types.UnionType):
        some = [part for part in get_args(annotation) if part is not type(None)]
        return _kind(some[0]) if len(some) == 1 else annotation
    return annotation


def _child(kind: Any, key: Any) -> Any:
    if isinstance(kind, Choice):
        return kind.options.get(str(key).partition("/")[0])
    if get_origin(kind) is dict:
        return _kind(get_args(kind)[1])
    if isinstance(kind, type) and issubclass(kind, Options):
        return fields_of(kind).get(key)
    return None


def merge(kind: Any, base: Any, change: Any) -> Any:
    """`base` with `change` laid over it, both plain values of `kind` (see `_kind`).

    Maps of named things and options merge key by key; a choice merges under the same key and is
    replaced whole by another; every other value is replaced.
    """
    if isinstance(base, Options):
        base = kind.as_map(base) if isinstance(kind, Choice) else base.dump()
    if isinstance(kind, Choice):
        base, change = kind.as_map(base), kind.as_map(change)
        if isinstance(base, dict) and isinstance(change, dict) and base.keys() != change.keys():
            return change
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    merged = dict(base)
    for key, value in change.items():
        merged[key] = merge(_child(kind, key), base[key], value) if key in base else value
    return merged


def choices_along(kind: type[Options], path: str) -> list[tuple[str, str]]:
    """The choices that a dotted path of `kind` goes through: (path of the choice, the option it takes there)."""
    found: list[tuple[str, str]] = []
    here, at = kind, list[str]()
    for word in path.split("."):
        if isinstance(here, Choice):
            found.append((".".join(at), word))
        at.append(word)
        here = _child(here, word)
    return found


def nearest(word: str, words: Iterable[str], most: int = 12) -> str:
    """ "nearest is 'x'" where something is near, else what there is: the tail of an error line."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"nearest is '{close[0]}'"
    listed = ", ".join(known[:most]) + (", ..." if len(known) > most else "")
    return f"there is {listed}" if known else "there is none"


def _explain(kind: type[Options], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = [part for part in first["loc"] if isinstance(part, str | int)]
    path = ".".join(str(part) for part in where)
    prefix = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        owner: Any = kind
        for part in where[:-1]:
            owner = _child(owner, part)
        return f"{prefix}unknown key; {nearest(str(where[-1]), fields_of(owner))}"
    if first["type"] == "missing":
        return f"{prefix}is missing"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        words = [word.strip("' ") for word in str(context["expected_tags"]).split(",")]
        return f"{prefix}unknown choice '{context['tag']}'; {nearest(str(context['tag']), words)}"
    if first["type"] == "union_tag_not_found":
        return f"{prefix}a choice is one word or a map with one key, got {first['input']!r}"
    if first["type"] == "string_pattern_mismatch":
        dot = "'.', " if "." in first["ctx"]["pattern"] else ""
        return f"{prefix}may hold letters, digits, {dot}'_' and '-', got {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{prefix}{message}"
    return f"{prefix}{message[:1].lower()}{message[1:]}, got {first['input']!r}"


# --- identity ----------------------------------------------------------------------------------------------------


def identity(options: Options) -> Any:
    """What of `options` counts for a hash: its dump without the fields at their `Neutral` value."""
    plain: dict[str, Any] = {}
    for name, info in type(options).model_fields.items():
        value = getattr(options, name)
        if info.exclude or any(isinstance(mark, Neutral) and mark.value == value for mark in info.metadata):
            continue
        kind = _kind(info.annotation, info.metadata)
        plain[info.alias or name] = _identity_of(kind, value)
    return plain


def _identity_of(kind: Any, value: Any) -> Any:
    if isinstance(kind, Choice) and value is not None:
        return {kind.key_of(value): identity(value)}
    if isinstance(value, Options):
        return identity(value)
    if isinstance(value, dict):
        return {key: _identity_of(_child(kind, key), item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value (sorted keys, no spaces, no NaN)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as block YAML, keys in their order, leaf maps on a line of their own."""
    import io

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(dict(values), stream)
    return stream.getvalue()


UNPRINTED = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
"""What YAML takes for the end of a line, or does not take, and JSON leaves as it is."""


def in_line(value: Any) -> str:
    """A plain value as YAML on one line, which `read_override` reads back: words bare, all else as JSON."""
    if isinstance(value, str) and value.strip() == value and value:
        try:
            if read_yaml(value, "a word") == value:
                return value
        except InputError:
            pass
    return re.sub(UNPRINTED, lambda mark: f"\\u{ord(mark[0]):04x}", json.dumps(value, ensure_ascii=False))
