"""Every stored kind takes an ordinary object, gives it back unchanged on an empty update, and refuses a bad name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from k3sd.apimachinery.errors import StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources as r
from k3sd.apiserver.authz import build_authorizer
from k3sd.apiserver.startup import make_startup_objects
from k3sd.client.inprocess import InProcessClient
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry

POD = "{containers: [{name: c, image: busybox, ports: [{containerPort: 80}]}]}"
TEMPLATE = f"{{metadata: {{labels: {{a: b}}}}, spec: {POD}}}"
JOB = "{template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}}}"
RULE = "{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}"
HOOK = (
    "{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1], "
    f"clientConfig: {{url: 'https://x.example.com/'}}, rules: [{RULE}]}}"
)
REF = "apiGroup: rbac.authorization.k8s.io"

OBJECTS: list[tuple[Resource, str]] = [
    (r.CONFIGMAPS, "data: {a: b}\nbinaryData: {c: Yg==}"),
    (r.ENDPOINTS, "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]"),
    (r.EVENTS, "involvedObject: {kind: Pod, name: p, namespace: default}\nreason: x\nmessage: y\ntype: Normal"),
    (
        r.EVENTS_EVENTS,
        "regarding: {kind: Pod, name: p, namespace: default}\nreason: x\naction: a\ntype: Normal\nreportingController: k\n"
        "reportingInstance: i\neventTime: '2020-01-01T00:00:00.000001Z'",
    ),
    (r.LIMITRANGES, "spec: {limits: [{type: Container, max: {cpu: 1}, default: {cpu: 500m}, defaultRequest: {cpu: 100m}}]}"),
    (r.NAMESPACES, ""),
    (r.NODES, "spec: {podCIDR: 10.42.0.0/24, taints: [{key: a, effect: NoSchedule}]}\nstatus: {capacity: {cpu: 1}}"),
    (r.PERSISTENTVOLUMECLAIMS, "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}"),
    (r.PERSISTENTVOLUMES, "spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /tmp}}"),
    (r.PODS, f"spec: {POD}"),
    (r.PODTEMPLATES, f"template: {TEMPLATE}"),
    (r.REPLICATIONCONTROLLERS, f"spec: {{selector: {{a: b}}, template: {TEMPLATE}}}"),
    (r.RESOURCEQUOTAS, "spec: {hard: {cpu: 1, pods: 5, count/deployments.apps: 2, requests.example.com/gpu: 1}}"),
    (r.SECRETS, "stringData: {a: b}"),
    (r.SERVICEACCOUNTS, ""),
    (r.SERVICES, "spec: {selector: {a: b}, ports: [{port: 80, targetPort: http}]}"),
    (r.MUTATINGWEBHOOKCONFIGURATIONS, f"webhooks: [{HOOK}]"),
    (r.VALIDATINGWEBHOOKCONFIGURATIONS, f"webhooks: [{HOOK}]"),
    (
        r.VALIDATINGADMISSIONPOLICIES,
        f"spec: {{matchConstraints: {{resourceRules: [{RULE}]}}, validations: [{{expression: 'true'}}]}}",
    ),
    (r.VALIDATINGADMISSIONPOLICYBINDINGS, "spec: {policyName: p, validationActions: [Deny]}"),
    (
        r.MUTATINGADMISSIONPOLICIES,
        f"spec: {{matchConstraints: {{resourceRules: [{RULE}]}}, reinvocationPolicy: Never, mutations: "
        "[{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}]}",
    ),
    (r.MUTATINGADMISSIONPOLICYBINDINGS, "spec: {policyName: p}"),
    (
        r.CUSTOMRESOURCEDEFINITIONS,
        "metadata: {name: foos.example.com}\nspec: {group: example.com, scope: Namespaced, names: {plural: foos, kind: Foo}, "
        "versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}",
    ),
    (
        r.APISERVICES,
        "metadata: {name: v1.example.com}\nspec: {group: example.com, version: v1, groupPriorityMinimum: 100, "
        "versionPriority: 10, insecureSkipTLSVerify: true, service: {namespace: a, name: b}}",
    ),
    (r.CONTROLLERREVISIONS, "revision: 1\ndata: {a: b}"),
    (r.DAEMONSETS, f"spec: {{selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}}}"),
    (r.DEPLOYMENTS, f"spec: {{selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}}}"),
    (r.REPLICASETS, f"spec: {{selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}}}"),
    (r.STATEFULSETS, f"spec: {{serviceName: s, selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}}}"),
    (
        r.HORIZONTALPODAUTOSCALERS,
        "spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d, apiVersion: apps/v1}, metrics: "
        "[{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}",
    ),
    (r.HORIZONTALPODAUTOSCALERS_V1, "spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d}}"),
    (r.CRONJOBS, f"spec: {{schedule: '*/5 1-3 ? jan,FEB mon', timeZone: UTC, jobTemplate: {{spec: {JOB}}}}}"),
    (r.JOBS, f"spec: {JOB}"),
    (r.LEASES, "spec: {holderIdentity: x, leaseDurationSeconds: 40}"),
    (r.ENDPOINTSLICES, "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 80, name: ''}]"),
    (
        r.FLOWSCHEMAS,
        "spec: {matchingPrecedence: 500, priorityLevelConfiguration: {name: x}, rules: [{subjects: "
        "[{kind: User, user: {name: u}}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: ['*']}]}]}",
    ),
    (
        r.PRIORITYLEVELCONFIGURATIONS,
        "spec: {type: Limited, limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}}",
    ),
    (r.INGRESSCLASSES, "spec: {controller: example.com/c}"),
    (
        r.INGRESSES,
        "spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: "
        "{number: 80}}}}]}}]}",
    ),
    (r.IPADDRESSES, "metadata: {name: 'fd00::1'}\nspec: {parentRef: {resource: services, name: s, namespace: default}}"),
    (
        r.NETWORKPOLICIES,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], "
        "ports: [{port: 80}]}]}",
    ),
    (r.SERVICECIDRS, "spec: {cidrs: [10.50.0.0/24]}"),
    (r.RUNTIMECLASSES, "handler: runc"),
    (r.PODDISRUPTIONBUDGETS, "spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}"),
    (r.CLUSTERROLES, "rules: [{verbs: [get], apiGroups: [''], resources: [pods]}, {verbs: [get], nonResourceURLs: [/x]}]"),
    (r.ROLES, "rules: [{verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [a]}]"),
    (r.CLUSTERROLEBINDINGS, f"roleRef: {{{REF}, kind: ClusterRole, name: x}}\nsubjects: [{{kind: User, name: u, {REF}}}]"),
    (r.ROLEBINDINGS, f"roleRef: {{{REF}, kind: Role, name: x}}\nsubjects: [{{kind: ServiceAccount, name: u, namespace: n}}]"),
    (r.DEVICECLASSES, "spec: {selectors: [{cel: {expression: 'true'}}]}"),
    (r.RESOURCECLAIMS, "spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c}}]}}"),
    (r.RESOURCECLAIMTEMPLATES, "spec: {spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c}}]}}}"),
    (
        r.RESOURCESLICES,
        "spec: {driver: d.example.com, nodeName: n, pool: {name: p, generation: 1, resourceSliceCount: 1}, "
        "devices: [{name: a}]}",
    ),
    (r.PRIORITYCLASSES, "value: 10"),
    (r.CSIDRIVERS, "spec: {}"),
    (r.CSINODES, "spec: {drivers: [{name: d.example.com, nodeID: n}]}"),
    (r.CSISTORAGECAPACITIES, "storageClassName: s\ncapacity: 1Gi"),
    (r.STORAGECLASSES, "provisioner: example.com/p"),
    (r.VOLUMEATTACHMENTS, "spec: {attacher: d.example.com, nodeName: n, source: {persistentVolumeName: p}}"),
    (r.VOLUMEATTRIBUTESCLASSES, "driverName: d.example.com\nparameters: {a: b}"),
]
IDS = [f"{row.plural}-{row.group}-{row.version}" for row, _ in OBJECTS]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[InProcessClient]:
    async with open_registry(Settings(data_dir=str(tmp_path))) as registry:
        authorizer = build_authorizer(registry.settings, registry)
        await make_startup_objects(registry)
        out = registry.client()
        await out.create(r.SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
        yield out
        assert authorizer.aggregator is not None
        await authorizer.aggregator.stop()


def build(row: Resource, text: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(text) or {}
    body.setdefault("metadata", {}).setdefault("name", "test-object")
    return body


def test_all_stored_kinds_are_here() -> None:
    stored = {row for row in r.ALL if "update" in row.verbs and row.version in ("v1", "v2")}
    assert stored - {row for row, _ in OBJECTS} == {r.CERTIFICATESIGNINGREQUESTS}


@pytest.mark.parametrize(("row", "text"), OBJECTS, ids=IDS)
async def test_ordinary_object(client: InProcessClient, row: Resource, text: str) -> None:
    namespace = "default" if row.namespaced else None
    made = deepcopy(await client.create(row, build(row, text), namespace))
    if row is r.NODES:
        assert made["status"]["capacity"] == {"cpu": "1"}
    again = await client.update(row, deepcopy(made))
    assert again == made
    made["metadata"]["labels"] = {**(made["metadata"].get("labels") or {}), "new": "label"}
    labelled = await client.update(row, deepcopy(made))
    assert int(labelled["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    bumped = row is r.ENDPOINTSLICES
    assert labelled["metadata"].get("generation", 0) == made["metadata"].get("generation", 0) + bumped


@pytest.mark.parametrize(("row", "text"), OBJECTS, ids=IDS)
async def test_bad_name(client: InProcessClient, row: Resource, text: str) -> None:
    body = build(row, text)
    body["metadata"]["name"] = "Not/Good"
    with pytest.raises(StatusError) as caught:
        await client.create(row, body, "default" if row.namespaced else None)
    assert caught.value.code == 422
    assert "metadata.name" in caught.value.message
