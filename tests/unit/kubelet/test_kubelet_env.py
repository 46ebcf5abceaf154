import base64
from typing import Any

import pytest

from k3sd.apimachinery.errors import not_found
from k3sd.kubelet import downward
from k3sd.kubelet.env import EnvError, build_environment, expand, expand_strict, service_variables

Obj = dict[str, Any]
ENV = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}


# The table of upstream's third_party/forked/golang/expansion/expand_test.go, in our own words.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)-$(VAR_A)-$(VAR_C)", "A-A-C"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("foo$$(VAR_A)bar", "foo$(VAR_A)bar"),
        ("foo$$$(VAR_A)bar", "foo$Abar"),
        ("foo$$$$(VAR_A)bar", "foo$$(VAR_A)bar"),
        ("$$$$$$$(VAR_A)", "$$$A"),
        ("$VAR_A", "$VAR_A"),
        ("${VAR_A}", "${VAR_A}"),
        ("$(VAR_A", "$(VAR_A"),
        ("$((VAR_A))", "$((VAR_A))"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$()", "$()"),
        ("$", "$"),
        ("$$", "$"),
        ("a$", "a$"),
        ("$(VAR_A)$", "A$"),
        ("--$(VAR_A--$(VAR_B)", "--$(VAR_A--$(VAR_B)"),
        ("$?", "$?"),
        ("", ""),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, ENV) == expected


def test_expand_strict_names_what_is_missing() -> None:
    assert expand_strict("$(VAR_A)/x", ENV) == "A/x"
    with pytest.raises(EnvError, match=r"^missing value for NOPE, VAR_EMPTY$"):
        expand_strict("$(VAR_EMPTY)/$(NOPE)", ENV)


class Objects:
    def __init__(self, **objects: Obj) -> None:
        self.objects = objects
        self.all_services: list[Obj] = []

    async def get_config_map(self, namespace: str, name: str) -> Obj:
        if name not in self.objects:
            raise not_found("", "configmap", name)
        return self.objects[name]

    async def get_secret(self, namespace: str, name: str) -> Obj:
        if name not in self.objects:
            raise not_found("", "secret", name)
        return self.objects[name]

    async def services(self, namespace: str) -> list[Obj]:
        return self.all_services


def pod(**spec: Any) -> Obj:
    return {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "u-1",
            "labels": {"b": "2", "a": 'x"y\n'},
            "annotations": {"k.io/z": "v"},
        },
        "spec": {"nodeName": "n1", "serviceAccountName": "default", "enableServiceLinks": True, **spec},
    }


def service(name: str, namespace: str, ip: str, *ports: Obj) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": list(ports)}}


async def build(container: Obj, objects: Objects | None = None, a_pod: Obj | None = None) -> dict[str, str]:
    pairs = await build_environment(
        a_pod or pod(),
        container,
        objects or Objects(),
        {"cpu": "4", "memory": "8Gi"},
        pod_ips=("10.42.0.5", "fd00::5"),
        host_ips=("192.0.2.1",),
    )
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


async def test_order_override_and_expansion() -> None:
    objects = Objects(cm={"data": {"K": "from-map", "OTHER": "o"}}, sec={"data": {"S": base64.b64encode(b"pw").decode()}})
    env = await build(
        {
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "data-1.", "secretRef": {"name": "sec"}}],
            "env": [
                {"name": "K", "value": "own"},
                {"name": "L", "value": "$(K)/$(OTHER)/$(LATER)/$$(K)"},
                {"name": "LATER", "value": "x"},
                {"name": "EMPTY"},
            ],
        },
        objects,
    )
    assert env == {"K": "own", "OTHER": "o", "data-1.S": "pw", "L": "own/o/$(LATER)/$(K)", "LATER": "x", "EMPTY": ""}


def field(path: str) -> Obj:
    return {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['k.io/z']", "v"),
        ("metadata.labels", 'a="x\\"y\\n"\nb="2"'),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "default"),
        ("status.podIP", "10.42.0.5"),
        ("status.podIPs", "10.42.0.5,fd00::5"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1"),
    ],
)
async def test_field_references(path: str, expected: str) -> None:
    assert (await build({"env": [field(path)]}))["F"] == expected


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [
        ("limits.cpu", None, "2"),
        ("limits.cpu", "1m", "1250"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "1Mi", "64"),
        ("limits.memory", "0", str(64 << 20)),
        ("requests.memory", None, "0"),
        ("limits.ephemeral-storage", None, "0"),
    ],
)
async def test_resource_references(resource: str, divisor: str | None, expected: str) -> None:
    reference: Obj = {"resource": resource} | ({"divisor": divisor} if divisor else {})
    container = {
        "resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m"}},
        "env": [{"name": "R", "valueFrom": {"resourceFieldRef": reference}}],
    }
    assert (await build(container))["R"] == expected


async def test_unset_limits_are_what_the_node_has() -> None:
    container = {
        "env": [
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ]
    }
    assert await build(container) == {"C": "4", "M": str(8 << 30)}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no"}}}]},
            "couldn't find key no in ConfigMap ns/cm",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "cm", "key": "no"}}}]},
            "couldn't find key no in Secret ns/cm",
        ),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "x"}}}]}, 'configmap "no" not found'),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, 'secret "no" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.nvidia.com/gpu"}}}]},
            "Unsupported container resource : limits.nvidia.com/gpu",
        ),
    ],
)
async def test_errors_read_as_upstream(container: Obj, message: str) -> None:
    with pytest.raises(EnvError) as caught:
        await build(container, Objects(cm={"data": {"K": "v"}}))
    assert str(caught.value) == message


async def test_optional_references_are_left_out() -> None:
    objects = Objects(cm={"data": {"K": "v"}})
    env = await build(
        {
            "envFrom": [{"configMapRef": {"name": "no", "optional": True}}],
            "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": True}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "no", "key": "x", "optional": True}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "K"}}},
            ],
        },
        objects,
    )
    assert env == {"C": "v"}


def test_service_variables() -> None:
    assert service_variables(
        [service("my-web", "ns", "10.43.0.9", {"port": 80, "name": "http-x"}, {"port": 53, "protocol": "UDP"})]
    ) == {
        "MY_WEB_SERVICE_HOST": "10.43.0.9",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP_X": "80",
        "MY_WEB_PORT": "tcp://10.43.0.9:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.43.0.9:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.43.0.9",
        "MY_WEB_PORT_53_UDP": "udp://10.43.0.9:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.43.0.9",
    }
    assert service_variables([service("headless", "ns", "None", {"port": 80})]) == {}


async def test_service_links_switch() -> None:
    objects = Objects()
    objects.all_services = [
        service("kubernetes", "default", "10.43.0.1", {"port": 443}),
        service("web", "ns", "10.43.0.9", {"port": 80}),
    ]
    with_links = await build({"env": [{"name": "U", "value": "$(WEB_SERVICE_HOST)"}]}, objects)
    assert with_links["U"] == "10.43.0.9" and "KUBERNETES_SERVICE_HOST" in with_links
    without = await build({}, objects, pod(enableServiceLinks=False))
    assert "WEB_SERVICE_HOST" not in without and without["KUBERNETES_SERVICE_PORT"] == "443"


def test_go_quote() -> None:
    assert downward.go_quote('a"\\\t\x00é\u200b') == '"a\\"\\\\\\t\\x00é\\u200b"'
