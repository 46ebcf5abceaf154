"""Which certificates a server has: one row each, by K3s's paths, subjects and signers.

Source: K3s ``pkg/daemons/control/deps/deps.go`` (``genCerts``). ``ensure_server`` is idempotent: what is good stays, what
is missing, expiring or lacking a name is made. It runs in the parent's forked preparation, as root.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from k3sd.config.settings import Settings
from k3sd.lib.files import ensure_directory, write_atomic, write_if_changed
from k3sd.pki.authority import (
    Authority,
    Leaf,
    certificate_sans,
    ensure_authority,
    ensure_key,
    ensure_leaf,
    merge_sans,
    new_rsa_key_pem,
    split_pem,
)

log = logging.getLogger(__name__)

AUTHORITIES = {
    "client-ca": "k3s-client-ca",
    "server-ca": "k3s-server-ca",
    "request-header-ca": "k3s-request-header-ca",
    "etcd/server-ca": "etcd-server-ca",
    "etcd/peer-ca": "etcd-peer-ca",
}
"""File stem below ``tls`` to the prefix of the CA's common name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One leaf: file stem below its directory, signer, content. ``key`` is the stem of the key file when shared."""

    stem: str
    signer: str
    leaf: Leaf


def service_address(cidr: str, index: int) -> str:
    """The ``index``-th address of a service CIDR: 1 is the API server, 10 the DNS."""
    return str(ipaddress.ip_network(cidr.split(",")[0])[index])


def config_sans(settings: Settings) -> tuple[str, ...]:
    """K3s's "config SANs": what every serving certificate of a server must contain."""
    names = (
        *settings.tls_sans,
        "127.0.0.1",
        "::1",
        "localhost",
        settings.node_name,
        *settings.node_ips,
        *settings.node_external_ips,
        settings.advertise_address,
        service_address(settings.service_cidr, 1),
    )
    return tuple(dict.fromkeys(name for name in names if name))


def kubernetes_sans(settings: Settings) -> tuple[str, ...]:
    service = "kubernetes.default.svc"
    return ("kubernetes", "kubernetes.default", service, f"{service}.{settings.cluster_domain}", *config_sans(settings))


def server_rows(settings: Settings) -> list[Row]:
    sans = config_sans(settings)
    loopback = ("localhost", "127.0.0.1", "::1")
    masters = ("system:masters",)
    both: tuple[str, ...] = (*sans, "kine.sock")
    return [
        Row("client-admin", "client-ca", Leaf("system:admin", masters)),
        Row("client-supervisor", "client-ca", Leaf("system:k3s-supervisor", masters)),
        Row("client-controller", "client-ca", Leaf("system:kube-controller-manager")),
        Row("client-scheduler", "client-ca", Leaf("system:kube-scheduler")),
        Row("client-kube-apiserver", "client-ca", Leaf("system:apiserver", masters)),
        Row("client-k3s-cloud-controller", "client-ca", Leaf("k3s-cloud-controller-manager")),
        Row("client-auth-proxy", "request-header-ca", Leaf("system:auth-proxy")),
        Row("serving-kube-apiserver", "server-ca", Leaf("kube-apiserver", (), kubernetes_sans(settings), ("server",))),
        Row("serving-kube-scheduler", "server-ca", Leaf("kube-scheduler", (), loopback, ("server",))),
        Row("serving-kube-controller-manager", "server-ca", Leaf("kube-controller-manager", (), loopback, ("server",))),
        Row("etcd/server-client", "etcd/server-ca", Leaf("etcd-server", (), both, ("server", "client"))),
        Row("etcd/peer-server-client", "etcd/peer-ca", Leaf("etcd-peer", (), both, ("server", "client"))),
        Row("etcd/client", "etcd/server-ca", Leaf("etcd-client")),
    ]


def agent_rows(settings: Settings) -> list[Row]:
    """The node's own certificates, below ``agent/``; a server signs them itself, an agent asks its server for them."""
    serving = (settings.node_name, "localhost", "127.0.0.1", *settings.node_ips, *settings.node_external_ips)
    return [
        Row("client-kubelet", "client-ca", Leaf(f"system:node:{settings.node_name}", ("system:nodes",))),
        Row("serving-kubelet", "server-ca", Leaf(settings.node_name, (), serving, ("server",))),
        Row("client-kube-proxy", "client-ca", Leaf("system:kube-proxy")),
        Row("client-k3s-controller", "client-ca", Leaf("system:k3s-controller")),
    ]


def ensure_server(settings: Settings) -> dict[str, Authority]:
    """Make whatever is missing or due below ``server/tls`` and ``agent/``. Returns the authorities by stem.

    Raises PKIError, OSError.
    """
    paths = settings.paths
    for directory in (paths.server, paths.tls, paths.tls / "etcd", paths.cred, paths.agent):
        ensure_directory(directory, 0o700)
    with ThreadPoolExecutor(1) as beside:
        # An RSA key takes long to find; a second core can do that.
        service_key = beside.submit(_service_key, paths.tls)
        authorities = _certificates(settings)
        service_key.result()
    return authorities


