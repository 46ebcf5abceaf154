"""A node that runs every pod: binds it, makes it Ready after a while, and lets deleted pods go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from tests.fakes.harness import Harness, ready_status


class FakeKubelet:
    """``healthy`` decides which pods become Ready; ``delay`` is how long that takes, ``grace`` how long stopping takes."""

    def __init__(
        self, harness: Harness, delay: float = 0.5, grace: float = 0.5, healthy: Callable[[Obj], bool] = lambda _: True
    ) -> None:
        self.harness = harness
        self.delay = delay
        self.grace = grace
        self.healthy = healthy
        self._tasks: set[asyncio.Task[None]] = set()
        informer = harness.informers.informer(resources.PODS)
        informer.add_handler(self._added, lambda _, pod: self._updated(pod))
        informer.start()

    def _spawn(self, coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _added(self, pod: Obj) -> None:
        self._spawn(self._start(pod))

    def _updated(self, pod: Obj) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self._spawn(self._stop(pod))

    async def _start(self, pod: Obj) -> None:
        try:
            if not pod["spec"].get("nodeName"):
                await self.harness.patch(resources.PODS, pod, {"spec": {"nodeName": "n1"}})
            await asyncio.sleep(self.delay)
            await self.harness.status(resources.PODS, pod, **ready_status(self.healthy(pod)))
        except StatusError:
            return

    async def _stop(self, pod: Obj) -> None:
        await asyncio.sleep(self.grace)
        try:
            await self.harness.delete(resources.PODS, pod, grace_period_seconds=0, uid=pod["metadata"]["uid"])
        except StatusError:
            return

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
