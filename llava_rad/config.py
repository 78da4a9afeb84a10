"""Typed configurations: a dataclass, a YAML file, and ``key=value`` overrides.

A program states its settings once, as a dataclass with defaults. A YAML file sets some of them,
the command line sets a few more, and every value is checked against the field's type before any
work starts. An unknown key is an error that names the nearest known key, so that a misspelt
setting is never silently ignored.

A dataclass that names one of its fields as ``SHORT`` may be given as the value of that field alone,
and a list of such dataclasses as one of them: ``data.sources=my.jsonl`` is
``data.sources=[{path: my.jsonl}]``.

A number states its range in its type, ``Annotated[float, Range(0, 1)]`` or one of the names below,
and is refused outside it. A number without a finite value is refused everywhere.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from llava_rad.errors import ConfigError, shown
from llava_rad.files import write_text
from llava_rad.readers import parse_yaml, read_text

ConfigClass = TypeVar("ConfigClass")

# Numbers that fit no 64-bit integer fit nothing that a setting counts.
_LARGEST = 2**63


@dataclasses.dataclass(frozen=True)
class Range:
    """Marks the range of a number in its type; None is no bound.

    Attributes:
        low: smallest value.
        high: largest value.
        above: bound that the value lies above.
        below: bound that the value lies below.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        bounds = (
            ("at least", self.low),
            ("above", self.above),
            ("at most", self.high),
            ("below", self.below),
        )
        said = " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
        return said or "a number with a finite value"


@dataclasses.dataclass(frozen=True)
class Ascending:
    """Marks a pair whose second value may not be below its first."""


#: A number above 0.
Positive = Annotated[float, Range(above=0)]
#: A number of at least 0.
NonNegative = Annotated[float, Range(0)]
#: A probability, or a share of a whole.
Share = Annotated[float, Range(0, 1)]
#: A whole number of at least 1.
Count = Annotated[int, Range(1)]
#: What NumPy, torch and Python all take.
Seed = Annotated[int, Range(0, 2**32 - 1)]
#: How many processes read or cut; 0 leaves it to the one that trains.
Workers = Annotated[int, Range(0, 1024)]
#: A momentum: below 1, or nothing would ever change.
Momentum = Annotated[float, Range(0, below=1)]