def _certificates(settings: Settings) -> dict[str, Authority]:
    paths = settings.paths
    authorities = {
        stem: ensure_authority(prefix, paths.tls / f"{stem}.crt", paths.tls / f"{stem}.key")
        for stem, prefix in AUTHORITIES.items()
    }
    for name in ("client-kubelet", "serving-kubelet", "client-kube-proxy", "client-k3s-controller"):
        ensure_key(paths.tls / f"{name}.key")
    for stem in ("client-ca", "server-ca"):
        first = authorities[stem].bundle.split(b"-----END CERTIFICATE-----", 1)[0] + b"-----END CERTIFICATE-----\n"
        write_if_changed(paths.tls / f"{stem}.nochain.crt", first, 0o644)
        write_if_changed(paths.agent / f"{stem}.crt", authorities[stem].bundle, 0o600)
    for row in server_rows(settings):
        _ensure(authorities, row, paths.tls, 0o644)
    for row in agent_rows(settings):
        _ensure(authorities, row, paths.agent, 0o600)
    _dynamic_certificate(settings, authorities["server-ca"])
    return authorities


def _ensure(authorities: dict[str, Authority], row: Row, directory: Path, mode: int) -> None:
    certificate = directory / f"{row.stem}.crt"
    reason = ensure_leaf(authorities[row.signer], row.leaf, certificate, directory / f"{row.stem}.key", mode)
    if reason and reason != "is missing":
        log.info("certificate %s %s: signed anew", certificate, reason)


def _service_key(tls: Path) -> None:
    key = tls / "service.key"
    if not key.exists():
        write_atomic(key, new_rsa_key_pem(), 0o600)
    text = key.read_bytes()
    end = text.find(b"-----END", 1)
    first = text[: text.find(b"\n", end) + 1] if end >= 0 else text
    write_if_changed(tls / "service.current.key", first, 0o600)


def _dynamic_certificate(settings: Settings, authority: Authority) -> None:
    """The certificate on 6443 in dynamiclistener's file ``dynamic-cert.json``, and as PEM files for the TLS library.

    A Secret-shaped JSON document holds certificate and key; names that were added at run time survive a renewal.
    """
    tls = settings.paths.tls
    store, certificate, key = tls / "dynamic-cert.json", tls / "dynamic-cert.crt", tls / "dynamic-cert.key"
    if (tls / "dynamic-cert-regenerate").exists():
        for path in (store, certificate, key, tls / "dynamic-cert-regenerate"):
            path.unlink(missing_ok=True)
    present: set[str] = set()
    try:
        secret = json.loads(store.read_bytes())["data"]
        pem = base64.b64decode(secret["tls.crt"])
        present = certificate_sans(split_pem(pem)[0])
        write_if_changed(key, base64.b64decode(secret["tls.key"]), 0o600)
        write_if_changed(certificate, pem, 0o600)
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("%s: damaged; made anew", store)
        store.unlink()
    leaf = Leaf("k3s", ("k3s",), merge_sans(kubernetes_sans(settings), sorted(present)), ("server",))
    if ensure_leaf(authority, leaf, certificate, key, 0o600) or not store.exists():
        write_atomic(store, json.dumps(serving_secret(certificate.read_bytes(), key.read_bytes())), 0o600)


def annotation_key(name: str) -> str:
    """dynamiclistener's annotation key of one SAN (``factory/gen.go``: ``getAnnotationKey``)."""
    import hashlib

    key = f"listener.cattle.io/cn-{name}"
    if len(key) < 64 and ":" not in key and "*" not in key:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:6]
    return f"{key.replace(':', '_').replace('*', '_')[:56]}-{digest}"


def serving_secret(certificate: bytes, key: bytes) -> dict[str, object]:
    """``kube-system/k3s-serving`` as dynamiclistener stores it."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding

    first = split_pem(certificate)[0]
    annotations = {annotation_key(san): san for san in sorted(certificate_sans(first))}
    annotations["listener.cattle.io/fingerprint"] = "SHA1=" + hashlib.sha1(first.public_bytes(Encoding.DER)).hexdigest().upper()
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "k3s-serving", "namespace": "kube-system", "annotations": annotations},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64.b64encode(certificate).decode(), "tls.key": base64.b64encode(key).decode()},
    }


def give_to(settings: Settings, uid: int, gid: int) -> None:
    """Hand the server's tree to the unprivileged control plane's user; everything stays 0700/0600."""
    for root, directories, files in os.walk(settings.paths.server):
        for name in (".", *directories, *files):
            os.chown(os.path.join(root, name), uid, gid, follow_symlinks=False)
