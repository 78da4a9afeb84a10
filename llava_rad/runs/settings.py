"""How the settings of two runs differ."""

import json
from typing import Any

_ABSENT = object()


def differences(before: Any, now: Any) -> list[str]:
    """Every setting that differs, by its dotted name, with both values.

    Args:
        before: settings of a run as its checkpoint holds them.
        now: those it is started with.

    Returns:
        For example ``finetune.epochs: 2 in the run, 3 now``.
    """
    return _walk(before, json.loads(json.dumps(now)), "")


def _walk(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys: Any = [*before, *(key for key in now if key not in before)]
        parts = [(key, before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys]
    elif (
        isinstance(before, list)
        and isinstance(now, list)
        and len(before) == len(now)
        and any(isinstance(item, dict) for item in before + now)
    ):
        parts = [(index, *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        same = (type(before) is type(now) and before == now) or _equal_numbers(before, now)
        return [] if same else [f"{name}: {_shown(before)} in the run, {_shown(now)} now"]
    return [
        found
        for key, old, new in parts
        for found in _walk(old, new, f"{name}.{key}" if name else str(key))
    ]


def _equal_numbers(before: Any, now: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, now))
    return numbers and before == now


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
