from __future__ import annotations

import asyncio

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.events import EventRecorder
from tests.fakes.client import FakeClient
from tests.fakes.clock import wall_clock

POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7"},
}


@pytest.fixture
def client() -> FakeClient:
    return FakeClient(wall_clock)


@pytest.fixture
def recorder(client: FakeClient) -> EventRecorder:
    return EventRecorder(client, "kubelet", "node-1", clock=wall_clock)


async def test_an_event_looks_as_upstream_writes_it(client: FakeClient, recorder: EventRecorder):
    recorder.event(POD, "Normal", "Pulled", "image is present")
    await recorder.flush()
    (event,) = client.all(resources.EVENTS, "shop")
    assert event["metadata"]["name"].startswith("web.")
    assert event["involvedObject"] == {
        "kind": "Pod",
        "namespace": "shop",
        "name": "web",
        "uid": "u1",
        "apiVersion": "v1",
        "resourceVersion": "7",
    }
    assert event["source"] == {"component": "kubelet", "host": "node-1"}
    assert (event["count"], event["type"], event["reason"]) == (1, "Normal", "Pulled")
    assert event["firstTimestamp"] == event["lastTimestamp"]


async def test_equal_events_are_counted_in_one_object(client: FakeClient, recorder: EventRecorder):
    for _ in range(5):
        recorder.event(POD, "Warning", "BackOff", "restarting")
        await asyncio.sleep(10)
    await recorder.flush()
    (event,) = client.all(resources.EVENTS)
    assert event["count"] == 5
    assert event["firstTimestamp"] < event["lastTimestamp"]


async def test_similar_events_are_combined(client: FakeClient, recorder: EventRecorder):
    for i in range(15):
        recorder.event(POD, "Warning", "Failed", f"attempt {i}")
    await recorder.flush()
    events = client.all(resources.EVENTS)
    assert len(events) == 10
    combined = [e for e in events if e["message"].startswith("(combined from similar events): ")]
    assert len(combined) == 1 and combined[0]["count"] == 6


async def test_a_noisy_object_is_silenced_then_heard_again(client: FakeClient, recorder: EventRecorder):
    for _ in range(40):
        recorder.event(POD, "Warning", "BackOff", "restarting")
    await recorder.flush()
    assert client.all(resources.EVENTS)[0]["count"] == 25
    assert recorder.dropped_total == 15
    await asyncio.sleep(301)
    recorder.event(POD, "Warning", "BackOff", "restarting")
    await recorder.flush()
    assert client.all(resources.EVENTS)[0]["count"] == 26


async def test_a_counted_event_that_was_deleted_is_made_anew(client: FakeClient, recorder: EventRecorder):
    recorder.event(POD, "Normal", "Pulled", "x")
    await recorder.flush()
    await client.delete(resources.EVENTS, client.all(resources.EVENTS)[0]["metadata"]["name"], "shop")
    recorder.event(POD, "Normal", "Pulled", "x")
    await recorder.flush()
    assert client.all(resources.EVENTS)[0]["count"] == 1


async def test_refused_events_are_dropped_and_outages_are_waited_out(client: FakeClient, recorder: EventRecorder):
    answers: list[Exception] = [StatusError(403, "Forbidden", "terminating"), ConnectionError("away"), ConnectionError("away")]

    def fail(verb, resource, obj, subresource) -> None:
        if answers:
            raise answers.pop(0)

    client.on_write(fail)
    recorder.event(POD, "Normal", "First", "refused")
    recorder.event(POD, "Normal", "Second", "kept")
    await recorder.flush()
    assert [e["reason"] for e in client.all(resources.EVENTS)] == ["Second"]


async def test_the_queue_is_bounded(client: FakeClient, recorder: EventRecorder):
    for i in range(1500):
        recorder.event({**POD, "metadata": {**POD["metadata"], "uid": str(i)}}, "Normal", "R", "m")
    assert recorder.dropped_total == 500
    await recorder.stop()
