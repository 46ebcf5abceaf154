"""Validation texts of the kinds around the workloads."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from k3sd.apimachinery import schema
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources as r
from k3sd.apiserver import kinds
from k3sd.apiserver.request import LOOPBACK, RequestContext


class NoRegistry:
    """Strategies that validate need no registry but for authorization, which is off here."""

    authorizer = None


STRATEGIES = kinds.load(NoRegistry())  # type: ignore[arg-type]


def complete(row: Resource, text: str) -> dict[str, Any]:
    obj: dict[str, Any] = yaml.safe_load(text) or {}
    obj.setdefault("metadata", {}).setdefault("name", "x")
    if row.namespaced:
        obj["metadata"].setdefault("namespace", "default")
    conform(obj, schema.types.get(row.type_name))
    apply_defaults(obj, row)
    return obj


ROLE_REF = "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}"
CRD = "metadata: {name: %s}\nspec: {group: %s, scope: Namespaced, names: {plural: foos, kind: Foo}, versions: [%s]}"
VERSION = "{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}"


@pytest.mark.parametrize(
    ("row", "text", "expected"),
    [
        (
            r.ENDPOINTS,
            "subsets: [{addresses: [{ip: 127.0.0.1}], ports: [{port: 1}]}]",
            ['subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'],
        ),
        (
            r.ENDPOINTSLICES,
            "addressType: IPv4\nendpoints: [{addresses: ['2001:db8::1']}]",
            ['endpoints[0].addresses[0]: Invalid value: "2001:db8::1": must be an IPv4 address'],
        ),
        (r.ENDPOINTSLICES, "endpoints: []", ["addressType: Required value"]),
        (
            r.EVENTS,
            "involvedObject: {namespace: other}",
            ['involvedObject.namespace: Invalid value: "other": does not match event.namespace'],
        ),
        (
            r.EVENTS_EVENTS,
            "regarding: {namespace: default}\nreason: a\ntype: Normal\neventTime: '2020-01-01T00:00:00.000000Z'",
            ["reportingController: Required value", "reportingInstance: Required value", "action: Required value"],
        ),
        (
            r.PODDISRUPTIONBUDGETS,
            "spec: {minAvailable: 1, maxUnavailable: 1}",
            [
                'spec: Invalid value: {"minAvailable":1,"maxUnavailable":1}: minAvailable and maxUnavailable cannot be both set'
            ],
        ),
        (r.PODDISRUPTIONBUDGETS, "spec: {minAvailable: 101%}",
         ['spec.minAvailable: Invalid value: "101%": must not be greater than 100%']),
        (
            r.PRIORITYCLASSES,
            "metadata: {name: system-x}\nvalue: 1",
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
                "system-x is not a known system priority class"
            ],
        ),
        (
            r.PRIORITYCLASSES,
            "value: 2000000000",
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        ),
        (
            r.RESOURCEQUOTAS,
            "spec: {hard: {cpus: 1}}",
            ['spec.hard[cpus]: Invalid value: "cpus": must be a standard resource for quota'],
        ),
        (
            r.LIMITRANGES,
            "spec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}",
            [
                'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
                'spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1',
                'spec.limits[0].default[cpu]: Invalid value: "1": min value 2 is greater than default value 1',
            ],
        ),
        (r.ROLES, "rules: [{verbs: [get], nonResourceURLs: [/x]}]",
         ['rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs']),
        (r.CLUSTERROLES, "rules: [{apiGroups: [''], resources: [pods]}]",
         ["rules[0].verbs: Required value: verbs must contain at least one value"]),
        (r.CLUSTERROLEBINDINGS, f"{ROLE_REF}\nsubjects: [{{kind: ServiceAccount, name: a}}]",
         ["subjects[0].namespace: Required value"]),
        (
            r.PERSISTENTVOLUMECLAIMS,
            "spec: {resources: {requests: {storage: 1Gi}}}",
            ["spec.accessModes: Required value: at least 1 access mode is required"],
        ),
        (r.PERSISTENTVOLUMES, "spec: {accessModes: [ReadWriteOnce], hostPath: {path: /x}}", ["spec.capacity: Required value"]),
        (
            r.PERSISTENTVOLUMES,
            "spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}",
            ["spec: Required value: must specify a volume type"],
        ),
        (r.STORAGECLASSES, "parameters: {a: b}", ["provisioner: Required value"]),
        (r.INGRESSES, "spec: {}", ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
        (
            r.INGRESSES,
            "spec: {rules: [{http: {paths: [{path: x, pathType: Prefix, backend: {service: {name: s, port: {number: 1}}}}]}}]}",
            ['spec.rules[0].http.paths[0].path: Invalid value: "x": must be an absolute path'],
        ),
        (r.NETWORKPOLICIES, "spec: {podSelector: {}, ingress: [{from: [{}]}]}",
         ["spec.ingress[0].from[0]: Required value: must specify a peer"]),
        (r.IPADDRESSES, "metadata: {name: '::0001'}\nspec: {parentRef: {resource: a, name: b}}",
         ['metadata.name: Invalid value: "::0001": must be a canonical format IP address']),
        (r.SERVICECIDRS, "spec: {cidrs: [10.0.0.1/24]}",
         ['spec.cidrs[0]: Invalid value: "10.0.0.1/24": must be in canonical form (10.0.0.0/24)']),
        (r.RUNTIMECLASSES, "handler: ''", ["handler: Required value"]),
        (
            r.CUSTOMRESOURCEDEFINITIONS,
            CRD % ("bars.example.com", "example.com", VERSION),
            ['metadata.name: Invalid value: "bars.example.com": must be spec.names.plural+"."+spec.group'],
        ),
        (
            r.CUSTOMRESOURCEDEFINITIONS,
            CRD % ("foos.example.com", "example.com", "{name: v1, served: true, storage: true}"),
            ["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"],
        ),
        (
            r.CUSTOMRESOURCEDEFINITIONS,
            CRD % ("foos.x.k8s.io", "x.k8s.io", VERSION),
            [
                "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval "
                'annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111'
            ],
        ),
        (
            r.VALIDATINGWEBHOOKCONFIGURATIONS,
            "webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'http://x.y'}}]",
            [
                'webhooks[0].clientConfig.url: Invalid value: "http://x.y": \'https\' is the only allowed URL scheme; desired '
                "format: https://host[/path]"
            ],
        ),
        (
            r.HORIZONTALPODAUTOSCALERS,
            "spec: {minReplicas: 3, maxReplicas: 2, scaleTargetRef: {kind: D, name: d}}",
            ["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"],
        ),
        (r.CRONJOBS, "spec: {schedule: '* * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: "
         "[{name: c, image: i}]}}}}}",
         ['spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]']),
        (r.LEASES, "spec: {leaseDurationSeconds: 0}", ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]),
        (r.VOLUMEATTACHMENTS, "spec: {attacher: a.b, nodeName: n}",
         ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]),
    ],
)  # fmt: skip
def test_create(row: Resource, text: str, expected: list[str]) -> None:
    ctx = RequestContext(LOOPBACK, "create", row, privileged=True)
    assert [str(e) for e in STRATEGIES[row].validate_create(ctx, complete(row, text))] == expected


@pytest.mark.parametrize(
    ("row", "old", "new", "expected"),
    [
        (r.PRIORITYCLASSES, "value: 1", "value: 2", "value: Forbidden: may not be changed in an update."),
        (
            r.CONFIGMAPS,
            "immutable: true\ndata: {a: b}",
            "immutable: true\ndata: {a: c}",
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (r.SECRETS, "type: Opaque", "type: example.com/x", 'type: Invalid value: "example.com/x": field is immutable'),
        (
            r.STORAGECLASSES,
            "provisioner: a.b/c",
            "provisioner: a.b/d",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        ),
        (r.RUNTIMECLASSES, "handler: a", "handler: b", 'handler: Invalid value: "b": field is immutable'),
        (
            r.ROLEBINDINGS,
            ROLE_REF,
            ROLE_REF.replace("name: r", "name: s"),
            "cannot change roleRef",
        ),
        (r.NODES, "spec: {podCIDRs: [10.0.0.0/24]}", "spec: {podCIDRs: [10.0.1.0/24]}",
         'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'),
        (r.CONTROLLERREVISIONS, "revision: 1\ndata: {a: 1}", "revision: 2\ndata: {a: 1}", ""),
        (r.CONTROLLERREVISIONS, "revision: 1\ndata: {a: 1}", "revision: 1\ndata: {a: 2}", "field is immutable"),
    ],
)  # fmt: skip
def test_update(row: Resource, old: str, new: str, expected: str) -> None:
    ctx = RequestContext(LOOPBACK, "update", row, privileged=True)
    errors = [str(e) for e in STRATEGIES[row].validate_update(ctx, complete(row, new), complete(row, old))]
    assert any(expected in e for e in errors) if expected else not errors


@pytest.mark.parametrize(
    ("row", "text", "expected"),
    [
        (r.NAMESPACES, "status: {phase: Active}", {"status.phase": "Active"}),
        (r.NODES, "spec: {unschedulable: true}", {"spec.unschedulable": "true"}),
        (r.JOBS, "status: {succeeded: 2}", {"status.successful": "2"}),
        (r.SECRETS, "type: a", {"type": "a"}),
        (r.REPLICATIONCONTROLLERS, "status: {replicas: 3}", {"status.replicas": "3"}),
        (r.SERVICES, "spec: {type: ClusterIP, clusterIP: None}", {"spec.clusterIP": "None", "spec.type": "ClusterIP"}),
        (r.CERTIFICATESIGNINGREQUESTS, "spec: {signerName: a/b}", {"spec.signerName": "a/b"}),
        (r.RESOURCESLICES, "spec: {nodeName: n, driver: d}", {"spec.nodeName": "n", "spec.driver": "d"}),
    ],
)
def test_selectable_fields(row: Resource, text: str, expected: dict[str, str]) -> None:
    assert STRATEGIES[row].selectable_fields(yaml.safe_load(text)) == expected
