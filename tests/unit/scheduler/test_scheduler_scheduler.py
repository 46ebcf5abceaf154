"""Which changes of bound pods make waiting pods be tried again."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from k3sd.config.settings import Settings
from k3sd.scheduler.scheduler import Scheduler


def bound(cpu: str, image: str = "i", phase: str = "Running") -> dict[str, Any]:
    container = {"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}}
    meta = {"name": "p", "namespace": "ns", "uid": "u"}
    return {"metadata": meta, "spec": {"nodeName": "n", "containers": [container]}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("new", "wakes"),
    [
        (bound("500m"), True),
        (bound("2"), False),
        (bound("1000m"), False),
        (bound("1", image="j"), False),
        (bound("1", phase="Succeeded"), True),
    ],
)
async def test_what_a_pod_gives_back_wakes_those_that_wait(new: dict[str, Any], wakes: bool) -> None:
    scheduler = Scheduler(MagicMock(), MagicMock(), Settings())
    scheduler._pod_added(bound("1"))
    before = scheduler._queue.moves
    scheduler._pod_updated(bound("1"), new)
    assert (scheduler._queue.moves > before) is wakes
