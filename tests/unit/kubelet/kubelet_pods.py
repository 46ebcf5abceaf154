"""Pods and runtime states for the kubelet's tables."""

from __future__ import annotations

from typing import Any

from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.state import ContainerRecord, PodState, SandboxRecord, container_hash

Obj = dict[str, Any]
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def container(name: str, **fields: Any) -> Obj:
    return {"name": name, "image": "img:1", **fields}


def pod(*containers: Obj, init: list[Obj] | None = None, status: Obj | None = None, **spec: Any) -> Obj:
    out: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "generation": 1},
        "spec": {"restartPolicy": "Always", "containers": list(containers or [container("a")]), **spec},
        "status": status or {},
    }
    if init:
        out["spec"]["initContainers"] = init
    return out


def record(name: str, state: str = "running", code: int = 0, *, n: int = 0, **fields: Any) -> ContainerRecord:
    """``n`` is the restart count; later instances are younger."""
    ended = state == "exited"
    return ContainerRecord(
        id=f"{name}-{n}",
        name=name,
        sandbox_id="s1",
        state=ContainerState[state.upper()],
        restart_count=n,
        hash=container_hash(container(name)),
        created_at=START + n * 60 * SECOND,
        started_at=START + n * 60 * SECOND,
        finished_at=START + n * 60 * SECOND + 30 * SECOND if ended else 0,
        exit_code=code,
        reason=("Completed" if code == 0 else "Error") if ended else "",
        image="docker.io/library/img:1",
        image_ref="sha256:1",
        **fields,
    )


def state(*records: ContainerRecord, sandbox: bool | None = True) -> PodState:
    """``sandbox``: a ready one, one that is not (False), or none (None)."""
    out = PodState("u1", "p", "ns")
    if sandbox is not None:
        out.put_sandbox(SandboxRecord("s1", 0, sandbox, START, ("10.42.0.5",)))
    for entry in records:
        out.put(entry)
    return out
