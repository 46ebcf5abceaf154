"""Defaults of core/v1. Source: ``pkg/apis/core/v1/defaults.go`` and the ``+default`` tags of ``types.go``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import Obj

_ISCSI = {"iscsiInterface": "default"}
_RBD = {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"}
_SCALE_IO = {"storageMode": "ThinProvisioned", "fsType": "xfs"}
_MODE = {"defaultMode": 0o644}

CONSTANTS: dict[str, dict[str, Any]] = {
    "AzureDiskVolumeSource": {
        "cachingMode": "ReadWrite",
        "fsType": "ext4",
        "readOnly": False,
        "kind": "Shared",
    },
    "ConfigMapVolumeSource": _MODE,
    "Container": {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"},
    "ContainerPort": {"protocol": "TCP"},
    "DownwardAPIVolumeSource": _MODE,
    "EndpointPort": {"protocol": "TCP"},
    "EphemeralContainer": {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"},
    "FileKeySelector": {"optional": False},
    "GRPCAction": {"service": ""},
    "HTTPGetAction": {"path": "/", "scheme": "HTTP"},
    "HostPathVolumeSource": {"type": ""},
    "ISCSIPersistentVolumeSource": _ISCSI,
    "ISCSIVolumeSource": _ISCSI,
    "NamespaceStatus": {"phase": "Active"},
    "ObjectFieldSelector": {"apiVersion": "v1"},
    "PersistentVolumeClaimSpec": {"volumeMode": "Filesystem"},
    "PersistentVolumeClaimStatus": {"phase": "Pending"},
    "PersistentVolumeSpec": {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
    "PersistentVolumeStatus": {"phase": "Pending"},
    "PodSpec": {
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    },
    "Probe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
    "ProjectedVolumeSource": _MODE,
    "RBDPersistentVolumeSource": _RBD,
    "RBDVolumeSource": _RBD,
    "ReplicationControllerSpec": {"replicas": 1},
    "ScaleIOPersistentVolumeSource": _SCALE_IO,
    "ScaleIOVolumeSource": _SCALE_IO,
    "Secret": {"type": "Opaque"},
    "SecretVolumeSource": _MODE,
    "ServiceAccountTokenProjection": {"expirationSeconds": 3600},
    "ServicePort": {"protocol": "TCP"},
    "ServiceSpec": {"sessionAffinity": "None", "type": "ClusterIP"},
}
_CLIENT_IP_SECONDS = 10800


def pull_policy(image: str) -> str:
    """``Always`` for the tag latest, given or implied; else ``IfNotPresent``."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2] or ("" if digest else "latest")
    return "Always" if image and tag == "latest" else "IfNotPresent"


def _container(obj: Obj) -> None:
    if not obj.get("imagePullPolicy"):
        obj["imagePullPolicy"] = pull_policy(obj.get("image", ""))


def _volume(obj: Obj) -> None:
    if not obj.keys() - {"name"}:
        obj["emptyDir"] = {}
    image = obj.get("image")
    if image is not None and not image.get("pullPolicy"):
        image["pullPolicy"] = pull_policy(image.get("reference", ""))


def _resources(obj: Obj) -> None:
    """``SetDefaults_ResourceList``: amounts are rounded up to thousandths."""
    for which in ("limits", "requests"):
        amounts: dict[str, str] = obj.get(which) or {}
        for name, text in amounts.items():
            if text[-1:] in ("u", "n"):
                amounts[name] = str(quantity.from_milli(quantity.parse(text).milli()))


def _pod(obj: Obj) -> None:
    spec = obj["spec"]
    containers = spec.get("containers") or []
    inits = spec.get("initContainers") or []
    for container in (*containers, *inits):
        resources = container.get("resources") or {}
        if limits := resources.get("limits"):
            resources["requests"] = {**limits, **(resources.get("requests") or {})}
    if spec.get("resources"):
        _pod_resources(spec)
    spec.setdefault("enableServiceLinks", True)
    if spec.get("hostNetwork"):
        for container in (*containers, *inits):
            for port in container.get("ports") or ():
                if not port.get("hostPort"):
                    port["hostPort"] = port.get("containerPort", 0)


