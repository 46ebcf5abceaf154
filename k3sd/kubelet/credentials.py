"""Image names and the registry credentials of pull secrets. Pure.

Source: Kubernetes 1.36 ``pkg/credentialprovider`` (``keyring.go``, ``config.go``), ``distribution/reference``.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from k3sd.kubelet.podinfo import Obj


@dataclass(frozen=True, slots=True, order=True)
class Credential:
    """``host`` may hold glob parts, ``path`` is a prefix; both from the key of a docker config."""

    path: str
    host: str
    username: str = ""
    password: str = ""
    identity_token: str = ""


_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REFERENCE = re.compile(
    rf"((?:(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?/)?{_PART}(?:/{_PART})*)"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


def name_error(image: str) -> str:
    """Why ``image`` is no reference, in upstream's words, or "" (``ParseNormalizedNamed``)."""
    if re.fullmatch(r"[a-f0-9]{64}", image):
        return f"invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"
    first, slash, rest = image.partition("/")
    path = rest if slash and _is_registry(first) else image
    repository = path.partition("@")[0].partition(":")[0]
    if repository != repository.lower():
        return f"invalid reference format: repository name ({repository}) must be lowercase"
    found = _REFERENCE.fullmatch(image if path is not image else f"docker.io/{image}")
    if found is None:
        return "invalid reference format"
    return "repository name must not be more than 255 characters" if len(found[1]) > 255 else ""


def _is_registry(first: str) -> bool:
    """Whether what stands before the first slash of an image's name is a host."""
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def normalize(image: str) -> str:
    """Registry, path and tag spelled out: ``busybox`` > ``docker.io/library/busybox:latest``."""
    name, at, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    if not slash or not _is_registry(first):
        name = f"docker.io/{name}" if slash else f"docker.io/library/{name}"
    elif first == "index.docker.io":
        name = "docker.io" + name[len(first) :]
    if not at and ":" not in name.rsplit("/", 1)[1]:
        name += ":latest"
    return name + at + digest


def _split_key(key: str) -> tuple[str, str]:
    text = key.split("://", 1)[-1]
    host, _, path = text.partition("/")
    path = "/" + path.strip("/")
    if path in ("/v1", "/v2", "/"):
        path = ""
    return ("docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host), path


def parse_secret(secret: Obj) -> list[Credential]:
    """Credentials in a ``kubernetes.io/dockerconfigjson`` or ``dockercfg`` Secret; other Secrets hold none.

    Raises ValueError for a Secret of that type with other content.
    """
    data: dict[str, str] = secret.get("data") or {}
    kind = secret.get("type")
    try:
        if kind == "kubernetes.io/dockerconfigjson":
            entries = json.loads(base64.b64decode(data.get(".dockerconfigjson", ""))).get("auths") or {}
        elif kind == "kubernetes.io/dockercfg":
            entries = json.loads(base64.b64decode(data.get(".dockercfg", "")))
        else:
            return []
        return [_entry(key, value) for key, value in entries.items()]
    except (binascii.Error, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"Secret {secret['metadata'].get('name')!r} is no valid docker config") from error


def _entry(key: str, value: dict[str, Any]) -> Credential:
    host, path = _split_key(key)
    username, password = str(value.get("username") or ""), str(value.get("password") or "")
    if value.get("auth"):
        username, _, password = base64.b64decode(value["auth"]).decode().rstrip("\x00").partition(":")
    return Credential(path, host, username, password, str(value.get("identitytoken") or ""))


def matching(image: str, credentials: Iterable[Credential]) -> list[Credential]:
    """Those that apply to ``image``, the most specific path first."""
    registry, _, path = normalize(image).partition("/")
    found = [c for c in credentials if _host_matches(c.host, registry) and f"/{path}".startswith(c.path)]
    return sorted(found, key=lambda c: c.path, reverse=True)


def _host_matches(pattern: str, host: str) -> bool:
    wanted, actual = pattern.split("."), host.split(".")
    return len(wanted) == len(actual) and all(fnmatch.fnmatchcase(a, w) for a, w in zip(actual, wanted, strict=True))
