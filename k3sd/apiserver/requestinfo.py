"""What a request path means. Source: ``apiserver/pkg/endpoints/request/requestinfo.go``.

Pure: text in, ``RequestInfo`` out. Whether the resource exists is the caller's question.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})

Query = dict[str, str]


@dataclass(slots=True)
class RequestInfo:
    """``is_resource`` is False for paths outside ``/api/v1/<resource>`` and ``/apis/<g>/<v>/<resource>``. ``remainder`` is what
    follows the subresource, without a leading slash and still quoted (proxy paths)."""

    path: str
    verb: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""
    remainder: str = ""


def parse_query(text: str) -> Query:
    """First value of each parameter; blank values are kept. Repeated parameters: see ``parse_query_multi``."""
    if not text:
        return {}
    out: Query = {}
    for key, value in parse_qsl(text, keep_blank_values=True, max_num_fields=1000):
        out.setdefault(key, value)
    return out


def parse_query_multi(text: str) -> list[tuple[str, str]]:
    """All parameters in order (exec's ``command`` is repeated)."""
    return parse_qsl(text, keep_blank_values=True, max_num_fields=10000) if text else []


def is_true(value: str | None) -> bool:
    """Go's ``strconv.ParseBool`` as query conversion uses it: present and not 0/false (``?watch`` and ``?watch=`` are...
    set)."""
    if value is None:
        return False
    return value.lower() not in ("0", "false", "f")


def parse(method: str, path: str, query: Query) -> RequestInfo:
    """``NewRequestInfo``. ``path`` is the raw (quoted) path without query."""
    verb = VERBS.get(method, method.lower())
    info = RequestInfo(path, verb if method != "HEAD" else "get")
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        if len(parts) < 3:
            return _non_resource(info, method)
        info.version = parts[1]
        rest = parts[2:]
    elif parts[0] == "apis":
        if len(parts) < 4:
            return _non_resource(info, method)
        info.group, info.version = parts[1], parts[2]
        rest = parts[3:]
    else:
        return _non_resource(info, method)

    info.is_resource = True
    if rest[0] == "watch" and len(rest) > 1:
        info.verb = "watch"
        rest = rest[1:]
    elif rest[0] == "proxy" and len(rest) > 1:
        info.verb = "proxy"
        rest = rest[1:]
    if "%" in path:
        rest = [unquote(p) for p in rest[:5]] + rest[5:]
    if rest[0] == "namespaces" and len(rest) > 1:
        info.namespace = rest[1]
        if len(rest) > 2 and rest[2] not in NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    info.plural = rest[0]
    if len(rest) > 1:
        info.name = rest[1]
        if len(rest) > 2:
            info.subresource = rest[2]
            if len(rest) > 3:
                info.remainder = _after(path, info.subresource, len(rest) - 3)
    if info.plural == "namespaces" and not info.namespace:
        info.namespace = info.name

    if not info.name:
        if info.verb == "get":
            info.verb = "watch" if is_true(query.get("watch")) else "list"
        elif info.verb == "delete":
            info.verb = "deletecollection"
        selector = query.get("fieldSelector", "") if info.verb in ("list", "watch", "deletecollection") else ""
        if selector.startswith("metadata.name=") and "," not in selector:
            info.name = selector[len("metadata.name=") :].lstrip("=")
    return info


def _after(path: str, subresource: str, count: int) -> str:
    """The last ``count`` raw segments of ``path`` with any trailing slash."""
    return path.lstrip("/").split("/", path.lstrip("/").rstrip("/").count("/") - count + 1)[-1]


def _non_resource(info: RequestInfo, method: str) -> RequestInfo:
    info.verb = method.lower()
    return info
