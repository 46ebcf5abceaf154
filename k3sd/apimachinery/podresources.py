"""What a whole pod asks for or is limited to: the one sum that scheduler, kubelet, quotas and limit ranges agree on. Pure.

Source: ``k8s.io/component-helpers/resource/helpers.go`` (``AggregateContainerRequests``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

Obj = dict[str, Any]


class _Amount(Protocol):
    def __add__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> bool: ...


A = TypeVar("A", bound=_Amount)


def add(into: dict[str, A], more: Mapping[str, A]) -> None:
    """Add up by resource name."""
    for name, value in more.items():
        into[name] = into[name] + value if name in into else value


def raise_to(into: dict[str, A], other: Mapping[str, A]) -> None:
    """Keep the larger amount of each resource."""
    for name, value in other.items():
        if name not in into or into[name] < value:
            into[name] = value


def aggregate(spec: Obj, amounts: Callable[[Obj], Mapping[str, A]]) -> dict[str, A]:
    """The sum over app containers and sidecars, or what an init container needs beside the sidecars started before it, where
    that is more. ``amounts`` gives one container's; pod-level values and overhead are the caller's to add."""
    total: dict[str, A] = {}
    sidecars: dict[str, A] = {}
    peak: dict[str, A] = {}
    for container in spec.get("containers") or ():
        add(total, amounts(container))
    for container in spec.get("initContainers") or ():
        need = amounts(container)
        step = dict(sidecars)
        add(step, need)
        raise_to(peak, step)
        if container.get("restartPolicy") == "Always":
            add(total, need)
            sidecars = step
    raise_to(total, peak)
    return total
