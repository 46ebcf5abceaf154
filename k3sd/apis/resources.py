"""Every served built-in resource, one row each: the API surface of Kubernetes 1.36 in its stable versions.

Names are the upper-case plural (``PODS``); a version that is not the group's preferred one carries a suffix
(``HORIZONTALPODAUTOSCALERS_V1``), and events.k8s.io's events are ``EVENTS_EVENTS``. Source: upstream's discovery documents
(``api/discovery``).
"""

from __future__ import annotations

from functools import cache

from k3sd.apimachinery.resource import Resource, Subresource

_CRUD = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_SUB = ("get", "patch", "update")
_PROXY = ("create", "delete", "get", "patch", "update")
_PACKAGES = {
    "": "io.k8s.api.core",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
}


def package(group: str, version: str) -> str:
    """The schema package of a group version: ``("apps", "v1")`` is ``io.k8s.api.apps.v1``."""
    return f"{_PACKAGES.get(group) or 'io.k8s.api.' + group.partition('.')[0]}.{version}"


def _split(group_version: str) -> tuple[str, str]:
    group, _, version = group_version.rpartition("/")
    return group, version


def _sub(parent: str, kind: str, text: str) -> Subresource:
    """``status`` (the parent's kind, get/patch/update), ``scale``, or ``name=[group/version.]Kind:verb,verb``."""
    name, _, rest = text.partition("=")
    if name == "scale":
        rest = "autoscaling/v1.Scale"
    what, _, verbs = rest.partition(":")
    where, _, sub_kind = what.rpartition(".")
    group, version = _split(where or parent)
    sub_kind = sub_kind or kind
    allowed = tuple(verbs.split(",")) if verbs else _SUB
    return Subresource(name, sub_kind, allowed, group, version, f"{package(group, version)}.{sub_kind}")


def _row(
    group_version: str,
    plural: str,
    kind: str,
    subs: str = "",
    *,
    cluster: bool = False,
    short: str = "",
    categories: str = "",
    verbs: tuple[str, ...] = _CRUD,
    deprecation: str = "",
) -> Resource:
    group, version = _split(group_version)
    return Resource(
        group,
        version,
        plural,
        kind,
        not cluster,
        verbs,
        f"{package(group, version)}.{kind}",
        kind.lower(),
        tuple(short.split()),
        tuple(categories.split()),
        tuple(_sub(group_version, kind, text) for text in subs.split()),
        f"{version} {kind} is deprecated in {deprecation}" if deprecation else "",
    )


_C, _ADMIT, _APPS, _BATCH = "v1", "admissionregistration.k8s.io/v1", "apps/v1", "batch/v1"
_NET, _RBAC, _DRA, _STORAGE = (
    "networking.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
    "resource.k8s.io/v1",
    "storage.k8s.io/v1",
)
_AUTHN, _AUTHZ, _FLOW = "authentication.k8s.io/v1", "authorization.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1"
_CREATE = ("create",)
_POD_SUBS = (
    "attach=PodAttachOptions:create,get binding=Binding:create ephemeralcontainers eviction=policy/v1.Eviction:create "
    "exec=PodExecOptions:create,get log=Pod:get portforward=PodPortForwardOptions:create,get "
    f"proxy=PodProxyOptions:{','.join(_PROXY)} resize status"
)

