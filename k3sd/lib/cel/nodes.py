"""The meaning of each form of expression, as closures over the variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cmp_to_key
from typing import Any

from k3sd.lib.cel.values import (
    NONE,
    EvaluationError,
    Optional,
    arithmetic,
    boolean,
    compare,
    contains,
    equal,
    is_int,
    type_name,
)

Env = Mapping[str, Any]
Node = Callable[[Env], Any]

MAX_STEPS = 1_000_000
"""Iterations of macros in one evaluation."""
STEPS = "@steps"


def constant(value: Any) -> Node:
    return lambda env: value


def variable(name: str) -> Node:
    def read(env: Env) -> Any:
        try:
            return env[name]
        except KeyError:
            raise EvaluationError(f"no such attribute(s): {name}") from None

    return read


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise EvaluationError(f"no such overload: {type_name(value)}.{name}")
    try:
        return value[name]
    except KeyError:
        raise EvaluationError(f"no such key: {name}") from None


def select(target: Node, name: str, *, optional: bool = False) -> Node:
    """``target.name``, or ``target.?name``. A field of an optional value is optional."""

    def read(env: Env) -> Any:
        value = target(env)
        if not optional and not isinstance(value, Optional):
            return _field(value, name)
        if isinstance(value, Optional):
            if not value.present:
                return NONE
            value = value.value
        if not isinstance(value, Mapping):
            raise EvaluationError(f"no such overload: {type_name(value)}.?{name}")
        return Optional(value[name]) if name in value else NONE

    read.holder = target  # type: ignore[attr-defined]
    return read


def has(holder: Node, field: str) -> Node:
    """``has(holder.field)``."""

    def test(env: Env) -> bool:
        value = holder(env)
        if isinstance(value, Optional):
            value = value.value if value.present else {}
        if not isinstance(value, Mapping):
            raise EvaluationError(f"no such overload: has({type_name(value)}.{field})")
        return field in value and value[field] is not None

    return test


def _item(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        raise EvaluationError(f"no such key: {key}")
    if isinstance(value, list) and (is_int(key) or (isinstance(key, float) and key.is_integer())):
        if 0 <= key < len(value):
            return value[int(key)]
        raise EvaluationError(f"index out of bounds: {key}")
    raise EvaluationError("no such overload: _[_]")


def index(target: Node, key: Node, *, optional: bool = False) -> Node:
    """``target[key]``, or ``target[?key]``."""

    def read(env: Env) -> Any:
        value, at = target(env), key(env)
        if not optional and not isinstance(value, Optional):
            return _item(value, at)
        if isinstance(value, Optional):
            if not value.present:
                return NONE
            value = value.value
        try:
            return Optional(_item(value, at))
        except EvaluationError:
            if isinstance(value, Mapping | list):
                return NONE
            raise

    return read


def negation(inner: Node) -> Node:
    return lambda env: not boolean(inner(env))


def choice(condition: Node, yes: Node, no: Node) -> Node:
    return lambda env: yes(env) if boolean(condition(env)) else no(env)


def absorbing(left: Node, right: Node, decisive: bool) -> Node:
    """``||`` and ``&&``: an error counts only when the other side does not decide."""

    def run(env: Env) -> bool:
        try:
            first = boolean(left(env))
        except EvaluationError:
            if boolean(right(env)) is decisive:
                return decisive
            raise
        return first if first is decisive else boolean(right(env))

    return run


def binary(op: str, left: Node, right: Node) -> Node:
    if op == "==":
        return lambda env: equal(left(env), right(env))
    if op == "!=":
        return lambda env: not equal(left(env), right(env))
    if op == "in":
        return lambda env: contains(left(env), right(env))
    if op in ("<", "<=", ">", ">="):
        return lambda env: compare(op, left(env), right(env))
    return lambda env: arithmetic(op, left(env), right(env))


def list_of(items: Sequence[tuple[Node, bool]]) -> Node:
    """A list; items marked optional (``[?x]``) are left out when absent."""
    if not any(optional for _, optional in items):
        nodes = [node for node, _ in items]
        return lambda env: [node(env) for node in nodes]

    def build(env: Env) -> list[Any]:
        out = []
        for node, optional in items:
            value = node(env)
            if not optional:
                out.append(value)
            elif _optional(value).present:
                out.append(value.value)
        return out

    return build


def map_of(entries: Sequence[tuple[Node, Node, bool]]) -> Node:
    """A map or a message; entries marked optional (``{?k: v}``) are left out when absent."""

    def build(env: Env) -> dict[Any, Any]:
        out = {}
        for key, node, optional in entries:
            value = node(env)
            if optional:
                if not _optional(value).present:
                    continue
                value = value.value
            name = key(env)
            if not isinstance(name, str | int | bool):
                raise EvaluationError(f"unsupported key type: {type_name(name)}")
            out[name] = value
        return out

    return build


def _optional(value: Any) -> Optional:
    if isinstance(value, Optional):
        return value
    raise EvaluationError(f"cannot initialize optional entry from non-optional value of type {type_name(value)}")


# Macros

MACROS = {
    "all": (1,),
    "exists": (1,),
    "exists_one": (1,),
    "existsOne": (1,),
    "filter": (1,),
    "map": (1, 2),
    "sortBy": (1,),
    "transformList": (1, 2),
    "transformMap": (1, 2),
    "transformMapEntry": (1, 2),
    "optMap": (1,),
    "optFlatMap": (1,),
}
"""Name to the numbers of bodies after the variables."""
TWO_VARIABLES = frozenset(("all", "exists", "exists_one", "existsOne", "transformList", "transformMap", "transformMapEntry"))


def macro(name: str, target: Node, names: Sequence[str], bodies: Sequence[Node]) -> Node:
    """``target.name(names..., bodies...)``."""
    body = bodies[-1]
    condition = bodies[0] if len(bodies) == 2 else None
    if name in ("optMap", "optFlatMap"):
        return _optional_macro(name, target, names[0], body)

    def scopes(env: Env) -> Iterator[tuple[Any, Env]]:
        """Each element (or key) with the variables that see it."""
        value = target(env)
        if isinstance(value, Mapping):
            pairs: list[tuple[Any, Any]] = list(value.items())
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        else:
            raise EvaluationError(f"no such overload: {type_name(value)}.{name}()")
        steps = env[STEPS]
        for key, item in pairs:
            steps[0] += 1
            if steps[0] > MAX_STEPS:
                raise EvaluationError("operation cancelled: actual cost limit exceeded")
            if len(names) == 2:
                scope = {**env, names[0]: key, names[1]: item}
                yield key, scope
            else:
                one = key if isinstance(value, Mapping) else item
                yield one, {**env, names[0]: one}

    def quantified(env: Env, decisive: bool) -> bool:
        pending: EvaluationError | None = None
        for _, scope in scopes(env):
            try:
                if boolean(body(scope)) is decisive:
                    return decisive
            except EvaluationError as error:
                pending = error
        if pending is not None:
            raise pending
        return not decisive

    def chosen(env: Env) -> Iterator[tuple[Any, Env]]:
        for key, scope in scopes(env):
            if condition is None or boolean(condition(scope)):
                yield key, scope

    if name == "all":
        return lambda env: quantified(env, False)
    if name == "exists":
        return lambda env: quantified(env, True)
    if name in ("exists_one", "existsOne"):
        return lambda env: sum(boolean(body(scope)) for _, scope in scopes(env)) == 1
    if name == "filter":
        return lambda env: [item for item, scope in scopes(env) if boolean(body(scope))]
    if name in ("map", "transformList"):
        return lambda env: [body(scope) for _, scope in chosen(env)]
    if name == "transformMap":
        return lambda env: {key: body(scope) for key, scope in chosen(env)}
    if name == "transformMapEntry":
        return lambda env: _entries([body(scope) for _, scope in chosen(env)])
    return lambda env: [item for _, item in _in_order([(body(scope), item) for item, scope in scopes(env)])]


def _entries(parts: list[Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for part in parts:
        if not isinstance(part, Mapping):
            raise EvaluationError(f"no such overload: transformMapEntry({type_name(part)})")
        for key, value in part.items():
            if key in out:
                raise EvaluationError(f"insert failed: key {key} already exists")
            out[key] = value
    return out


def _in_order(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    def order(a: tuple[Any, Any], b: tuple[Any, Any]) -> int:
        return -1 if compare("<", a[0], b[0]) else int(compare(">", a[0], b[0]))

    return sorted(pairs, key=cmp_to_key(order))


def in_order(items: list[Any]) -> list[Any]:
    """The items sorted. Raises EvaluationError when they cannot be compared."""
    return [item for _, item in _in_order([(item, item) for item in items])]


def _optional_macro(name: str, target: Node, var: str, body: Node) -> Node:
    def run(env: Env) -> Optional:
        value = _optional(target(env))
        if not value.present:
            return NONE
        result = body({**env, var: value.value})
        return Optional(result) if name == "optMap" else _optional(result)

    return run


def bind(name: str, value: Node, body: Node) -> Node:
    """``cel.bind(name, value, body)``."""
    return lambda env: body({**env, name: value(env)})
