"""From API objects to files: configMap, secret, downwardAPI and projected volumes share these pure builders.

Source: Kubernetes 1.36, ``MakePayload`` of ``pkg/volume/{configmap,secret}``, ``CollectData`` of ``pkg/volume/downwardapi`` and
``collectData`` of ``pkg/volume/projected``.
"""

from __future__ import annotations

import base64
import os.path
from collections.abc import Mapping, Sequence
from typing import Any

from k3sd.kubelet import downward
from k3sd.kubelet.volumes.atomic_writer import FileProjection

Obj = dict[str, Any]
Files = dict[str, FileProjection]

DEFAULT_MODE = 0o644
TOKEN_MODE = 0o600


class PayloadKeyError(Exception):
    """A key that the volume asks for is not in the object; the text is upstream's."""


def mode_of(source: Obj) -> int:
    mode = source.get("defaultMode")
    return DEFAULT_MODE if mode is None else int(mode)


def config_map_files(source: Obj, obj: Obj | None, default_mode: int) -> Files:
    """``source`` is the volume's or projection's reference (``items``, ``optional``); None is an absent optional object."""
    data: dict[str, bytes] = {}
    if obj is not None:
        data.update((key, value.encode()) for key, value in (obj.get("data") or {}).items())
        data.update((key, base64.b64decode(value)) for key, value in (obj.get("binaryData") or {}).items())
    return _select(source, data, default_mode, "configmap references non-existent config key: ")


def secret_files(source: Obj, obj: Obj | None, default_mode: int) -> Files:
    """As ``config_map_files``."""
    data = {key: base64.b64decode(value) for key, value in ((obj or {}).get("data") or {}).items()}
    return _select(source, data, default_mode, "references non-existent secret key: ")


def _select(source: Obj, data: Mapping[str, bytes], default_mode: int, missing: str) -> Files:
    items: Sequence[Obj] = source.get("items") or ()
    if not items:
        return {key: FileProjection(content, default_mode) for key, content in data.items()}
    out: Files = {}
    for item in items:
        key = str(item.get("key", ""))
        if key in data:
            out[str(item["path"])] = FileProjection(data[key], _item_mode(item, default_mode))
        elif not source.get("optional"):
            raise PayloadKeyError(missing + key)
    return out


def _item_mode(item: Obj, default_mode: int) -> int:
    mode = item.get("mode")
    return default_mode if mode is None else int(mode)


def downward_files(items: Sequence[Obj], pod: Obj, default_mode: int, node_allocatable: Mapping[str, str]) -> Files:
    """Raises downward.DownwardError."""
    out: Files = {}
    for item in items:
        if field := item.get("fieldRef"):
            text = downward.metadata_field(pod, str(field.get("fieldPath", "")))
        else:
            reference: Obj = item.get("resourceFieldRef") or {}
            name = str(reference.get("containerName", ""))
            container = downward.find_container(pod, name)
            if container is None:
                raise downward.DownwardError(f"container {name} not found")
            text = downward.resource_field(reference, container, node_allocatable)
        out[os.path.normpath(str(item["path"]))] = FileProjection(text.encode(), _item_mode(item, default_mode))
    return out


def token_file(source: Obj, token: str, default_mode: int, fs_user: int | None, fs_group: int | None) -> Files:
    """A service account token belongs to the pod's user where that is one user; with fsGroup the group may read it."""
    owned = fs_user is not None or fs_group is not None
    return {str(source["path"]): FileProjection(token.encode(), TOKEN_MODE if owned else default_mode, fs_user)}


def fs_user(pod: Obj) -> int | None:
    """The one user all containers run as, by declaration; None when they differ or do not say (``FsUserFrom``)."""
    spec: Obj = pod.get("spec") or {}
    default = (spec.get("securityContext") or {}).get("runAsUser")
    users: set[Any] = {
        (container.get("securityContext") or {}).get("runAsUser", default)
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    }
    return int(users.pop()) if len(users) == 1 and None not in users else None


def fs_group(pod: Obj) -> int | None:
    group = ((pod.get("spec") or {}).get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)