BINDINGS = _row(_C, "bindings", "Binding", verbs=_CREATE)
COMPONENTSTATUSES = _row(
    _C, "componentstatuses", "ComponentStatus", cluster=True, short="cs", verbs=("get", "list"), deprecation="v1.19+"
)
CONFIGMAPS = _row(_C, "configmaps", "ConfigMap", short="cm")
ENDPOINTS = _row(_C, "endpoints", "Endpoints", short="ep", deprecation="v1.33+; use discovery.k8s.io/v1 EndpointSlice")
EVENTS = _row(_C, "events", "Event", short="ev")
LIMITRANGES = _row(_C, "limitranges", "LimitRange", short="limits")
NAMESPACES = _row(
    _C,
    "namespaces",
    "Namespace",
    "finalize=Namespace:update status",
    cluster=True,
    short="ns",
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
)
NODES = _row(_C, "nodes", "Node", f"proxy=NodeProxyOptions:{','.join(_PROXY)} status", cluster=True, short="no")
PERSISTENTVOLUMECLAIMS = _row(_C, "persistentvolumeclaims", "PersistentVolumeClaim", "status", short="pvc")
PERSISTENTVOLUMES = _row(_C, "persistentvolumes", "PersistentVolume", "status", cluster=True, short="pv")
PODS = _row(_C, "pods", "Pod", _POD_SUBS, short="po", categories="all")
PODTEMPLATES = _row(_C, "podtemplates", "PodTemplate")
REPLICATIONCONTROLLERS = _row(
    _C, "replicationcontrollers", "ReplicationController", "scale status", short="rc", categories="all"
)
RESOURCEQUOTAS = _row(_C, "resourcequotas", "ResourceQuota", "status", short="quota")
SECRETS = _row(_C, "secrets", "Secret")
SERVICEACCOUNTS = _row(_C, "serviceaccounts", "ServiceAccount", f"token={_AUTHN}.TokenRequest:create", short="sa")
SERVICES = _row(
    _C, "services", "Service", f"proxy=ServiceProxyOptions:{','.join(_PROXY)} status", short="svc", categories="all"
)

