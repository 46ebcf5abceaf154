"""Columns and cells of core/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.pods import pod
from k3sd.apis.columns.text import (
    age,
    containers,
    is_deleted,
    labels,
    name,
    replica_counts,
    since,
    spec,
    status,
)

_ACCESS_MODES = (
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
)

COLUMNS = {
    "ComponentStatus": "Name=name|Status|Message|Error",
    "ConfigMap": "Name=name|Data|Age",
    "Endpoints": "Name=name|Endpoints|Age",
    "Event": "Last Seen|Type|Reason|Object|Subobject+|Source+|Message|First Seen+|Count+|Name=name+",
    "Namespace": "Name=name|Status|Age",
    "Node": ("Name=name|Status|Roles|Age|Version|Internal-IP+|External-IP+|OS-Image+|Kernel-Version+|Container-Runtime+"),
    "PersistentVolume": (
        "Name=name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|VolumeMode+"
    ),
    "PersistentVolumeClaim": (
        "Name=name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|VolumeMode+"
    ),
    "Pod": "Name=name|Ready|Status|Restarts|Age|IP+|Node+|Nominated Node+|Readiness Gates+",
    "PodTemplate": "Name=name|Containers|Images|Pod Labels",
    "ReplicationController": ("Name=name|Desired:integer|Current:integer|Ready:integer|Age|Containers+|Images+|Selector+"),
    "ResourceQuota": "Name=name|Request|Limit|Age",
    "Secret": "Name=name|Type|Data|Age",
    "Service": "Name=name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector+",
    "ServiceAccount": "Name=name|Age",
}


def _component_status(obj: Obj, now: float) -> list[Any]:
    for condition in obj.get("conditions") or ():
        if condition.get("type") == "Healthy":
            text = "Healthy" if condition.get("status") == "True" else "Unhealthy"
            return [name(obj), text, condition.get("message", ""), condition.get("error", "")]
    return [name(obj), "Unknown", "", ""]


def _config_map(obj: Obj, now: float) -> list[Any]:
    return [name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj, now)]


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _endpoints(obj: Obj, now: float) -> list[Any]:
    """``formatEndpoints``."""
    found: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = [a.get("ip", "") for a in subset.get("addresses") or ()]
        if not subset.get("ports"):
            found += addresses
        for port in subset.get("ports") or ():
            found += [_host_port(address, port.get("port", 0)) for address in addresses]
    text = ",".join(found[:3])
    if len(found) > 3:
        text = f"{text} + {len(found) - 3} more..."
    return [name(obj), text if obj.get("subsets") else "<none>", age(obj, now)]


def event(obj: Obj, now: float) -> list[Any]:
    """``printEvent``, for both spellings of an event's fields."""
    regarding = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    event_time = obj.get("eventTime")
    first = since(obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or event_time, now)
    last_at = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp")
    last = since(last_at, now) if last_at else first
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    if series := obj.get("series"):
        last, count = since(series.get("lastObservedTime"), now), series.get("count", 0)
    target = regarding.get("kind", "").lower()
    if regarding.get("name"):
        target += f"/{regarding['name']}"
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    instance = source.get("host") or obj.get("reportingInstance") or ""
    return [
        last,
        obj.get("type", ""),
        obj.get("reason", ""),
        target,
        regarding.get("fieldPath", ""),
        f"{component}, {instance}" if instance else component,
        (obj.get("message") or obj.get("note") or "").strip(),
        first,
        count,
        name(obj),
    ]


def _namespace(obj: Obj, now: float) -> list[Any]:
    return [name(obj), status(obj).get("phase", ""), age(obj, now)]


