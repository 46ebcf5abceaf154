"""Which controllers there are, and what keeps them running."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from k3sd.controllers.base import Context, Controller
from k3sd.controllers.cronjob import CronJobController
from k3sd.controllers.csr import CSRApprovingController, CSRCleaner, CSRSigningController
from k3sd.controllers.daemonset import DaemonSetController
from k3sd.controllers.deployment import DeploymentController
from k3sd.controllers.disruption import DisruptionController
from k3sd.controllers.endpoints import EndpointsController
from k3sd.controllers.endpointslice import EndpointSliceController
from k3sd.controllers.endpointslicemirroring import EndpointSliceMirroringController
from k3sd.controllers.ephemeralvolume import EphemeralVolumeController
from k3sd.controllers.garbagecollector import GarbageCollector
from k3sd.controllers.job import JobController
from k3sd.controllers.namespace import NamespaceController
from k3sd.controllers.nodeipam import NodeIPAMController
from k3sd.controllers.nodelifecycle import NodeLifecycleController
from k3sd.controllers.persistentvolume import PersistentVolumeBinder
from k3sd.controllers.podgc import PodGarbageCollector
from k3sd.controllers.replicaset import ReplicaSetController, ReplicationControllerController
from k3sd.controllers.resourcequota import ResourceQuotaController
from k3sd.controllers.rootca import RootCACertPublisher
from k3sd.controllers.serviceaccount import ServiceAccountController
from k3sd.controllers.servicecidrs import ServiceCIDRController
from k3sd.controllers.statefulset import StatefulSetController
from k3sd.controllers.storageprotection import ClaimProtectionController, VolumeProtectionController
from k3sd.controllers.tainteviction import TaintEvictionController
from k3sd.controllers.tokencleaner import TokenCleaner
from k3sd.controllers.ttl import TTLController
from k3sd.controllers.ttlafterfinished import TTLAfterFinishedController

log = logging.getLogger(__name__)

RESTART_FIRST_SECONDS = 1.0
RESTART_CAP_SECONDS = 60.0


class Row(NamedTuple):
    """One controller. ``alias`` is its name in older releases; ``enabled`` is whether ``*`` includes it."""

    factory: Callable[[Context], Controller]
    name: str
    alias: str
    enabled: bool = True


def _row(cls: type[Controller], alias: str, enabled: bool = True) -> Row:
    return Row(cls, cls.name, alias, enabled)


TABLE: tuple[Row, ...] = (
    _row(NamespaceController, "namespace"),
    _row(ServiceAccountController, "serviceaccount"),
    _row(RootCACertPublisher, "root-ca-cert-publisher"),
    _row(DeploymentController, "deployment"),
    _row(ReplicaSetController, "replicaset"),
    _row(ReplicationControllerController, "replicationcontroller"),
    _row(EndpointsController, "endpoint"),
    _row(EndpointSliceController, "endpointslice"),
    _row(EndpointSliceMirroringController, "endpointslicemirroring"),
    _row(JobController, "job"),
    _row(TTLAfterFinishedController, "ttl-after-finished"),
    _row(StatefulSetController, "statefulset"),
    _row(DaemonSetController, "daemonset"),
    _row(CronJobController, "cronjob"),
    _row(DisruptionController, "disruption"),
    _row(ResourceQuotaController, "resourcequota"),
    _row(PersistentVolumeBinder, "persistentvolume-binder"),
    _row(ClaimProtectionController, "pvc-protection"),
    _row(VolumeProtectionController, "pv-protection"),
    _row(EphemeralVolumeController, "ephemeral-volume"),
    _row(ServiceCIDRController, "service-cidrs"),
    _row(TTLController, "ttl"),
    _row(TokenCleaner, "tokencleaner"),
    _row(CSRApprovingController, "csrapproving"),
    _row(CSRSigningController, "csrsigning"),
    _row(CSRCleaner, "csrcleaner"),
    _row(GarbageCollector, "garbagecollector"),
    _row(NodeIPAMController, "nodeipam"),
    _row(NodeLifecycleController, "nodelifecycle"),
    _row(TaintEvictionController, "taint-eviction"),
    _row(PodGarbageCollector, "podgc"),
)


def select(table: Iterable[Row], patterns: tuple[str, ...]) -> list[Row]:
    """The rows that ``--controllers`` asks for: ``*`` is all on by default, ``foo`` and ``-foo`` switch one.

    Source: ``cmd/kube-controller-manager/app/config`` ``IsControllerEnabled``.
    """
    words = [w.strip() for p in patterns for w in p.split(",") if w.strip()] or ["*"]
    out = []
    for row in table:
        names = (row.name, row.alias)
        asked = any(n in words for n in names)
        refused = any(f"-{n}" in words for n in names)
        if asked or ("*" in words and row.enabled and not refused):
            out.append(row)
    return out


async def run(ctx: Context, table: Iterable[Row] = TABLE) -> None:
    """Run the selected controllers until cancelled; one that fails is started anew and disturbs no other."""
    rows = select(table, ctx.settings.controller_manager_args.get("controllers", ()))
    try:
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(_keep(row, ctx), name=row.name)
                # Requests have their turn between the first lists of two controllers.
                await asyncio.sleep(0)
    finally:
        await asyncio.gather(*(recorder.stop() for recorder in ctx.recorders.values()))


async def _keep(row: Row, ctx: Context) -> None:
    delay = RESTART_FIRST_SECONDS
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        controller: Controller | None = None
        try:
            controller = row.factory(ctx)
            await controller.run()
        except Exception:
            log.exception("%s failed and is started again", row.name)
        finally:
            if controller is not None:
                controller.close()
        if loop.time() - started > RESTART_CAP_SECONDS:
            delay = RESTART_FIRST_SECONDS
        await asyncio.sleep(delay * (0.5 + random.random()))
        delay = min(delay * 2, RESTART_CAP_SECONDS)