def load_config(
    config_class: type[ConfigClass],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> ConfigClass:
    """Build a configuration from a YAML file and overrides.

    A file may name another with ``base: FILE``, relative to its own folder: it then states only
    what differs. Mappings are merged key by key; other values, lists too, are replaced.

    Field types may be ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``, ``Any``,
    dataclasses, ``list[T]``, ``tuple[T, ...]``, ``tuple[T, U]``, ``dict[str, T]``, unions of these
    with ``None``, and any of them ``Annotated`` with :class:`Range` or :class:`Ascending`.

    Args:
        config_class: a dataclass.
        path: YAML file; ``None`` starts from the dataclass's defaults.
        overrides: ``"key=value"`` strings, applied in order after the file. Keys of nested
            dataclasses are joined by dots and an element of a list is reached by its index
            (``"optimiser.lr=1e-4"``, ``"data.0.weight=2"``). Values are YAML (``"sizes=[224]"``,
            ``"name=null"``).

    Raises:
        ConfigError: a file cannot be read or is its own base, or a key is unknown or missing, or
            a value has the wrong type or lies outside its range. A ``ConfigError`` raised by a
            ``__post_init__`` is passed on with its place.
    """
    source = "overrides" if path is None else str(path)
    values = {} if path is None else read_values(Path(path))
    for override in overrides:
        _apply_override(values, override, config_class)
    return _build(config_class, values, source, "")


def save_config(config: Any, path: str | Path) -> None:
    """Write a configuration as YAML that :func:`load_config` reads back to an equal object."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain dictionaries, lists and scalars, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(config_class: type[ConfigClass], values: Mapping[str, Any]) -> ConfigClass:
    """Build a configuration from plain values, checked as :func:`load_config` checks a file.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    return _build(config_class, dict(values), config_class.__name__, "")


def check_ranges(config: Any) -> None:
    """Check the numbers of a dataclass against their types, however it was made.

    :func:`load_config` and :func:`from_dict` do so on their own; a dataclass that Python code makes
    too calls this in its ``__post_init__``.

    Raises:
        ConfigError: a number is of another type or lies outside its range.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        if field.init:
            try:
                _check(hints[field.name], getattr(config, field.name), field.name)
            except ConfigError as error:
                error.where = type(config).__name__
                raise


def _check(hint: Any, value: Any, name: str) -> None:
    """Check the numbers in ``value``; other values are the business of their own types."""
    marks, hint = _marks(hint)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # None, words and lists beside a number: the option of the value's own kind counts.
        for option in options:
            base = _marks(option)[1]
            number = isinstance(value, int | float) and base in (int, float)
            several = isinstance(value, list | tuple | dict)
            if number or (several and typing.get_origin(base) is type(value)):
                _check(option, value, name)
        return
    if hint in (int, float):
        whole = hint is float or isinstance(value, int)
        if isinstance(value, bool) or not isinstance(value, int | float) or not whole:
            raise _wrong(value, _describe(hint), "", name)
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        items = options if len(options) == len(value) and Ellipsis not in options else ()
        for index, item in enumerate(value):
            _check(items[index] if items else options[0], item, f"{name}.{index}")
    elif origin is dict and isinstance(value, Mapping):
        for key, item in value.items():
            _check(options[1], item, _join(name, key))
    _check_marks(marks, hint, value, "", name)


def _marks(hint: Any) -> tuple[list[Any], Any]:
    """The marks of an annotated type, and the type without them."""
    marks: list[Any] = []
    while typing.get_origin(hint) is Annotated:
        marks += hint.__metadata__
        hint = hint.__origin__
    return marks, hint


def _check_marks(marks: list[Any], hint: Any, value: Any, source: str, name: str) -> None:
    ranges = [mark for mark in marks if isinstance(mark, Range)]
    if hint in (int, float) and not (-_LARGEST < value < _LARGEST and math.isfinite(value)):
        said = str(ranges[0] if ranges else Range())
        if math.isfinite(value) and (not ranges or value in ranges[0]):
            said += " and of a size below 2**63"
        raise _outside(value, said, source, name)
    for mark in ranges:
        if value not in mark:
            raise _outside(value, mark, source, name)
    if any(isinstance(mark, Ascending) for mark in marks) and value[1] < value[0]:
        raise ConfigError(
            f"{name!r} must go from the smaller to the larger value, got {shown(list(value))}",
            where=source or None,
            remedy="Swap them",
            kind="out_of_range",
        )


def _outside(value: Any, said: object, source: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name!r} must be {said}, got {shown(value)}",
        where=source or None,
        remedy="Give a value inside this range",
        kind="out_of_range",
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(
        path,
        error=ConfigError,
        failure="cannot read the configuration",
        remedy="Give the path of a YAML file, such as those under configs/",
    )
    values = parse_yaml(text, where=path, error=ConfigError)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"the file holds a {type(values).__name__}, not key: value lines", where=path
        )
    return values


def read_values(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Values of a file on top of those of the files that it is based on."""
    try:
        place = path.resolve()
    except (OSError, ValueError, RuntimeError):  # of a name that no file can have
        place = path
    if place in above:
        raise ConfigError(
            "the file is its own base, directly or through others",
            where=path,
            remedy="Take one of the base: lines out",
            kind="base_cycle",
        )
    values = _read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(
            f"'base' must be a file's name, got {shown(base)}", where=path, remedy="Give its path"
        )
    return _merged(read_values(path.parent / base, (*above, place)), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def _apply_override(values: dict[str, Any], override: str, config_class: type) -> None:
    key, separator, text = override.partition("=")
    key = key.strip().removeprefix("--")
    if not separator or not key or key.count(".") > 20:
        raise ConfigError(
            "an override must look like key=value",
            where=shown(override),
            remedy="Write for example training.steps=100",
        )
    try:
        value = parse_yaml(text, where=shown(override), error=ConfigError)
    except ConfigError as error:
        raise ConfigError(
            error.what,
            where=shown(override),
            remedy="Quote text that holds : or [",
            kind=error.kind,
        ) from error
    target: Any = values
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(target, list):
            target = target[_list_index(target, part, override)]
        else:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        if not isinstance(target, (dict, list)):
            raise ConfigError(
                f"{part!r} is a single value and has no keys below it",
                where=shown(override),
                remedy=f"Known keys: {', '.join(_field_names(config_class))}",
            )
    if isinstance(target, list):
        target[_list_index(target, last, override)] = value
    else:
        target[last] = value


def _list_index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(items):
        raise ConfigError(
            f"{shown(part)} is not an index into a list of {len(items)}",
            where=shown(override),
            remedy="Count from 0, or give the whole list in brackets",
        )
    return int(part)


def _field_names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class) if field.init]