_EXT = "api-extensions"
MUTATINGADMISSIONPOLICIES = _row(_ADMIT, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", cluster=True, categories=_EXT)
MUTATINGADMISSIONPOLICYBINDINGS = _row(
    _ADMIT, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", cluster=True, categories=_EXT
)
MUTATINGWEBHOOKCONFIGURATIONS = _row(
    _ADMIT, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", cluster=True, categories=_EXT
)
VALIDATINGADMISSIONPOLICIES = _row(
    _ADMIT, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "status", cluster=True, categories=_EXT
)
VALIDATINGADMISSIONPOLICYBINDINGS = _row(
    _ADMIT, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", cluster=True, categories=_EXT
)
VALIDATINGWEBHOOKCONFIGURATIONS = _row(
    _ADMIT, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", cluster=True, categories=_EXT
)
CUSTOMRESOURCEDEFINITIONS = _row(
    "apiextensions.k8s.io/v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    "status",
    cluster=True,
    short="crd crds",
    categories=_EXT,
)
APISERVICES = _row("apiregistration.k8s.io/v1", "apiservices", "APIService", "status", cluster=True, categories=_EXT)

CONTROLLERREVISIONS = _row(_APPS, "controllerrevisions", "ControllerRevision")
DAEMONSETS = _row(_APPS, "daemonsets", "DaemonSet", "status", short="ds", categories="all")
DEPLOYMENTS = _row(_APPS, "deployments", "Deployment", "scale status", short="deploy", categories="all")
REPLICASETS = _row(_APPS, "replicasets", "ReplicaSet", "scale status", short="rs", categories="all")
STATEFULSETS = _row(_APPS, "statefulsets", "StatefulSet", "scale status", short="sts", categories="all")

SELFSUBJECTREVIEWS = _row(_AUTHN, "selfsubjectreviews", "SelfSubjectReview", cluster=True, verbs=_CREATE)
TOKENREVIEWS = _row(_AUTHN, "tokenreviews", "TokenReview", cluster=True, verbs=_CREATE)
LOCALSUBJECTACCESSREVIEWS = _row(_AUTHZ, "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=_CREATE)
SELFSUBJECTACCESSREVIEWS = _row(_AUTHZ, "selfsubjectaccessreviews", "SelfSubjectAccessReview", cluster=True, verbs=_CREATE)
SELFSUBJECTRULESREVIEWS = _row(_AUTHZ, "selfsubjectrulesreviews", "SelfSubjectRulesReview", cluster=True, verbs=_CREATE)
SUBJECTACCESSREVIEWS = _row(_AUTHZ, "subjectaccessreviews", "SubjectAccessReview", cluster=True, verbs=_CREATE)

_HPA = ("horizontalpodautoscalers", "HorizontalPodAutoscaler", "status")
HORIZONTALPODAUTOSCALERS = _row("autoscaling/v2", *_HPA, short="hpa", categories="all")
HORIZONTALPODAUTOSCALERS_V1 = _row("autoscaling/v1", *_HPA, short="hpa", categories="all")
CRONJOBS = _row(_BATCH, "cronjobs", "CronJob", "status", short="cj", categories="all")
JOBS = _row(_BATCH, "jobs", "Job", "status", categories="all")
CERTIFICATESIGNINGREQUESTS = _row(
    "certificates.k8s.io/v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    "approval status",
    cluster=True,
    short="csr",
)
LEASES = _row("coordination.k8s.io/v1", "leases", "Lease")
ENDPOINTSLICES = _row("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
EVENTS_EVENTS = _row("events.k8s.io/v1", "events", "Event", short="ev")
FLOWSCHEMAS = _row(_FLOW, "flowschemas", "FlowSchema", "status", cluster=True)
PRIORITYLEVELCONFIGURATIONS = _row(_FLOW, "prioritylevelconfigurations", "PriorityLevelConfiguration", "status", cluster=True)

INGRESSCLASSES = _row(_NET, "ingressclasses", "IngressClass", cluster=True)
INGRESSES = _row(_NET, "ingresses", "Ingress", "status", short="ing")
IPADDRESSES = _row(_NET, "ipaddresses", "IPAddress", cluster=True, short="ip")
NETWORKPOLICIES = _row(_NET, "networkpolicies", "NetworkPolicy", short="netpol")
SERVICECIDRS = _row(_NET, "servicecidrs", "ServiceCIDR", "status", cluster=True)
RUNTIMECLASSES = _row("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", cluster=True)
PODDISRUPTIONBUDGETS = _row("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "status", short="pdb")
CLUSTERROLEBINDINGS = _row(_RBAC, "clusterrolebindings", "ClusterRoleBinding", cluster=True)
CLUSTERROLES = _row(_RBAC, "clusterroles", "ClusterRole", cluster=True)
ROLEBINDINGS = _row(_RBAC, "rolebindings", "RoleBinding")
ROLES = _row(_RBAC, "roles", "Role")

DEVICECLASSES = _row(_DRA, "deviceclasses", "DeviceClass", cluster=True)
RESOURCECLAIMS = _row(_DRA, "resourceclaims", "ResourceClaim", "status")
RESOURCECLAIMTEMPLATES = _row(_DRA, "resourceclaimtemplates", "ResourceClaimTemplate")
RESOURCESLICES = _row(_DRA, "resourceslices", "ResourceSlice", cluster=True)
PRIORITYCLASSES = _row("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", cluster=True, short="pc")
CSIDRIVERS = _row(_STORAGE, "csidrivers", "CSIDriver", cluster=True)
CSINODES = _row(_STORAGE, "csinodes", "CSINode", cluster=True)
CSISTORAGECAPACITIES = _row(_STORAGE, "csistoragecapacities", "CSIStorageCapacity")
STORAGECLASSES = _row(_STORAGE, "storageclasses", "StorageClass", cluster=True, short="sc")
VOLUMEATTACHMENTS = _row(_STORAGE, "volumeattachments", "VolumeAttachment", "status", cluster=True)
VOLUMEATTRIBUTESCLASSES = _row(_STORAGE, "volumeattributesclasses", "VolumeAttributesClass", cluster=True, short="vac")

ALL: tuple[Resource, ...] = tuple(row for row in list(globals().values()) if isinstance(row, Resource))
"""Every row, in the order above: core first, then groups as upstream orders them."""


@cache
def _by_path() -> dict[tuple[str, str, str], Resource]:
    return {(r.group, r.version, r.plural): r for r in ALL}


@cache
def _by_kind() -> dict[tuple[str, str], Resource]:
    return {(r.api_version, r.kind): r for r in ALL}


def find(group: str, version: str, plural: str) -> Resource | None:
    """The row served at this path, or None."""
    return _by_path().get((group, version, plural))


def by_kind(api_version: str, kind: str) -> Resource | None:
    """The row whose objects carry this ``apiVersion`` and ``kind``, or None."""
    return _by_kind().get((api_version, kind))
