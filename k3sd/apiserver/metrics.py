"""``/metrics``. Counting costs a dictionary update a request; ``prometheus_client`` is imported when somebody first asks.

Names are upstream's (``endpoints/metrics/metrics.go``).
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.responses import Answer
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)


class Metrics:
    """Counters of one server. A request is labelled by method and code."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._watches: dict[Resource, int] = {}
        self._store_size = 0

    def observe(self, method: str, code: int, seconds: float) -> None:
        key = (method, code)
        self._requests[key] = self._requests.get(key, 0) + 1
        counts = self._durations.get(method)
        if counts is None:
            counts = self._durations[method] = [0] * (len(BUCKETS) + 1)
        counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[method] = self._seconds.get(method, 0.0) + seconds

    def watch_opened(self, resource: Resource) -> Callable[[], None]:
        """Count one open watch; returns what ends it."""
        self._watches[resource] = self._watches.get(resource, 0) + 1

        def closed() -> None:
            self._watches[resource] -= 1

        return closed

    async def answer(self, accept: str) -> Answer:
        from prometheus_client import exposition, registry
        from prometheus_client.process_collector import ProcessCollector

        collectors: Any = registry.CollectorRegistry()
        collectors.register(self)
        ProcessCollector(registry=collectors)
        encoder, content_type = exposition.choose_encoder(accept)
        with contextlib.suppress(DatastoreError):  # the last known size then
            self._store_size = await self._registry.backend.size()
        body = await asyncio.get_running_loop().run_in_executor(None, encoder, collectors)
        return Answer(200, body, content_type)

    def collect(self) -> Iterator[Any]:
        """prometheus_client's collector interface."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        total = CounterMetricFamily(
            "apiserver_request", "Requests answered, by verb (HTTP method) and code.", labels=["verb", "code"]
        )
        for (method, code), count in list(self._requests.items()):
            total.add_metric([method, str(code)], count)
        yield total
        durations = HistogramMetricFamily("apiserver_request_duration_seconds", "Time from request to answer.", labels=["verb"])
        for method, counts in list(self._durations.items()):
            sums, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                sums += count
                buckets.append((bound, sums))
            durations.add_metric([method], buckets, self._seconds[method])
        yield durations
        watches = GaugeMetricFamily(
            "apiserver_longrunning_requests", "Open watches.", labels=["verb", "group", "version", "resource"]
        )
        for resource, open_ in list(self._watches.items()):
            watches.add_metric(["WATCH", resource.group, resource.version, resource.plural], open_)
        yield watches
        objects = GaugeMetricFamily("apiserver_storage_objects", "Stored objects.", labels=["resource"])
        sizes = GaugeMetricFamily("apiserver_resource_size_estimate_bytes", "Bytes of stored objects.", labels=["resource"])
        seen = set()
        for endpoint in self._registry.endpoints():
            if endpoint.prefix in seen:
                continue
            seen.add(endpoint.prefix)
            name = endpoint.stored.qualified
            entries = endpoint.cache.list()
            objects.add_metric([name], len(entries))
            sizes.add_metric([name], sum(len(e.raw) for e in entries))
        yield objects
        yield sizes
        counters = self._registry.backend.counters
        for name, value, text in (
            ("k3sd_datastore_transactions", counters.transactions, "Write transactions, each made durable once."),
            ("k3sd_datastore_rows", counters.rows, "Changes written."),
            ("k3sd_datastore_bytes", counters.bytes, "Bytes of keys and values written."),
            ("k3sd_disk_written_bytes", _disk_written(), "Bytes this process caused to be written to disks."),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("apiserver_storage_size_bytes", "Size of the database.", value=self._store_size)


def _disk_written() -> int:
    """From the kernel's accounting of this process; 0 where there is none."""
    try:
        with open("/proc/self/io") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("write_bytes:")), 0)
    except OSError:
        return 0
