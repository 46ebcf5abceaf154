"""K3s commands whose part does not exist yet: known, and refused with a sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def _refuse(command: str, what: str, remedy: str) -> int:
    print(f"k3sd {command}: {what}; {remedy}", file=sys.stderr)
    return 1


def token(argv: Sequence[str]) -> int:
    """``k3sd token``."""
    remedy = "the server's is in server/token below the data directory, which is /var/lib/rancher/k3s by default"
    return _refuse("token", "join tokens other than the server's own are not there yet", remedy)


def certificate(argv: Sequence[str]) -> int:
    """``k3sd certificate``."""
    remedy = "certificates near their end are renewed at each start: systemctl restart k3sd-server"
    return _refuse("certificate", "checking and rotating certificates by command is not there yet", remedy)


def etcd_snapshot(argv: Sequence[str]) -> int:
    """``k3sd etcd-snapshot``."""
    return _refuse("etcd-snapshot", "embedded etcd is not there yet", "copy the datastore with k3sd datastore backup")


def secrets_encrypt(argv: Sequence[str]) -> int:
    """``k3sd secrets-encrypt``."""
    return _refuse(
        "secrets-encrypt", "encryption of Secrets is not there yet", "protect the disk that holds the data directory"
    )
