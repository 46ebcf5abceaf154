"""When a child starts again."""

from __future__ import annotations

import pytest

from k3sd.procs.child import BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS, describe_exit, next_backoff


@pytest.mark.parametrize(
    ("previous", "ran", "expected"),
    [(0.0, 0.0, BACKOFF_FIRST_SECONDS), (0.1, 1.0, 0.2), (20.0, 1.0, BACKOFF_CAP_SECONDS), (30.0, 61.0, BACKOFF_FIRST_SECONDS)],
    ids=["first", "doubles", "capped", "stable-run-resets"],
)
def test_next_backoff(previous: float, ran: float, expected: float) -> None:
    assert next_backoff(previous, ran) == expected


@pytest.mark.parametrize(
    ("code", "text"), [(1, "exited with status 1"), (-9, "was killed by SIGKILL"), (-200, "was killed by signal 200")]
)
def test_describe_exit(code: int, text: str) -> None:
    assert describe_exit(code) == text
