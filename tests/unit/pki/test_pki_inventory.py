"""The inventory: what is made, what is kept, what is renewed."""

from __future__ import annotations

import datetime
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from k3sd.config.settings import Settings
from k3sd.pki import authority, inventory
from k3sd.pki.authority import PKIError, certificate_sans, split_pem


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=str(tmp_path), node_name="box", node_ips=("192.0.2.7",))


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_second_start_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    inventory.ensure_server(settings)
    before = contents(tmp_path)
    inventory.ensure_server(settings)
    assert contents(tmp_path) == before


@pytest.mark.spawns
def test_openssl_accepts_the_chain_and_subjects_are_k3s(settings: Settings) -> None:
    inventory.ensure_server(settings)
    tls = settings.paths.tls
    chains = {"server-ca": "serving-kube-apiserver", "client-ca": "client-admin", "etcd/peer-ca": "etcd/peer-server-client"}
    for ca, leaf in chains.items():
        argv = ["openssl", "verify", "-CAfile", tls / f"{ca}.crt", tls / f"{leaf}.crt"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    admin = split_pem((tls / "client-admin.crt").read_bytes())[0]
    assert admin.subject.rfc4514_string() == "CN=system:admin,O=system:masters"
    serving = certificate_sans(split_pem((tls / "dynamic-cert.crt").read_bytes())[0])
    assert {"kubernetes.default.svc.cluster.local", "10.43.0.1", "192.0.2.7", "box", "::1"} <= serving
    assert (tls / "server-ca.key").stat().st_mode & 0o777 == 0o600
    assert tls.stat().st_mode & 0o777 == 0o700


def test_a_new_name_renews_only_what_needs_it(settings: Settings) -> None:
    inventory.ensure_server(settings)
    admin = (settings.paths.tls / "client-admin.crt").read_bytes()
    inventory.ensure_server(replace(settings, tls_sans=("api.example.com",)))
    assert (settings.paths.tls / "client-admin.crt").read_bytes() == admin
    names = certificate_sans(split_pem((settings.paths.tls / "dynamic-cert.crt").read_bytes())[0])
    assert "api.example.com" in names
    inventory.ensure_server(settings)
    again = certificate_sans(split_pem((settings.paths.tls / "dynamic-cert.crt").read_bytes())[0])
    assert "api.example.com" in again, "a name clients may use survives"


def test_leaf_is_renewed_before_it_expires(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory.ensure_server(settings)
    path = settings.paths.tls / "client-admin.crt"
    first = path.read_bytes()
    later = datetime.datetime.utcnow() + datetime.timedelta(days=365 - authority.RENEW_DAYS + 1)
    monkeypatch.setattr(authority, "_now", lambda: later.replace(microsecond=0))
    inventory.ensure_server(settings)
    assert path.read_bytes() != first


def test_a_lost_ca_key_is_an_error_with_a_remedy(settings: Settings) -> None:
    inventory.ensure_server(settings)
    (settings.paths.tls / "server-ca.key").unlink()
    with pytest.raises(PKIError, match="restore it from a backup"):
        inventory.ensure_server(settings)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("10.43.0.1", "listener.cattle.io/cn-10.43.0.1"),
        ("::1", "listener.cattle.io/cn-__1-f16284"),
        ("*.example.com", "listener.cattle.io/cn-_.example.com-36b9f3"),
        ("a" * 50, "listener.cattle.io/cn-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-78cffb"),
    ],
)
def test_annotation_key(name: str, key: str) -> None:
    assert inventory.annotation_key(name) == key
