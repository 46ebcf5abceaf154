"""Columns and cells of certificates.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {
    "CertificateSigningRequest": "Name=name|Age|SignerName|Requestor|RequestedDuration|Condition",
}


def _state(obj: Obj) -> str:
    """``extractCSRStatus``."""
    kinds = {c.get("type") for c in status(obj).get("conditions") or ()}
    text = "Denied" if "Denied" in kinds else "Approved" if "Approved" in kinds else "Pending"
    if "Failed" in kinds:
        text += ",Failed"
    return f"{text},Issued" if status(obj).get("certificate") else text


def _request(obj: Obj, now: float) -> list[Any]:
    seconds = spec(obj).get("expirationSeconds")
    return [
        name(obj),
        age(obj, now),
        spec(obj).get("signerName") or "<none>",
        spec(obj).get("username", ""),
        "<none>" if seconds is None else timefmt.human_duration(seconds),
        _state(obj),
    ]


CELLS = {"CertificateSigningRequest": _request}