def _node(obj: Obj, now: float) -> list[Any]:
    ready = [c.get("status") for c in status(obj).get("conditions") or () if c.get("type") == "Ready"]
    state = ["Ready" if ready[-1] == "True" else "NotReady"] if ready else ["Unknown"]
    if spec(obj).get("unschedulable"):
        state.append("SchedulingDisabled")
    roles = set()
    prefix = "node-role.kubernetes.io/"
    for key, value in (obj.get("metadata", {}).get("labels") or {}).items():
        if key.startswith(prefix) and key != prefix:
            roles.add(key.removeprefix(prefix))
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    info = status(obj).get("nodeInfo") or {}
    addresses = {a.get("type"): a.get("address") for a in reversed(status(obj).get("addresses") or [])}
    kernel = info.get("kernelVersion") or "<unknown>"
    if info.get("architecture"):
        kernel += f" ({info['architecture']})"
    return [
        name(obj),
        ",".join(state),
        ",".join(sorted(roles)) or "<none>",
        age(obj, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or "<none>",
        addresses.get("ExternalIP") or "<none>",
        info.get("osImage") or "<unknown>",
        kernel,
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in _ACCESS_MODES if mode in (modes or ()))


def _storage_class(obj: Obj) -> str:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    legacy = annotations.get("volume.beta.kubernetes.io/storage-class")
    return str(legacy if legacy is not None else spec(obj).get("storageClassName") or "")


def _persistent_volume(obj: Obj, now: float) -> list[Any]:
    claim = spec(obj).get("claimRef")
    return [
        name(obj),
        (spec(obj).get("capacity") or {}).get("storage", "0"),
        _modes(spec(obj).get("accessModes")),
        spec(obj).get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if is_deleted(obj) else status(obj).get("phase", ""),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _storage_class(obj),
        spec(obj).get("volumeAttributesClassName", "<unset>"),
        status(obj).get("reason", ""),
        age(obj, now),
        spec(obj).get("volumeMode", "<unset>"),
    ]


def _persistent_volume_claim(obj: Obj, now: float) -> list[Any]:
    bound = bool(spec(obj).get("volumeName"))
    return [
        name(obj),
        "Terminating" if is_deleted(obj) else status(obj).get("phase", ""),
        spec(obj).get("volumeName", ""),
        (status(obj).get("capacity") or {}).get("storage", "0") if bound else "",
        _modes(status(obj).get("accessModes")) if bound else "",
        _storage_class(obj),
        spec(obj).get("volumeAttributesClassName", "<unset>"),
        age(obj, now),
        spec(obj).get("volumeMode", "<unset>"),
    ]


def _pod_template(obj: Obj, now: float) -> list[Any]:
    template = obj.get("template") or {}
    return [name(obj), *containers(template.get("spec")), labels(template.get("metadata", {}).get("labels"))]


def _replication_controller(obj: Obj, now: float) -> list[Any]:
    return [*replica_counts(obj, now), labels(spec(obj).get("selector"))]


def _resource_quota(obj: Obj, now: float) -> list[Any]:
    used = status(obj).get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for resource, hard in sorted((status(obj).get("hard") or {}).items()):
        column = limits if resource.startswith("limits.") else requests
        column.append(f"{resource}: {used.get(resource, '0')}/{hard}")
    return [name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _secret(obj: Obj, now: float) -> list[Any]:
    return [name(obj), obj.get("type", ""), len(obj.get("data") or ()), age(obj, now)]


def load_balancer(value: Obj | None) -> str:
    """``loadBalancerStatusStringer`` in its wide form, which Tables always use."""
    found = {i.get("ip") or i.get("hostname") or "" for i in (value or {}).get("ingress") or ()}
    return ",".join(sorted(found - {""}))


def _external_ip(obj: Obj) -> str:
    kind, external = spec(obj).get("type"), spec(obj).get("externalIPs") or []
    if kind in ("ClusterIP", "NodePort"):
        return ",".join(external) or "<none>"
    if kind == "LoadBalancer":
        balancer = load_balancer(status(obj).get("loadBalancer"))
        return ",".join([balancer, *external] if balancer else external) or "<pending>"
    return spec(obj).get("externalName", "") if kind == "ExternalName" else "<unknown>"


def _service(obj: Obj, now: float) -> list[Any]:
    ports = []
    for port in spec(obj).get("ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port', 0)}{node}/{port.get('protocol', '')}")
    addresses = spec(obj).get("clusterIPs") or ()
    return [
        name(obj),
        spec(obj).get("type", ""),
        addresses[0] if addresses else "<none>",
        _external_ip(obj),
        ",".join(ports) or "<none>",
        age(obj, now),
        labels(spec(obj).get("selector")),
    ]


def _service_account(obj: Obj, now: float) -> list[Any]:
    return [name(obj), age(obj, now)]


CELLS = {
    "ComponentStatus": _component_status,
    "ConfigMap": _config_map,
    "Endpoints": _endpoints,
    "Event": event,
    "Namespace": _namespace,
    "Node": _node,
    "PersistentVolume": _persistent_volume,
    "PersistentVolumeClaim": _persistent_volume_claim,
    "Pod": pod,
    "PodTemplate": _pod_template,
    "ReplicationController": _replication_controller,
    "ResourceQuota": _resource_quota,
    "Secret": _secret,
    "Service": _service,
    "ServiceAccount": _service_account,
}
