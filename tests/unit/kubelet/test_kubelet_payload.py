import base64
from pathlib import Path
from typing import Any

import pytest

from k3sd.kubelet.volumes import payload
from k3sd.kubelet.volumes.plan import VolumeError
from k3sd.kubelet.volumes.planner import empty_dir, memory_size

Obj = dict[str, Any]


def containers(*users: int | None, default: int | None = None, init: int | None = 0) -> Obj:
    def one(user: int | None) -> Obj:
        return {"securityContext": {} if user is None else {"runAsUser": user}}

    spec: Obj = {"containers": [one(u) for u in users], "securityContext": {} if default is None else {"runAsUser": default}}
    if init != 0:
        spec["initContainers"] = [one(init)]
    return {"spec": spec}


@pytest.mark.parametrize(
    ("pod", "user"),
    [
        (containers(1000, 1000), 1000),
        (containers(1000, 1001), None),
        (containers(1000, None), None),
        (containers(1000, None, default=1000), 1000),
        (containers(None, default=5, init=5), 5),
        (containers(1000, init=1), None),
        (containers(None), None),
    ],
)
def test_the_one_user_of_a_pod(pod: Obj, user: int | None) -> None:
    assert payload.fs_user(pod) == user


@pytest.mark.parametrize(
    ("user", "group", "mode"), [(None, None, 0o644), (1000, None, 0o600), (None, 2000, 0o600), (1000, 2000, 0o600)]
)
def test_a_token_is_private_where_it_has_an_owner(user: int | None, group: int | None, mode: int) -> None:
    (file,) = payload.token_file({"path": "t"}, "x", 0o644, user, group).values()
    assert (file.mode, file.uid) == (mode, user)


def test_values_of_objects() -> None:
    obj = {"data": {"a": "é"}, "binaryData": {"b": base64.b64encode(b"\xff").decode()}}
    files = payload.config_map_files({}, obj, 0o400)
    assert {k: (f.data, f.mode) for k, f in files.items()} == {"a": ("é".encode(), 0o400), "b": (b"\xff", 0o400)}
    assert payload.config_map_files({"optional": True, "items": [{"key": "z", "path": "z"}]}, None, 0o400) == {}
    items = [{"key": "a", "path": "x/y", "mode": 0o777}, {"key": "b", "path": "b", "mode": None}]
    assert [f.mode for f in payload.config_map_files({"items": items}, obj, 0o400).values()] == [0o777, 0o400]


def limited(*limits: str | None, **spec: Any) -> Obj:
    return {"spec": {"containers": [{"resources": {"limits": {"memory": m} if m else {}}} for m in limits], **spec}}


@pytest.mark.parametrize(
    ("source", "pod", "size"),
    [
        ({}, limited(None), 1 << 30),
        ({}, limited("1Mi", "2Mi"), 3 << 20),
        ({}, limited("1Mi", None), 1 << 30),
        ({"sizeLimit": "1Mi"}, limited("2Mi"), 1 << 20),
        ({"sizeLimit": "4Mi"}, limited("2Mi"), 2 << 20),
        ({}, limited("1Mi", initContainers=limited("8Mi")["spec"]["containers"]), 8 << 20),
        ({}, limited("1Mi", resources={"limits": {"memory": "16Mi"}}), 16 << 20),
    ],
)
def test_size_in_memory(source: Obj, pod: Obj, size: int) -> None:
    assert memory_size(source, pod, {"memory": "1Gi"}) == size


def test_media() -> None:
    huge = {"spec": {"containers": [{"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}]}}
    assert empty_dir(Path("/x"), {"medium": "HugePages"}, huge, {}).options == f"pagesize={2 << 20}"
    assert empty_dir(Path("/x"), {"medium": "HugePages-1Gi"}, huge, {}).options == f"pagesize={1 << 30}"
    with pytest.raises(VolumeError, match="exactly one huge page size"):
        empty_dir(Path("/x"), {"medium": "HugePages"}, limited("1Mi"), {})
    with pytest.raises(VolumeError, match='unknown storage medium "x"'):
        empty_dir(Path("/x"), {"medium": "x"}, limited("1Mi"), {})
