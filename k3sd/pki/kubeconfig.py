"""Kubeconfig files, as K3s writes them: JSON is valid YAML, but people read these, so they are YAML.

Source: K3s ``pkg/kubeconfig`` and ``pkg/daemons/control/deps`` (``KubeConfig``).
"""

from __future__ import annotations

import base64
from pathlib import Path


def _text(server: str, cluster: str, context: str, user: str, ca: str, credentials: list[str]) -> str:
    lines = [
        "apiVersion: v1",
        "clusters:",
        "- cluster:",
        f"    {ca}",
        f"    server: {server}",
        f"  name: {cluster}",
        "contexts:",
        "- context:",
        f"    cluster: {cluster}",
        f"    user: {user}",
        f"  name: {context}",
        f"current-context: {context}",
        "kind: Config",
        "preferences: {}",
        "users:",
        f"- name: {user}",
        "  user:",
        *(f"    {line}" for line in credentials),
    ]
    return "\n".join(lines) + "\n"


def build_embedded(server: str, ca: bytes, certificate: bytes, key: bytes, name: str = "default") -> str:
    """The admin's ``k3s.yaml``: data embedded, cluster, context and user all called ``name``."""

    def data(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    credentials = [f"client-certificate-data: {data(certificate)}", f"client-key-data: {data(key)}"]
    return _text(server, name, name, name, f"certificate-authority-data: {data(ca)}", credentials)


def build_referring(server: str, ca: Path, certificate: Path, key: Path) -> str:
    """A component's kubeconfig: file references, cluster ``local``, context ``Default``, user ``user``."""
    credentials = [f"client-certificate: {certificate}", f"client-key: {key}"]
    return _text(server, "local", "Default", "user", f"certificate-authority: {ca}", credentials)
