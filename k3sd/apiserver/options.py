"""Options of list, watch, write and delete requests, checked once. Source: ``meta/v1`` ``ListOptions`` and ``DeleteOptions``
and their validation (``apimachinery/pkg/apis/meta/internalversion/validation``, ``.../v1/validation``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    StatusError,
    bad_request,
    forbidden_field,
    invalid,
    invalid_object,
    not_supported,
)
from k3sd.apimachinery.selectors import (
    FieldSelector,
    LabelSelector,
    parse_field_selector,
    parse_label_selector,
)
from k3sd.apiserver.requestinfo import Query, is_true

PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
)
POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(slots=True)
class ListOptions:
    """A list or watch. ``labels``/``fields`` are None when they select everything."""

    resource_version: str = ""
    match: str = ""
    limit: int = 0
    continue_: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None
    timeout_seconds: int = 0
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None
    endless: bool = False
    """A watch of the server's own parts, which ends only when it is closed."""

    @classmethod
    def from_query(cls, query: Query, watch: bool) -> ListOptions:
        if not query:
            return cls()
        out = cls(
            resource_version=query.get("resourceVersion", ""),
            match=query.get("resourceVersionMatch", ""),
            continue_=query.get("continue", ""),
            limit=_int(query, "limit"),
            timeout_seconds=_int(query, "timeoutSeconds"),
            allow_bookmarks=is_true(query.get("allowWatchBookmarks")),
        )
        if "sendInitialEvents" in query:
            out.send_initial_events = is_true(query["sendInitialEvents"])
        out.select(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        out.check(watch)
        return out

    def select(self, labels: str, fields: str) -> None:
        """Set the selectors from their texts."""
        try:
            if labels:
                selector = parse_label_selector(labels)
                self.labels = None if selector.empty else selector
            if fields:
                found = parse_field_selector(fields)
                self.fields = found if found.requirements else None
        except ValueError as error:
            raise bad_request(str(error)) from None

    def check(self, watch: bool) -> None:
        """``ValidateListOptions``."""
        errors: list[FieldError] = []
        if self.match:
            if watch:
                if self.send_initial_events is None:
                    errors.append(
                        forbidden_field(
                            "resourceVersionMatch",
                            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                        )
                    )
            elif not self.resource_version:
                errors.append(
                    forbidden_field(
                        "resourceVersionMatch",
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    )
                )
            if self.continue_:
                errors.append(
                    forbidden_field("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
                )
            if self.match not in ("Exact", "NotOlderThan"):
                errors.append(not_supported("resourceVersionMatch", self.match, ("Exact", "NotOlderThan", "")))
            elif self.match == "Exact" and self.resource_version == "0":
                errors.append(
                    forbidden_field("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
                )
        if self.send_initial_events is not None:
            if not watch:
                errors.append(forbidden_field("sendInitialEvents", "sendInitialEvents is forbidden for list"))
            elif self.match != "NotOlderThan":
                errors.append(
                    forbidden_field(
                        "resourceVersionMatch",
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    )
                )
        if errors:
            raise invalid_object("meta.k8s.io", "ListOptions", "", errors)

    def revision(self) -> int:
        """``resource_version`` as a number, -1 when it is not given."""
        if not self.resource_version:
            return -1
        return parse_revision(self.resource_version)


def parse_revision(text: str) -> int:
    """Source: ``storage.APIObjectVersioner.ParseResourceVersion``."""
    if not text.isascii() or not text.isdigit() or int(text) > 2**63 - 1:
        raise invalid_object(
            "",
            "",
            "",
            [invalid("resourceVersion", text, f'strconv.ParseUint: parsing "{text}": invalid syntax')],
        )
    return int(text)


def _int(query: Query, name: str) -> int:
    text = query.get(name, "")
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


@dataclass(slots=True)
class WriteOptions:
    """What is particular to one write; dry run, field manager and validation are in the context."""

    force: bool = False
    """``force=true`` of an apply patch."""


def check_dry_run(values: list[str]) -> bool:
    """True for ``["All"]``. Raises 422 as ``ValidateDryRun`` does."""
    values = [v for v in values if v]
    for value in values:
        if value != "All":
            raise invalid_object("meta.k8s.io", "CreateOptions", "", [not_supported("dryRun", values, ("All",))])
    return bool(values)


@dataclass(slots=True)
class DeleteRequest:
    """``DeleteOptions`` of one delete. ``grace_seconds`` None means the kind's default."""

    grace_seconds: int | None = None
    policy: str = ""
    orphan_dependents: bool | None = None
    uid: str | None = None
    resource_version: str | None = None
    raw: Obj = field(default_factory=dict)

    @classmethod
    def parse(cls, body: Obj, query: Query) -> DeleteRequest:
        """From a body, or from the query when the body is empty (upstream reads one or the other)."""
        raw = dict(body) if body else _from_query(query)
        preconditions = raw.get("preconditions") or {}
        out = cls(
            raw.get("gracePeriodSeconds"),
            raw.get("propagationPolicy") or "",
            raw.get("orphanDependents"),
            preconditions.get("uid"),
            preconditions.get("resourceVersion"),
            raw,
        )
        out.check()
        return out

    def check(self) -> None:
        """``ValidateDeleteOptions``."""
        errors: list[FieldError] = []
        if self.policy and self.orphan_dependents is not None:
            errors.append(
                invalid(
                    "propagationPolicy",
                    self.policy,
                    "orphanDependents and deletionPropagation cannot be both set",
                )
            )
        if self.policy and self.policy not in POLICIES:
            errors.append(not_supported("propagationPolicy", self.policy, (*POLICIES, "nil")))
        if self.grace_seconds is not None and (not isinstance(self.grace_seconds, int) or isinstance(self.grace_seconds, bool)):
            raise bad_request(f"gracePeriodSeconds: expected a number, got {self.grace_seconds!r}")
        if errors:
            raise invalid_object("meta.k8s.io", "DeleteOptions", "", errors)


def _from_query(query: Query) -> Obj:
    out: Obj = {}
    if "gracePeriodSeconds" in query:
        out["gracePeriodSeconds"] = _int(query, "gracePeriodSeconds")
    if "propagationPolicy" in query:
        out["propagationPolicy"] = query["propagationPolicy"]
    if "orphanDependents" in query:
        out["orphanDependents"] = is_true(query["orphanDependents"])
    return out


def status_success(details: Obj) -> Obj:
    """The ``Status`` that answers a delete."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def field_label_error(name: str, has_own_fields: bool) -> StatusError:
    """Unknown field selector label. Source: the groups' ``AddFieldLabelConversionFunc`` and
    ``runtime.DefaultMetaV1FieldSelectorConversion``."""
    if has_own_fields:
        return bad_request(f"field label not supported: {name}")
    return bad_request(f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"')
