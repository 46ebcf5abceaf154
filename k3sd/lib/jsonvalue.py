"""Operations on plain JSON values (dict, list, str, int, float, bool, None)."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def clone(value: T) -> T:
    """A deep copy. Only dicts and lists are copied; several times faster than ``copy.deepcopy``, which tracks identity."""
    if isinstance(value, dict):
        return {k: clone(v) if isinstance(v, dict | list) else v for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [clone(v) if isinstance(v, dict | list) else v for v in value]  # type: ignore[return-value]
    return value
