"""Columns and cells of discovery.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, more, name

COLUMNS = {"EndpointSlice": "Name=name|AddressType|Ports|Endpoints|Age"}


def _endpoint_slice(obj: Obj, now: float) -> list[Any]:
    ports = []
    for port in obj.get("ports") or ():
        number = port.get("port")
        ports.append(str(number) if number is not None else port.get("name", "*"))
    addresses = [a for endpoint in obj.get("endpoints") or () for a in endpoint.get("addresses") or ()]
    return [
        name(obj),
        obj.get("addressType", ""),
        more(ports[:3], len(ports)),
        more(addresses[:3], len(addresses)),
        age(obj, now),
    ]


CELLS = {"EndpointSlice": _endpoint_slice}
