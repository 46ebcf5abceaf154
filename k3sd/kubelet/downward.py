"""The downward API: what a pod may learn about itself, as text, for environment variables and for volumes.

Source: Kubernetes 1.36, ``pkg/fieldpath/fieldpath.go`` and ``pkg/api/v1/resource/helpers.go``
(``ExtractContainerResourceValue``, ``MergeContainerResourceLimits``). Pure functions of wire objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k3sd.apimachinery import quantity

Obj = dict[str, Any]

_SUBSCRIPT = re.compile(r"^(metadata\.(?:annotations|labels))\['(.*)'\]$", re.DOTALL)
_GO_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}
_DEFAULTED_LIMITS = ("cpu", "memory", "ephemeral-storage")


class DownwardError(Exception):
    """A field or resource reference that cannot be answered; the text is upstream's."""


def go_quote(text: str) -> str:
    """``text`` as Go's ``strconv.Quote`` prints it."""
    out = ['"']
    for char in text:
        if char in _GO_ESCAPES:
            out.append(_GO_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        elif ord(char) < 0x80:
            out.append(f"\\x{ord(char):02x}")
        elif ord(char) < 0x10000:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(f"\\U{ord(char):08x}")
    out.append('"')
    return "".join(out)


def format_map(values: Mapping[str, str] | None) -> str:
    """Lines ``key="value"`` sorted by key, without final newline (``fieldpath.FormatMap``)."""
    return "\n".join(f"{key}={go_quote(value)}" for key, value in sorted((values or {}).items()))


def metadata_field(pod: Obj, path: str) -> str:
    """The value of a ``metadata.*`` path (``ExtractFieldPathAsString``). A missing label or annotation is empty text."""
    metadata: Obj = pod.get("metadata") or {}
    if match := _SUBSCRIPT.match(path):
        values: Mapping[str, str] = metadata.get(match[1].removeprefix("metadata.")) or {}
        return values.get(match[2], "")
    match path:
        case "metadata.annotations" | "metadata.labels":
            return format_map(metadata.get(path.removeprefix("metadata.")))
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata.get(path.removeprefix("metadata."), ""))
    raise DownwardError(f"unsupported fieldPath: {path}")


def pod_field(pod: Obj, path: str, *, pod_ips: Sequence[str] = (), host_ips: Sequence[str] = ()) -> str:
    """The value of any downward path (``podFieldSelectorRuntimeValue``); addresses come from the caller because the
    sandbox knows them before the API does."""
    spec: Obj = pod.get("spec") or {}
    match path:
        case "spec.nodeName":
            return str(spec.get("nodeName", ""))
        case "spec.serviceAccountName":
            return str(spec.get("serviceAccountName", ""))
        case "status.hostIP":
            return host_ips[0] if host_ips else ""
        case "status.hostIPs":
            return ",".join(host_ips)
        case "status.podIP":
            return pod_ips[0] if pod_ips else ""
        case "status.podIPs":
            return ",".join(pod_ips)
    return metadata_field(pod, path)


def all_containers(pod: Obj) -> Iterator[Obj]:
    """Init, app and ephemeral containers, in this order."""
    spec: Obj = pod.get("spec") or {}
    for group in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(group) or ()


def find_container(pod: Obj, name: str) -> Obj | None:
    return next((c for c in all_containers(pod) if c.get("name") == name), None)


def resource_field(reference: Obj, container: Obj, node_allocatable: Mapping[str, str]) -> str:
    """The value of a ``resourceFieldRef``: rounded up to whole divisors; a limit that is not set is what the node has.

    ``node_allocatable`` is the node's ``status.allocatable``.
    """
    name = str(reference.get("resource", ""))
    side, _, key = name.partition(".")
    known = key in _DEFAULTED_LIMITS or key.startswith("hugepages-")
    if side not in ("limits", "requests") or not known:
        raise DownwardError(f"Unsupported container resource : {name}")
    resources: Obj = container.get("resources") or {}
    amount = quantity.parse((resources.get(side) or {}).get(key, "0"))
    if side == "limits" and amount.milli() == 0:
        amount = quantity.parse(node_allocatable.get(key, "0"))
    divisor = quantity.parse(reference.get("divisor") or "1")
    if divisor.milli() == 0:
        divisor = quantity.parse("1")
    # Go divides as float64 and takes the ceiling; integers give the same without rounding errors.
    if key == "cpu":
        return str(-(-amount.milli() // divisor.milli()))
    return str(-(-amount.value() // divisor.value()))
