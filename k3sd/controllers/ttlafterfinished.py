"""Deletes finished Jobs when their ttlSecondsAfterFinished are over. Source: ``pkg/controller/ttlafterfinished``."""

from __future__ import annotations

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import find_condition, is_deleting, name_of, namespace_of, uid_of, version_of


def expires_in(job: Obj, now: float) -> float | None:
    """Seconds until the Job may go; None when it never does. Pure."""
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    if seconds is None or is_deleting(job):
        return None
    for type_ in ("Complete", "Failed"):
        condition = find_condition(job, type_)
        if condition is not None and condition.get("status") == "True" and condition.get("lastTransitionTime"):
            return timefmt.parse(condition["lastTransitionTime"]) + int(seconds) - now
    return None


class TTLAfterFinishedController(Controller):
    name = "ttl-after-finished-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.jobs = self.informer(resources.JOBS, self._job, lambda _, job: self._job(job))

    def _job(self, job: Obj) -> None:
        if expires_in(job, self.ctx.clock()) is not None:
            self.enqueue(job)

    async def reconcile(self, key: str) -> float | None:
        job = self.jobs.get(key)
        left = expires_in(job, self.ctx.clock()) if job is not None else None
        if job is None or left is None or left > 0:
            return left
        try:
            # The cache may be behind a change of the TTL: the version must be the one that was looked at.
            options = DeleteOptions(propagation_policy="Foreground", uid=uid_of(job), resource_version=version_of(job))
            await self.client.delete(resources.JOBS, name_of(job), namespace_of(job), options)
        except StatusError as e:
            if e.code != 404:
                raise
        return None
