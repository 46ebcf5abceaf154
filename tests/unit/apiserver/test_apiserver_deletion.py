"""What a delete does to an object. The cases are those of upstream's ``TestGarbageCollect`` and ``TestGracefulStore*``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver.deletion import check_preconditions, garbage_collection_finalizers, plan_delete
from k3sd.apiserver.options import DeleteRequest
from k3sd.apiserver.request import LOOPBACK, RequestContext


class Kind:
    """A strategy with a given grace period, orphaning default and reason to stay."""

    def __init__(self, grace: int = 0, orphan: bool = False, holds: bool = False) -> None:
        self.grace, self.orphan, self.holds = grace, orphan, holds

    def graceful_seconds(self, ctx: Any, obj: Any, requested: int | None) -> int:
        return self.grace if requested is None else requested

    def default_orphan(self, obj: Any) -> bool:
        return self.orphan

    def holds_deletion(self, obj: Any) -> bool:
        return self.holds

    def mark_deleting(self, ctx: Any, obj: Any) -> None:
        obj.setdefault("status", {})["marked"] = True


def endpoint(**kind: Any) -> Any:
    resource = SimpleNamespace(group="", plural="things")
    return SimpleNamespace(strategy=Kind(**kind), resource=resource)


def obj(**meta: Any) -> Any:
    return {"metadata": {"name": "a", "uid": "u", "resourceVersion": "5", "generation": 1, **meta}, "status": {}}


CTX = RequestContext(LOOPBACK, "delete", name="a")


@pytest.mark.parametrize(
    ("existing", "options", "orphan", "wanted"),
    [
        ([], {}, False, []),
        ([], {}, True, ["orphan"]),
        ([], {"orphanDependents": True}, False, ["orphan"]),
        ([], {"orphanDependents": False}, True, []),
        ([], {"propagationPolicy": "Foreground"}, False, ["foregroundDeletion"]),
        ([], {"propagationPolicy": "Orphan"}, False, ["orphan"]),
        (["orphan"], {"propagationPolicy": "Background"}, False, []),
        (["orphan"], {"propagationPolicy": "Foreground"}, False, ["foregroundDeletion"]),
        (["foregroundDeletion"], {}, True, ["foregroundDeletion"]),
        (["example.com/x"], {"propagationPolicy": "Orphan"}, False, ["example.com/x", "orphan"]),
        (["example.com/x"], {}, False, ["example.com/x"]),
    ],
)
def test_finalizers_for_garbage_collection(
    existing: list[str], options: dict[str, Any], orphan: bool, wanted: list[str]
) -> None:
    request = DeleteRequest.parse(options, {})
    assert garbage_collection_finalizers(endpoint(orphan=orphan), request, obj(finalizers=existing)) == wanted


def test_nothing_holds_it() -> None:
    assert plan_delete(endpoint(), CTX, DeleteRequest(), obj()).remove


def test_a_finalizer_marks_it() -> None:
    plan = plan_delete(endpoint(), CTX, DeleteRequest(), obj(finalizers=["example.com/x"]))
    assert not plan.remove
    assert plan.new is not None
    meta = plan.new["metadata"]
    assert (meta["deletionGracePeriodSeconds"], meta["generation"]) == (0, 2)
    assert plan.new["status"] == {"marked": True}


def test_a_second_delete_of_a_marked_object_changes_nothing() -> None:
    marked = obj(finalizers=["x.io/x"], deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=0)
    plan = plan_delete(endpoint(), CTX, DeleteRequest(), marked)
    assert (plan.remove, plan.new) == (False, None)


def test_grace_periods_only_get_shorter() -> None:
    first = plan_delete(endpoint(grace=30), CTX, DeleteRequest(), obj()).new
    assert first is not None
    assert first["metadata"]["deletionGracePeriodSeconds"] == 30
    assert plan_delete(endpoint(grace=30), CTX, DeleteRequest(grace_seconds=40), first).new is None
    first["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    second = plan_delete(endpoint(grace=30), CTX, DeleteRequest(grace_seconds=10), first).new
    assert second is not None
    assert second["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:10Z"
    assert second["metadata"]["generation"] == 2, "counted once"
    assert plan_delete(endpoint(grace=30), CTX, DeleteRequest(grace_seconds=0), first).remove


def test_the_kind_may_hold_it() -> None:
    plan = plan_delete(endpoint(holds=True), CTX, DeleteRequest(), obj())
    assert plan.new is not None
    assert "deletionGracePeriodSeconds" not in plan.new["metadata"]


@pytest.mark.parametrize("precondition", [{"uid": "other"}, {"resourceVersion": "4"}])
def test_preconditions(precondition: dict[str, str]) -> None:
    request = DeleteRequest.parse({"preconditions": precondition}, {})
    with pytest.raises(StatusError) as failed:
        check_preconditions(endpoint(), CTX, request, obj())
    assert failed.value.reason == "Conflict"
    check_preconditions(endpoint(), CTX, DeleteRequest(uid="u", resource_version="5"), obj())


@pytest.mark.parametrize(
    "options",
    [{"propagationPolicy": "Sometimes"}, {"propagationPolicy": "Orphan", "orphanDependents": True}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(StatusError) as failed:
        DeleteRequest.parse(options, {})
    assert failed.value.code == 422