def _pod_resources(spec: Obj) -> None:
    """``defaultHugePagePodLimits`` and ``defaultPodRequests``: pod-level amounts from the containers'."""
    pod = spec["resources"]
    if pod.get("limits") or pod.get("requests"):
        limits = dict(pod.get("limits") or {})
        for name, amount in _aggregate(spec, "limits").items():
            if name.startswith("hugepages-") and name not in (pod.get("requests") or {}):
                limits.setdefault(name, amount)
        if limits:
            pod["limits"] = limits
    if pod.get("limits"):
        requests = dict(pod.get("requests") or {})
        for name, amount in _aggregate(spec, "requests").items():
            if name in ("cpu", "memory"):
                requests.setdefault(name, amount)
        for name, amount in pod["limits"].items():
            if name in ("cpu", "memory") or name.startswith("hugepages-"):
                requests.setdefault(name, amount)
        if requests:
            pod["requests"] = requests


def _aggregate(spec: Obj, which: str) -> dict[str, str]:
    """What the containers need together: the running ones' sum, or one init container with the sidecars before it."""
    total: dict[str, quantity.Quantity] = {}
    sidecars: dict[str, quantity.Quantity] = {}
    peak: dict[str, quantity.Quantity] = {}

    def amounts(container: Obj) -> Iterable[tuple[str, quantity.Quantity]]:
        found = (container.get("resources") or {}).get(which) or {}
        return [(name, quantity.parse(text)) for name, text in found.items()]

    def add(into: dict[str, quantity.Quantity], items: Iterable[tuple[str, quantity.Quantity]]) -> None:
        for name, amount in items:
            into[name] = into[name] + amount if name in into else amount

    for container in spec.get("containers") or ():
        add(total, amounts(container))
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            add(total, amounts(container))
            add(sidecars, amounts(container))
            continue
        need = dict(sidecars)
        add(need, amounts(container))
        for name, amount in need.items():
            peak[name] = max(peak.get(name, amount), amount)
    for name, amount in peak.items():
        total[name] = max(total.get(name, amount), amount)
    return {name: str(amount) for name, amount in total.items()}


def _service(obj: Obj) -> None:
    spec = obj["spec"]
    affinity = spec.get("sessionAffinity") or "None"
    if affinity == "None":
        spec.pop("sessionAffinityConfig", None)
    elif affinity == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        if client.get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": _CLIENT_IP_SECONDS}}
    kind = spec.get("type") or "ClusterIP"
    for port in spec.get("ports") or ():
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    external = kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
        balancer = (obj.get("status") or {}).get("loadBalancer") or {}
        for ingress in balancer.get("ingress") or ():
            if ingress.get("ip"):
                ingress.setdefault("ipMode", "VIP")


def _replication_controller(obj: Obj) -> None:
    spec = obj["spec"]
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)


def _namespace(obj: Obj) -> None:
    if name := obj["metadata"].get("name"):
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name


def _node_status(obj: Obj) -> None:
    if "allocatable" not in obj and obj.get("capacity"):
        obj["allocatable"] = dict(obj["capacity"])


def _limit_range_item(obj: Obj) -> None:
    if obj.get("type") != "Container":
        return
    default = {**(obj.get("max") or {}), **(obj.get("default") or {})}
    request = {**(obj.get("min") or {}), **default, **(obj.get("defaultRequest") or {})}
    if default:
        obj["default"] = default
    if request:
        obj["defaultRequest"] = request


HOOKS: dict[str, Callable[[Obj], None]] = {
    "Container": _container,
    "EphemeralContainer": _container,
    "LimitRangeItem": _limit_range_item,
    "Namespace": _namespace,
    "NodeStatus": _node_status,
    "Pod": _pod,
    "ReplicationController": _replication_controller,
    "ResourceRequirements": _resources,
    "Service": _service,
    "Volume": _volume,
}
