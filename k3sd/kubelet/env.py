"""Environment of a container: literal values, references, downward API, service links.

Source: Kubernetes 1.36, ``pkg/kubelet/kubelet_pods.go`` (``makeEnvironmentVariables``), ``pkg/kubelet/envvars`` and
``third_party/forked/golang/expansion``. The result's order is: what the container declares, in that order, then services.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from k3sd.apimachinery.errors import StatusError
from k3sd.kubelet import downward

Obj = dict[str, Any]


class EnvError(Exception):
    """The environment cannot be built; the container waits with reason CreateContainerConfigError and this message."""

    reason = "CreateContainerConfigError"


class EnvSources(Protocol):
    """Where referenced objects come from; ``get_*`` raise StatusError 404 for a missing object."""

    async def get_config_map(self, namespace: str, name: str) -> Obj: ...

    async def get_secret(self, namespace: str, name: str) -> Obj: ...

    async def services(self, namespace: str) -> Iterable[Obj]:
        """Services of ``namespace`` and, whatever it is, ``default/kubernetes``."""
        ...


def expand(text: str, mapping: Mapping[str, str] | Callable[[str], str]) -> str:
    """``$(NAME)`` replaced by its value, ``$$`` by ``$``; an unknown name stays as it is written (``expansion.Expand``).

    A callable ``mapping`` decides itself what an unknown name becomes.
    """
    lookup = mapping if callable(mapping) else lambda name: mapping.get(name, f"$({name})")
    out: list[str] = []
    position = 0
    while (cursor := text.find("$", position)) >= 0 and cursor + 1 < len(text):
        out.append(text[position:cursor])
        following = text[cursor + 1]
        end = text.find(")", cursor + 2) if following == "(" else -1
        if end >= 0:
            out.append(lookup(text[cursor + 2 : end]))
            position = end + 1
        else:
            out.append("$" if following == "$" else "$" + following)
            position = cursor + 2
    out.append(text[position:])
    return "".join(out)


def expand_strict(text: str, environment: Mapping[str, str]) -> str:
    """As ``expand`` for ``subPathExpr``: an unset or empty variable is an error (``ExpandContainerVolumeMounts``)."""
    missing: set[str] = set()

    def lookup(name: str) -> str:
        value = environment.get(name, "")
        if not value:
            missing.add(name)
        return value

    out = expand(text, lookup)
    if missing:
        raise EnvError(f"missing value for {', '.join(sorted(missing))}")
    return out


def service_variables(services: Iterable[Obj]) -> dict[str, str]:
    """``NAME_SERVICE_HOST`` and Docker's link variables of each service that has an address (``envvars.FromServices``)."""
    out: dict[str, str] = {}
    for service in services:
        spec: Obj = service.get("spec") or {}
        address = str(spec.get("clusterIP") or "")
        ports: list[Obj] = spec.get("ports") or []
        if address in ("", "None") or not ports:
            continue
        prefix = _variable_name(service["metadata"]["name"])
        out[f"{prefix}_SERVICE_HOST"] = address
        out[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                out[f"{prefix}_SERVICE_PORT_{_variable_name(port['name'])}"] = str(port["port"])
        out.update(_link_variables(prefix, address, ports))
    return out


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()


def _link_variables(prefix: str, address: str, ports: Sequence[Obj]) -> dict[str, str]:
    out: dict[str, str] = {}
    host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(ports):
        protocol = str(port.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{host}:{port['port']}"
        if index == 0:
            out[f"{prefix}_PORT"] = url
        name = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        out[name] = url
        out[f"{name}_PROTO"] = protocol.lower()
        out[f"{name}_PORT"] = str(port["port"])
        out[f"{name}_ADDR"] = address
    return out


async def build_environment(
    pod: Obj,
    container: Obj,
    sources: EnvSources,
    node_allocatable: Mapping[str, str],
    *,
    pod_ips: Sequence[str] = (),
    host_ips: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """The container's variables. ``env`` overrides ``envFrom``, both override services; ``$(NAME)`` sees only what is declared
    before it. Raises EnvError for what the user can mend, and lets transport failures through."""
    namespace = str(pod["metadata"]["namespace"])
    services = service_variables(await _linked_services(pod, namespace, sources))
    out: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = str(source.get("prefix") or "")
        out.update({prefix + key: value for key, value in (await _source_values(source, namespace, sources)).items()})

    def lookup(name: str) -> str:
        if name in out:
            return out[name]
        return services.get(name, f"$({name})")

    for variable in container.get("env") or ():
        name = str(variable["name"])
        if variable.get("value"):
            out[name] = expand(str(variable["value"]), lookup)
            continue
        reference: Obj = variable.get("valueFrom") or {}
        value = await _reference_value(reference, pod, container, sources, node_allocatable, pod_ips=pod_ips, host_ips=host_ips)
        if value is not None:
            out[name] = value
    return list(out.items()) + [(name, value) for name, value in services.items() if name not in out]


async def _linked_services(pod: Obj, namespace: str, sources: EnvSources) -> list[Obj]:
    """The API's own service always; the namespace's services unless ``enableServiceLinks`` is false."""
    links = (pod.get("spec") or {}).get("enableServiceLinks", True)
    found: dict[str, Obj] = {}
    for service in await sources.services(namespace):
        name = service["metadata"]["name"]
        if service["metadata"].get("namespace") == "default" and name == "kubernetes":
            found.setdefault(name, service)
        elif links and service["metadata"].get("namespace") == namespace:
            found[name] = service
    return list(found.values())


async def _fetch(kind: str, namespace: str, name: str, optional: bool, sources: EnvSources) -> Obj | None:
    """The ConfigMap or Secret; None where it is missing and may be."""
    try:
        if kind == "ConfigMap":
            return await sources.get_config_map(namespace, name)
        return await sources.get_secret(namespace, name)
    except StatusError as error:
        if error.code == 404 and optional:
            return None
        raise EnvError(error.message) from error


async def _source_values(source: Obj, namespace: str, sources: EnvSources) -> dict[str, str]:
    if reference := source.get("configMapRef"):
        obj = await _fetch("ConfigMap", namespace, reference.get("name", ""), bool(reference.get("optional")), sources)
        return dict((obj or {}).get("data") or {})
    if reference := source.get("secretRef"):
        obj = await _fetch("Secret", namespace, reference.get("name", ""), bool(reference.get("optional")), sources)
        return {key: _text(value) for key, value in ((obj or {}).get("data") or {}).items()}
    return {}


def _text(encoded: str) -> str:
    # The runtime takes UTF-8 text; bytes that are none survive the way as surrogates would not, so replace them visibly.
    return base64.b64decode(encoded).decode("utf-8", errors="replace")


async def _reference_value(
    reference: Obj,
    pod: Obj,
    container: Obj,
    sources: EnvSources,
    node_allocatable: Mapping[str, str],
    *,
    pod_ips: Sequence[str],
    host_ips: Sequence[str],
) -> str | None:
    """None: an optional reference is missing, the variable is left out."""
    try:
        if field := reference.get("fieldRef"):
            return downward.pod_field(pod, str(field.get("fieldPath", "")), pod_ips=pod_ips, host_ips=host_ips)
        if resource := reference.get("resourceFieldRef"):
            other = resource.get("containerName")
            target = downward.find_container(pod, other) if other else container
            if target is None:
                raise EnvError(f"container {other} not found")
            return downward.resource_field(resource, target, node_allocatable)
    except downward.DownwardError as error:
        raise EnvError(str(error)) from error
    for field_name, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if key_reference := reference.get(field_name):
            return await _key_value(kind, key_reference, str(pod["metadata"]["namespace"]), sources)
    return ""


async def _key_value(kind: str, reference: Obj, namespace: str, sources: EnvSources) -> str | None:
    name, key, optional = reference.get("name", ""), reference.get("key", ""), bool(reference.get("optional"))
    obj = await _fetch(kind, namespace, name, optional, sources)
    if obj is None:
        return None
    data: Mapping[str, str] = obj.get("data") or {}
    if key not in data:
        if optional:
            return None
        raise EnvError(f"couldn't find key {key} in {kind} {namespace}/{name}")
    return data[key] if kind == "ConfigMap" else _text(data[key])
