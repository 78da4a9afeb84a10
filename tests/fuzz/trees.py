"""Damage to what JSON and YAML hold: values of the wrong type, huge, deep, odd."""

import copy
import json
from random import Random
from typing import Any

# Stand for text that json.dumps would not write.
_RAW = {
    "@RAW-DIGITS@": "7" * 5000,
    "@RAW-HUGE@": "1e999",
    "@RAW-SMALL@": "-1e999",
    "@RAW-DEEP-LIST@": "[" * 100_000 + "]" * 100_000,
    "@RAW-DEEP-OBJECT@": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@RAW-SOME-DEPTH@": "[" * 900 + "]" * 900,
    "@RAW-SURROGATE@": r'"\ud800 half"',
    "@RAW-NUL@": r'"a\u0000b"',
    "@RAW-NAN@": "NaN",
    "@RAW-BROKEN@": '{"a": ',
    "@RAW-ESCAPE@": r'"\x"',
    "@RAW-TWICE@": '{"a": 1, "a": 2, "path": "x", "path": 3}',
}


def odd_value(rng: Random) -> Any:
    """A value that nobody expects."""
    return rng.choice(
        (
            *(None, True, False, 0, 1, -1, 3.5, -7.25, 10**30, -(10**18), 2**31, 2**63, 1e308),
            *("", " ", "nan", "NaN", "NULL", "N/A", "../../etc/hostname", "/", ".", "a" * 70_000),
            *("\n\n\n", "line\nbreak", "\u202e\u0007", "é" * 300, "1", "-1", "1e999", "true"),
            *([], {}, [[]], [None], [1, "a", None], {"": None}, {"a": {"b": {"c": []}}}, [{}] * 50),
            *(["x"] * 5000, {str(n): n for n in range(500)}),
            *_RAW,
        )
    )


def _places(value: Any, found: list[tuple[Any, Any]], depth: int = 0) -> None:
    if depth > 20:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, dict | list):
            _places(item, found, depth + 1)


def mutated(tree: Any, rng: Random) -> Any:
    """A copy of a tree of dicts and lists with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        if isinstance(tree, dict | list):
            _places(tree, places)
        if not places or rng.random() < 0.02:
            return odd_value(rng)
        holder, key = rng.choice(places)
        way = rng.random()
        if way < 0.6:
            holder[key] = odd_value(rng)
        elif way < 0.7:
            del holder[key]
        elif way < 0.8:
            other_holder, other_key = rng.choice(places)
            try:
                holder[key] = copy.deepcopy(other_holder[other_key])
            except (KeyError, IndexError):
                holder[key] = None
        elif way < 0.9 and isinstance(holder[key], int | float | str):
            holder[key] = _near(holder[key], rng)
        elif isinstance(holder, dict):
            name = (
                key if not isinstance(key, str) else rng.choice((key + "s", key.upper(), "", "x"))
            )
            holder[name] = holder.pop(key)
        else:
            holder.extend([holder[key]] * rng.choice((1, 10, 1000)))
    return tree


def _near(value: Any, rng: Random) -> Any:
    if isinstance(value, str):
        cut = rng.randrange(len(value) + 1)
        return rng.choice(
            (value[:cut], value[:cut] + "\u2028" + value[cut:], value * 50, [value], {value: value})
        )
    return rng.choice((-value, value + 1, value - 1, value * 2, value * 10**6, str(value), [value]))


def to_json(tree: Any, *, indent: int | None = None) -> str:
    """A tree as JSON, the raw pieces of :func:`odd_value` in their places."""
    text = json.dumps(tree, ensure_ascii=False, indent=indent)
    for name, raw in _RAW.items():
        if name in text:
            text = text.replace(f'"{name}"', raw, 1)
    return text


def mutated_json(data: bytes, rng: Random) -> bytes:
    """The bytes of a JSON file, changed as a tree."""
    return to_json(mutated(json.loads(data), rng)).encode("utf-8", "surrogatepass")
