"""Typed configurations: a dataclass, a YAML file, and ``key=value`` overrides.

A program states its settings once, as a dataclass with defaults. A YAML file sets some of them,
the command line sets a few more, and every value is checked against the field's type before any
work starts. An unknown key is an error that names the nearest known key, so that a misspelt
setting is never silently ignored.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from llava_rad.errors import ConfigError
from llava_rad.files import write_text

ConfigClass = TypeVar("ConfigClass")


def load_config(
    config_class: type[ConfigClass],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> ConfigClass:
    """Build a configuration from a YAML file and overrides.

    A file may name another with ``base: FILE``, relative to its own folder: it then states only
    what differs. Mappings are merged key by key; other values, lists too, are replaced.

    Field types may be ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``, ``Any``,
    dataclasses, ``list[T]``, ``tuple[T, ...]``, ``tuple[T, U]``, ``dict[str, T]`` and unions of
    these with ``None``.

    Args:
        config_class: a dataclass.
        path: YAML file; ``None`` starts from the dataclass's defaults.
        overrides: ``"key=value"`` strings, applied in order after the file. Keys of nested
            dataclasses are joined by dots and an element of a list is reached by its index
            (``"optimiser.lr=1e-4"``, ``"data.0.weight=2"``). Values are YAML (``"sizes=[224]"``,
            ``"name=null"``).

    Raises:
        ConfigError: a file cannot be read or is its own base, or a key is unknown or missing, or
            a value has the wrong type. A ``ConfigError`` raised by a ``__post_init__`` is passed on
            with its place.
    """
    source = "overrides" if path is None else str(path)
    values = {} if path is None else _read_with_base(Path(path))
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


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; a configuration with two is a mistake."""


def _construct_unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    repeated = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if repeated is not None:
        raise ConfigError(
            f"key {repeated!r} is given twice",
            where=f"line {node.start_mark.line + 1}",
            remedy="Keep one of them",
        )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique_mapping
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the configuration ({error})",
            where=path,
            remedy="Give the path of a YAML file, such as those under configs/",
        ) from error
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(
            f"not valid YAML ({problem})", where=path, remedy="Correct the line it names"
        ) from error
    except ConfigError as error:
        raise ConfigError(
            error.what, where=f"{path}, {error.where}", remedy=error.remedy
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"the file holds a {type(values).__name__}, not key: value lines", where=path
        )
    return values


def _read_with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Values of a file on top of those of the files that it is based on."""
    if path.resolve() in above:
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
        raise ConfigError(f"'base' must be a file's name, got {base!r}", where=path)
    return _merged(_read_with_base(path.parent / base, (*above, path.resolve())), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def _apply_override(values: dict[str, Any], override: str, config_class: type) -> None:
    key, separator, text = override.partition("=")
    key = key.strip().removeprefix("--")
    if not separator or not key:
        raise ConfigError(
            "an override must look like key=value",
            where=override,
            remedy="Write for example training.steps=100",
        )
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            "the value is not valid YAML", where=override, remedy="Quote text that holds : or ["
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
                where=override,
                remedy=f"Known keys: {', '.join(_field_names(config_class))}",
            )
    if isinstance(target, list):
        target[_list_index(target, last, override)] = value
    else:
        target[last] = value


def _list_index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"{part!r} is not an index into a list of {len(items)}",
            where=override,
            remedy="Count from 0, or give the whole list in brackets",
        )
    return int(part)


def _field_names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class) if field.init]


def _build(config_class: type[ConfigClass], values: Any, source: str, prefix: str) -> ConfigClass:
    where = f"{source}, {prefix}" if prefix else source
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"expected keys of {config_class.__name__}, got {values!r}",
            where=where,
            remedy=f"Known keys: {', '.join(_field_names(config_class))}",
        )
    known = _field_names(config_class)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            remedy = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"unknown key {_join(prefix, key)!r}",
                where=source,
                remedy=f"{remedy}Known keys: {', '.join(known)}",
                kind="unknown_key",
            )
    hints = typing.get_type_hints(config_class)
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
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, source, name)
    if origin is Literal:
        if value in options and type(value) in {type(option) for option in options}:
            return value
        allowed = ", ".join(str(option) for option in options)
        raise _wrong(value, f"one of {allowed}", source, name)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, source, name)
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
    if origin is dict and isinstance(value, Mapping):
        return {
            _convert(options[0], key, source, name): _convert(
                options[1], item, source, _join(name, key)
            )
            for key, item in value.items()
        }
    if hint is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 (no dot) as text.
        try:
            return float(value)
        except (TypeError, ValueError):
            raise _wrong(value, "a number", source, name) from None
    if hint is Path and isinstance(value, str):
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
    for option in sorted(options, key=lambda option: type(value) is not option):
        try:
            return _convert(option, value, source, name)
        except ConfigError:
            continue
    raise _wrong(value, " or ".join(_describe(option) for option in options), source, name)


def _wrong(value: Any, expected: str, source: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name!r} must be {expected}, got {value!r}", where=source, kind="wrong_type"
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
    origin = typing.get_origin(hint) or hint
    return _DESCRIPTIONS.get(origin, getattr(origin, "__name__", str(origin)))