def _short(kind: Any) -> str | None:
    """The field that may stand for a whole dataclass."""
    return getattr(kind, "SHORT", None) if dataclasses.is_dataclass(kind) else None


def _build(config_class: type[ConfigClass], values: Any, source: str, prefix: str) -> ConfigClass:
    short = _short(config_class)
    if short is not None and isinstance(values, str):
        values = {short: values}
    where = f"{source}, {prefix}" if prefix else source
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"expected keys of {config_class.__name__}, got {shown(values)}",
            where=where,
            remedy=f"Known keys: {', '.join(_field_names(config_class))}",
        )
    known = _field_names(config_class)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:100], known, n=1, cutoff=0.5)
            remedy = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"unknown key {shown(_join(prefix, key))}",
                where=source,
                remedy=f"{remedy}Known keys: {', '.join(known)}",
                kind="unknown_key",
            )
    hints = typing.get_type_hints(config_class, include_extras=True)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if not field.init:
            continue
        if field.name in values:
            name = _join(prefix, field.name)
            arguments[field.name] = _convert(hints[field.name], values[field.name], source, name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"key {_join(prefix, field.name)!r} is missing",
                where=source,
                remedy="Set it in the file or as an override",
                kind="missing_key",
            )
    try:
        return config_class(**arguments)
    except ConfigError as error:
        if error.where is not None and error.where.startswith(source):
            raise
        place = ", ".join(part for part in (source, prefix, error.where) if part)
        raise ConfigError(error.what, where=place, remedy=error.remedy, kind=error.kind) from error


def _join(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _convert(hint: Any, value: Any, source: str, name: str) -> Any:
    """Return ``value`` as the type ``hint``, or raise a ConfigError that names the key."""
    marks, plain = _marks(hint)
    if marks or plain in (int, float):
        converted = _converted(plain, value, source, name)
        _check_marks(marks, plain, converted, source, name)
        return converted
    return _converted(hint, value, source, name)


def _converted(hint: Any, value: Any, source: str, name: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, source, name)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in options):
            return value
        raise _wrong(value, _describe(hint), source, name)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, source, name)
    if origin is list and isinstance(value, str | Mapping) and _short(options[0]) is not None:
        value = [value]
    if origin is list and isinstance(value, (list, tuple)):
        return [
            _convert(options[0], item, source, f"{name}.{index}")
            for index, item in enumerate(value)
        ]
    if origin is tuple and isinstance(value, (list, tuple)):
        if options[-1] is Ellipsis:
            item_hints = [options[0]] * len(value)
        elif len(options) == len(value):
            item_hints = list(options)
        else:
            raise _wrong(value, f"{len(options)} values", source, name)
        return tuple(
            _convert(item_hint, item, source, f"{name}.{index}")
            for index, (item_hint, item) in enumerate(zip(item_hints, value, strict=True))
        )
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            _convert(options[0], key, source, name): _convert(
                options[1], item, source, _join(name, key)
            )
            for key, item in value.items()
        }
    if hint is float and not isinstance(value, bool):
        # A number in quotes counts, as "1e-4" does.
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except (TypeError, ValueError):
            raise _wrong(value, "a number", source, name) from None
    if hint is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if hint in (bool, int, str, type(None)) and type(value) is hint:
        return value
    raise _wrong(value, _describe(hint), source, name)


def _convert_union(options: tuple[Any, ...], value: Any, source: str, name: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _convert(options[0], value, source, name)
    # An exact type wins over one that merely converts, so that `int | float` keeps 3 an int.
    for option in sorted(options, key=lambda option: type(value) is not _marks(option)[1]):
        try:
            return _convert(option, value, source, name)
        except ConfigError as error:
            if error.kind == "out_of_range":  # of the right type: the others are no better
                raise
    raise _wrong(value, " or ".join(_describe(option) for option in options), source, name)


def _wrong(value: Any, expected: str, source: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name!r} must be {expected}, got {shown(value)}",
        where=source or None,
        remedy="Correct the value",
        kind="wrong_type",
    )


_DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (quote it)",
    Path: "a path",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}


def _describe(hint: Any) -> str:
    hint = _marks(hint)[1]
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    origin = typing.get_origin(hint) or hint
    return _DESCRIPTIONS.get(origin, getattr(origin, "__name__", str(origin)))
