"""MutatingAdmissionPolicy: changes of objects in CEL, kept in the cluster, made here.

A mutation is a configuration merged into the object as server-side apply merges, or JSON Patch operations. Policies run one
after the other, sorted by name, each on what the one before left; those that ask for it run once more when the object was
changed after them. Source: ``apiserver/pkg/admission/plugin/policy/mutating``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import fieldset, schema
from k3sd.apimachinery.cel import MUTATIONS, EvaluationError, Program, compile_expression
from k3sd.apimachinery.codec import clone
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.patch import json_patch
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.shape import Shape, of_type
from k3sd.apis import resources
from k3sd.apiserver.admission.policies import CompiledPolicy, PolicyPlugin
from k3sd.apiserver.request import Attributes
from k3sd.lib.cel.functions import FUNCTIONS
from k3sd.lib.cel.values import Opaque, Optional, type_name

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

_FIXED = ("kind", "apiVersion")


class MutationError(Exception):
    """A mutation cannot be made; the failure policy says what that means."""


class MutatingPolicy(CompiledPolicy):
    kind = "MutatingAdmissionPolicy"

    def __init__(self, obj: Obj) -> None:
        super().__init__(obj)
        spec: Obj = obj.get("spec") or {}
        self.reinvokes = spec.get("reinvocationPolicy") == "IfNeeded"
        self.mutations: list[tuple[str, Program]] = []
        for item in spec.get("mutations") or ():
            field = "jsonPatch" if item["patchType"] == "JSONPatch" else "applyConfiguration"
            self.mutations.append((field, compile_expression(item[field]["expression"], self.names, MUTATIONS)))

    def mutate(self, variables: dict[str, Any], resource: Resource) -> Obj:
        """The object after all mutations; the one in ``variables`` stays as it is. Raises MutationError."""
        obj: Obj = variables["object"]
        for field, program in self.mutations:
            try:
                value = to_json(program.evaluate(self.with_variables({**variables, "object": obj})))
            except EvaluationError as error:
                raise MutationError(f"expression '{program.text}' resulted in error: {error}") from error
            obj = _patched(obj, value) if field == "jsonPatch" else _merged(obj, value, of_type(resource.type_name))
            conform(obj, schema.types.get(resource.type_name))
            apply_defaults(obj, resource)
        return obj


def to_json(value: Any) -> Any:
    """A value of CEL as JSON has it. Raises EvaluationError for what JSON cannot say."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Optional):
        return to_json(value.value) if value.present else None
    if isinstance(value, datetime | timedelta | Opaque):
        return FUNCTIONS["string"](value)
    raise EvaluationError(f"cannot convert {type_name(value)} to JSON")


def _patched(obj: Obj, operations: Any) -> Obj:
    if not isinstance(operations, list):
        raise MutationError("expected type []JSONPatch")
    try:
        changed = json_patch(obj, operations)
    except StatusError as error:
        causes = [cause["message"] for cause in error.details.get("causes", ())]
        raise MutationError(f"JSON Patch: {'; '.join(causes) or error.message}") from error
    if not isinstance(changed, dict):
        raise MutationError("JSON Patch: the patch does not result in an object")
    return changed


def _merged(obj: Obj, configuration: Any, shape: Shape) -> Obj:
    """``ApplyStructuredMergeDiff``: what is owned as a whole cannot be changed in part, so it may not be named."""
    if not isinstance(configuration, dict):
        raise MutationError("expected type Object")
    for key in _FIXED:
        if configuration.get(key, obj.get(key)) != obj.get(key):
            raise MutationError(f"invalid ApplyConfiguration: may not change {key}")
    atomic = sorted(_atomic(shape, configuration, ""))
    if atomic:
        text = f"may not mutate atomic arrays, maps or structs: {', '.join(atomic)}"
        raise MutationError(f"error applying patch: invalid ApplyConfiguration: {text}")
    problems = fieldset.check(shape, configuration)
    if problems:
        raise MutationError(f"error applying patch: {'; '.join(problems)}")
    try:
        merged: Obj = fieldset.merge(shape, obj, configuration)
    except fieldset.ShapeError as error:
        raise MutationError(f"error applying patch: {error}") from error
    return clone(merged)  # type: ignore[no-any-return]


def _atomic(shape: Shape, value: Any, path: str) -> Iterator[str]:
    """Paths in the configuration that are owned as a whole. Source: ``validatePatch``."""
    if shape.kind == "atomic" or (shape.kind == "any" and isinstance(value, dict | list)):
        if path:
            yield path
    elif shape.kind == "map" and isinstance(value, dict):
        for name, item in value.items():
            child = shape.child(name)
            if child is not None:
                yield from _atomic(child, item, f"{path}.{name}")
    elif shape.kind in ("set", "listmap") and isinstance(value, list) and shape.element is not None:
        for i, item in enumerate(value):
            yield from _atomic(shape.element, item, f"{path}[{i}]")


class MutatingAdmissionPolicy(PolicyPlugin[MutatingPolicy]):
    name = "MutatingAdmissionPolicy"
    policies = resources.MUTATINGADMISSIONPOLICIES
    bindings = resources.MUTATINGADMISSIONPOLICYBINDINGS

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, MutatingPolicy)

    async def admit(self, attrs: Attributes) -> None:
        if self.idle or attrs.obj is None or attrs.operation == "CONNECT":
            return
        left: dict[tuple[str, str], Obj] = {}
        for policy, name, spec in list(self.concerned(attrs)):
            await self._run(policy, name, spec, attrs)
            if policy.reinvokes:
                left[policy.name, name] = clone(attrs.obj)
        await self._again(attrs, left)

    async def reinvoke(self, attrs: Attributes) -> None:
        """Webhooks have changed the object: run those again that want to see it."""
        if not self.idle and attrs.obj is not None:
            await self._again(attrs, None)

    async def _again(self, attrs: Attributes, left: dict[tuple[str, str], Obj] | None) -> None:
        """Run the policies that ask for it once more; those that left the object as it is now need not."""
        for policy, name, spec in list(self.concerned(attrs)) if left is None or left else ():
            if policy.reinvokes and (left is None or left.get((policy.name, name)) != attrs.obj):
                await self._run(policy, name, spec, attrs)

    async def _run(self, policy: MutatingPolicy, name: str, spec: Obj, attrs: Attributes) -> None:
        resource = attrs.ctx.resource
        assert resource is not None and attrs.obj is not None
        for params in await self.params(attrs, policy, name, spec):
            variables = self.variables(attrs)
            if policy.param_kind is not None:
                variables["params"] = params
            try:
                if not policy.applies(variables):
                    continue
                changed = policy.mutate(variables, resource)
            except (EvaluationError, MutationError) as error:
                if policy.fails_closed:
                    raise self.refusal(attrs, policy, name, str(error), "Invalid") from error
                continue
            if changed is not attrs.obj:
                # The writer and the plugins after this one hold the same object.
                attrs.obj.clear()
                attrs.obj.update(changed)
