"""Kubeconfig files: from a file to what a REST client needs. Source: client-go ``tools/clientcmd``.

Exec and auth-provider plugins are refused with a sentence, since a component's own kubeconfig never has them.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class KubeconfigError(Exception):
    """The file cannot be used; the message names file, entry and remedy."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Where the API server is and how to show who we are. Certificates are paths or PEM bytes; empty means none."""

    server: str
    ca_file: str = ""
    ca_data: bytes = b""
    cert_file: str = ""
    cert_data: bytes = b""
    key_file: str = ""
    key_data: bytes = b""
    token: str = ""
    token_file: str = ""
    insecure: bool = False
    namespace: str = ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain HTTP. Reads the files now, so a later call sees renewed certificates."""
        if self.server.startswith("http://"):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca_data:
            context.load_verify_locations(cadata=self.ca_data.decode())
        elif self.ca_file:
            context.load_verify_locations(cafile=self.ca_file)
        else:
            context.load_default_certs()
        if self.cert_data or self.cert_file:
            _load_client_certificate(context, self)
        return context


def _load_client_certificate(context: ssl.SSLContext, config: ClientConfig) -> None:
    """PEM bytes go through an anonymous memory file: ``ssl`` only reads paths, and a key must not land on disk."""
    if not config.cert_data and not config.key_data:
        context.load_cert_chain(config.cert_file, config.key_file or None)
        return
    cert = config.cert_data or Path(config.cert_file).read_bytes()
    key = config.key_data or (Path(config.key_file).read_bytes() if config.key_file else b"")
    fd = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, cert + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def load_kubeconfig(path: str | Path, context: str = "") -> ClientConfig:
    """The configuration of ``context`` (the current one when empty). Raises KubeconfigError."""
    import yaml

    path = Path(path)
    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as e:
        raise KubeconfigError(f"{path}: {e.strerror}: check the path and that the file can be read") from e
    except yaml.YAMLError as e:
        raise KubeconfigError(f"{path}: not YAML: {e}") from e
    return parse_kubeconfig(document, path, context)


def parse_kubeconfig(document: Any, path: Path, context: str = "") -> ClientConfig:
    """``path`` is for messages and for relative file names, which are relative to its directory."""
    if not isinstance(document, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig: expected a mapping with clusters, users and contexts")
    name = context or document.get("current-context") or ""
    if not name:
        raise KubeconfigError(f"{path}: current-context: not set: name a context")
    chosen = _entry(document, path, "contexts", "context", name)
    cluster = _entry(document, path, "clusters", "cluster", chosen.get("cluster") or "")
    user = _entry(document, path, "users", "user", chosen["user"]) if chosen.get("user") else {}
    for plugin in ("exec", "auth-provider"):
        if plugin in user:
            raise KubeconfigError(
                f"{path}: users[{chosen['user']!r}].user.{plugin}: credential plugins are not supported: "
                "use a client certificate or a token"
            )
    for option in ("tls-server-name", "proxy-url"):
        if cluster.get(option):
            raise KubeconfigError(
                f"{path}: clusters[{chosen['cluster']!r}].cluster.{option}: not supported: name the server by an address "
                "its certificate covers"
            )
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(f"{path}: clusters[{chosen['cluster']!r}].cluster.server: expected a URL, got {server!r}")

    def located(entry: dict[str, Any], key: str) -> str:
        value = str(entry.get(key) or "")
        return str(path.parent / value) if value else ""

    def data(entry: dict[str, Any], key: str) -> bytes:
        try:
            return base64.b64decode(str(entry.get(key) or ""), validate=True)
        except binascii.Error as e:
            raise KubeconfigError(f"{path}: {key}: not base64: {e}") from e

    return ClientConfig(
        server=server.rstrip("/"),
        ca_file=located(cluster, "certificate-authority"),
        ca_data=data(cluster, "certificate-authority-data"),
        cert_file=located(user, "client-certificate"),
        cert_data=data(user, "client-certificate-data"),
        key_file=located(user, "client-key"),
        key_data=data(user, "client-key-data"),
        token=str(user.get("token") or ""),
        token_file=located(user, "tokenFile"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=str(chosen.get("namespace") or ""),
    )


def _entry(document: dict[str, Any], path: Path, section: str, key: str, name: str) -> dict[str, Any]:
    for item in document.get(section) or []:
        if isinstance(item, dict) and item.get("name") == name:
            value = item.get(key) or {}
            if isinstance(value, dict):
                return value
    raise KubeconfigError(f"{path}: {section}: no entry named {name!r}")
