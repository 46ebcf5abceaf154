"""Every finished pod is counted exactly once, whatever fails and whenever the controller dies."""

from __future__ import annotations

import asyncio
import random

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.controllers.job import JobController
from tests.fakes.harness import Harness


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
@pytest.mark.parametrize("lag", [False, True], ids=["crashes", "lag"])
@pytest.mark.parametrize("seed", range(12))
async def test_counts_survive_crashes_refused_writes_and_late_events(seed: int, mode: str, lag: bool):
    rng = random.Random(seed)
    h = Harness()
    trouble = True

    def disturb(verb, resource, obj, subresource) -> None:
        if not trouble or resource not in (resources.PODS, resources.JOBS) or subresource == "mine":
            return
        chance = rng.random()
        if chance < 0.08:
            raise StatusError(409, "Conflict", "disturbed")
        if chance < 0.12:
            raise ConnectionError("disturbed")

    template = {"metadata": {"labels": {"job": "w"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}
    spec = {"parallelism": 3, "completions": 6, "backoffLimit": 10**6, "completionMode": mode, "template": template}
    spec["selector"] = {"matchLabels": {"job": "w"}}
    ended: dict[str, str] = {}

    async with h:
        task: asyncio.Task[None] | None = None
        controller: JobController | None = None

        async def restart() -> None:
            nonlocal task, controller
            if task is not None and controller is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                controller.close()
            controller = JobController(h.ctx)
            task = asyncio.create_task(controller.run())

        await h.create(resources.JOBS, {"kind": "Job", "metadata": {"name": "w", "namespace": "shop"}, "spec": spec})
        await restart()
        h.client.on_write(disturb)
        if lag:
            h.client.watch_lag = lambda: rng.choice((0.0, 0.0, 0.0, 0.005, 0.5))
        for _ in range(400):
            await asyncio.sleep(rng.choice((0.0, 0.001, 0.01, 30.0, 700.0)))
            job: Obj = h.only(resources.JOBS)
            if any(c["type"] == "Complete" for c in (job.get("status") or {}).get("conditions") or ()):
                break
            alive = [p for p in h.all_pods() if p["metadata"]["uid"] not in ended]
            if alive and rng.random() < 0.7:
                pod = rng.choice(alive)
                phase = rng.choice(("Succeeded", "Succeeded", "Failed"))
                h.client.reactors.clear()
                await h.status(resources.PODS, pod, phase=phase)
                h.client.on_write(disturb)
                ended[pod["metadata"]["uid"]] = phase
            if not lag and rng.random() < 0.1:
                await restart()
        trouble = False
        await h.settle(5000)
        for pod in h.all_pods():
            if pod["metadata"]["uid"] not in ended:
                await h.status(resources.PODS, pod, phase="Succeeded")
                ended[pod["metadata"]["uid"]] = "Succeeded"
            await h.settle(700)
        await h.settle(5000)
        status = h.only(resources.JOBS)["status"]
        # A controller that starts without expectations may make a pod too many; one that it deletes counts as failed.
        every = {o["metadata"]["uid"]: o for _, resource, _, o, _ in h.client.history if resource is resources.PODS}
        phases = [o["status"]["phase"] for o in every.values()]
        assert status.get("failed", 0) == len(phases) - phases.count("Succeeded")
        assert status["succeeded"] == (6 if mode == "Indexed" else phases.count("Succeeded"))
        assert status["uncountedTerminatedPods"] == {} and "active" not in status
        assert not any((p["metadata"].get("finalizers")) for p in h.all(resources.PODS))
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
