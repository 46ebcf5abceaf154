"""A sorted set of strings that stays fast when large: chunks of about a thousand, found by bisection."""

from __future__ import annotations

from bisect import bisect_left, insort

CHUNK = 1024


class SortedKeys:
    """``add`` and ``discard`` move at most one chunk; ranges are half open, in code point order."""

    __slots__ = ("_chunks", "_last")

    def __init__(self) -> None:
        self._chunks: list[list[str]] = []
        self._last: list[str] = []

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def add(self, key: str) -> None:
        """Add a key that is not there yet."""
        if not self._chunks:
            self._chunks.append([key])
            self._last.append(key)
            return
        i = min(bisect_left(self._last, key), len(self._chunks) - 1)
        chunk = self._chunks[i]
        if key > chunk[-1]:
            chunk.append(key)
            self._last[i] = key
        else:
            insort(chunk, key)
        if len(chunk) > 2 * CHUNK:
            self._chunks.insert(i + 1, chunk[CHUNK:])
            del chunk[CHUNK:]
            self._last.insert(i, chunk[-1])

    def discard(self, key: str) -> None:
        i = bisect_left(self._last, key)
        if i == len(self._chunks):
            return
        chunk = self._chunks[i]
        j = bisect_left(chunk, key)
        if chunk[j] != key:
            return
        del chunk[j]
        if not chunk:
            del self._chunks[i], self._last[i]
        else:
            self._last[i] = chunk[-1]

    def range(self, start: str, end: str, limit: int = 0) -> list[str]:
        """Keys with ``start <= key < end``, at most ``limit`` when > 0."""
        found: list[str] = []
        for i in range(bisect_left(self._last, start), len(self._chunks)):
            chunk = self._chunks[i]
            low = bisect_left(chunk, start) if not found else 0
            high = len(chunk) if chunk[-1] < end else bisect_left(chunk, end)
            found += chunk[low:high] if low or high < len(chunk) else chunk
            if high < len(chunk) or (limit and len(found) >= limit):
                break
        return found[:limit] if limit else found

    def count(self, start: str, end: str) -> int:
        return max(self._position(end) - self._position(start), 0)

    def _position(self, key: str) -> int:
        i = bisect_left(self._last, key)
        before = sum(map(len, self._chunks[:i]))
        return before + bisect_left(self._chunks[i], key) if i < len(self._chunks) else before
