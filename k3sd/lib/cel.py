"""The Common Expression Language, as far as Kubernetes' admission rules use it. Knows nothing of Kubernetes.

``compile_expression(text, names)`` parses once and returns a ``Program``; ``Program.evaluate(variables)`` runs it on JSON data.
Source: the CEL specification (google/cel-spec ``doc/langdef.md``) and the string, list and regex extensions of cel-go. Not
here: messages, optional values, timestamps and durations; an expression that uses them does not compile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

Env = Mapping[str, Any]
Node = Callable[[Env], Any]

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
MAX_EXPRESSION = 64 << 10
MAX_DEPTH = 50
MAX_STEPS = 1_000_000
"""Iterations of macros in one evaluation."""


class CompileError(Exception):
    """The expression is malformed or names what does not exist."""


class EvaluationError(Exception):
    """The expression has no value for these variables: a missing key, a type that does not fit, a division by zero."""


class _Token(NamedTuple):
    kind: str
    value: Any
    at: int


_TOKENS = re.compile(
    r"""(?P<space>[ \t\r\n\f]+|//[^\n]*)
    |(?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<string>[rR]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<op>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,\[\](){}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()  # noqa: SIM905
)
_MACROS = ("all", "exists", "exists_one", "map", "filter")


def _unescape(text: str) -> str:
    raw = text[0] in "rR"
    body = text[1:] if raw else text
    quote = 3 if body[:3] in ('"""', "'''") else 1
    body = body[quote:-quote]
    if raw:
        return body

    def one(match: re.Match[str]) -> str:
        for group in (1, 2, 3):
            if match[group]:
                return chr(int(match[group], 16))
        return chr(int(match[4], 8)) if match[4] else _ESCAPES.get(match[5], match[5])

    return _ESCAPE.sub(one, body)


def _tokens(text: str) -> list[_Token]:
    out: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise CompileError(f"Syntax error: token recognition error at: '{text[at]}'")
        kind, value = str(match.lastgroup), match[0]
        if kind == "int":
            out.append(_Token("value", int(value.rstrip("uU"), 0), at))
        elif kind == "double":
            out.append(_Token("value", float(value), at))
        elif kind == "string":
            out.append(_Token("value", _unescape(value), at))
        elif kind != "space":
            out.append(_Token(kind, value, at))
        at = match.end()
    out.append(_Token("end", "<EOF>", at))
    return out


class _Parser:
    """Recursive descent to closures. ``names`` are the variables that exist."""

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._names = names
        self._depth = 0

    def parse(self) -> Node:
        node = self._ternary()
        if self._peek.kind != "end":
            self._fail()
        return node

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _fail(self) -> NoReturn:
        token = self._peek
        raise CompileError(f"Syntax error: mismatched input '{token.value}' at position {token.at}")

    def _take(self, *ops: str) -> str:
        token = self._peek
        if token.kind == "op" and token.value in ops:
            self._next += 1
            return str(token.value)
        return ""

    def _expect(self, op: str) -> None:
        if not self._take(op):
            self._fail()

    def _ternary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CompileError("expression is nested too deeply")
        condition = self._or()
        if self._take("?"):
            yes = self._or()
            self._expect(":")
            no = self._ternary()
            chosen = condition
            self._depth -= 1
            return lambda env: yes(env) if _boolean(chosen(env)) else no(env)
        self._depth -= 1
        return condition

    def _or(self) -> Node:
        node = self._and()
        while self._take("||"):
            node = _absorbing(node, self._and(), True)
        return node

    def _and(self) -> Node:
        node = self._relation()
        while self._take("&&"):
            node = _absorbing(node, self._relation(), False)
        return node

    def _relation(self) -> Node:
        node = self._sum()
        while True:
            op = self._take("==", "!=", "<", "<=", ">", ">=")
            if not op and self._peek.kind == "name" and self._peek.value == "in":
                self._next += 1
                op = "in"
            if not op:
                return node
            node = _binary(op, node, self._sum())

    def _sum(self) -> Node:
        node = self._product()
        while op := self._take("+", "-"):
            node = _binary(op, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._unary()
        while op := self._take("*", "/", "%"):
            node = _binary(op, node, self._unary())
        return node

    def _unary(self) -> Node:
        op = self._take("!", "-")
        if not op:
            return self._member()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CompileError("expression is nested too deeply")
        inner = self._unary()
        self._depth -= 1
        if op == "!":
            return lambda env: not _boolean(inner(env))
        return lambda env: _negative(inner(env))

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._take("."):
                token = self._peek
                if token.kind != "name":
                    self._fail()
                self._next += 1
                name = str(token.value)
                node = self._method(node, name) if self._take("(") else _select(node, name)
            elif self._take("["):
                index = self._ternary()
                self._expect("]")
                node = _index(node, index)
            else:
                return node

    def _method(self, target: Node, name: str) -> Node:
        if name in _MACROS:
            return self._macro(target, name)
        arguments = self._arguments()
        function = _METHODS.get(name)
        if function is None:
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return lambda env: _call(function, name, target(env), *(a(env) for a in arguments))

    def _macro(self, target: Node, name: str) -> Node:
        token = self._peek
        if token.kind != "name":
            self._fail()
        variable = str(token.value)
        self._next += 1
        outer, self._names = self._names, self._names | {variable}
        bodies = []
        while self._take(","):
            bodies.append(self._ternary())
        self._names = outer
        self._expect(")")
        if len(bodies) not in ((1, 2) if name == "map" else (1,)):
            raise CompileError(f"macro '{name}' has the wrong number of arguments")
        return _comprehension(name, target, variable, bodies)

    def _arguments(self) -> list[Node]:
        out: list[Node] = []
        if self._take(")"):
            return out
        while True:
            out.append(self._ternary())
            if self._take(")"):
                return out
            self._expect(",")

    def _primary(self) -> Node:
        token = self._peek
        if token.kind == "value":
            self._next += 1
            value = token.value
            if isinstance(value, int) and not isinstance(value, bool) and value > INT_MAX + 1:
                raise CompileError("invalid int literal")
            return lambda env: value
        if self._take("("):
            node = self._ternary()
            self._expect(")")
            return node
        if self._take("["):
            return self._list()
        if self._take("{"):
            return self._map()
        if token.kind != "name":
            self._fail()
        self._next += 1
        return self._name(str(token.value))

    def _list(self) -> Node:
        items: list[Node] = []
        while not self._take("]"):
            items.append(self._ternary())
            if not self._take(","):
                self._expect("]")
                break
        return lambda env: [item(env) for item in items]

    def _map(self) -> Node:
        entries: list[tuple[Node, Node]] = []
        while not self._take("}"):
            key = self._ternary()
            self._expect(":")
            entries.append((key, self._ternary()))
            if not self._take(","):
                self._expect("}")
                break
        return lambda env: {key(env): value(env) for key, value in entries}

    def _name(self, name: str) -> Node:
        constants: dict[str, Any] = {"true": True, "false": False, "null": None}
        if name in constants:
            value = constants[name]
            return lambda env: value
        if name in _RESERVED or name == "in":
            raise CompileError(f"Syntax error: reserved identifier: {name}")
        if name == "has" and self._take("("):
            return self._has()
        if self._take("("):
            arguments = self._arguments()
            function = _FUNCTIONS.get(name)
            if function is None:
                raise CompileError(f"undeclared reference to '{name}' (in container '')")
            return lambda env: _call(function, name, *(a(env) for a in arguments))
        if name not in self._names:
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return lambda env: _variable(env, name)

    def _has(self) -> Node:
        """``has(a.b.c)``: whether the last field is there."""
        start = self._next
        node = self._ternary()
        self._expect(")")
        last = self._tokens[self._next - 2]
        if last.kind != "name" or self._tokens[self._next - 3].value != "." or start == self._next:
            raise CompileError("invalid argument to has() macro")
        holder = getattr(node, "holder", None)
        if holder is None:
            raise CompileError("invalid argument to has() macro")
        field = str(last.value)

        def test(env: Env) -> bool:
            value = holder(env)
            if not isinstance(value, Mapping):
                raise EvaluationError(f"no such overload: has({_type(value)}.{field})")
            return field in value and value[field] is not None

        return test


def _variable(env: Env, name: str) -> Any:
    try:
        return env[name]
    except KeyError:
        raise EvaluationError(f"no such attribute(s): {name}") from None


def _select(target: Node, name: str) -> Node:
    def select(env: Env) -> Any:
        value = target(env)
        if not isinstance(value, Mapping):
            raise EvaluationError(f"no such overload: {_type(value)}.{name}")
        try:
            return value[name]
        except KeyError:
            raise EvaluationError(f"no such key: {name}") from None

    select.holder = target  # type: ignore[attr-defined]
    return select


def _index(target: Node, index: Node) -> Node:
    def item(env: Env) -> Any:
        value, key = target(env), index(env)
        if isinstance(value, Mapping):
            if key in value:
                return value[key]
            raise EvaluationError(f"no such key: {key}")
        if isinstance(value, list) and _is_int(key):
            if 0 <= key < len(value):
                return value[key]
            raise EvaluationError(f"index out of bounds: {key}")
        raise EvaluationError("no such overload: _[_]")

    return item


def _absorbing(left: Node, right: Node, decisive: bool) -> Node:
    """``||`` and ``&&``: an error counts only when the other side does not decide."""

    def run(env: Env) -> bool:
        try:
            first = _boolean(left(env))
        except EvaluationError:
            if _boolean(right(env)) is decisive:
                return decisive
            raise
        return first if first is decisive else _boolean(right(env))

    return run


def _comprehension(name: str, target: Node, variable: str, bodies: Sequence[Node]) -> Node:
    body = bodies[-1]

    def items(env: Env) -> list[Any]:
        value = target(env)
        if isinstance(value, Mapping):
            return list(value)
        if isinstance(value, list):
            return value
        raise EvaluationError(f"no such overload: {_type(value)}.{name}()")

    def scoped(env: Env, item: Any) -> dict[str, Any]:
        steps = env["@steps"]
        steps[0] += 1
        if steps[0] > MAX_STEPS:
            raise EvaluationError("operation cancelled: actual cost limit exceeded")
        return {**env, variable: item}

    def quantified(env: Env, decisive: bool) -> bool:
        pending: EvaluationError | None = None
        for item in items(env):
            try:
                if _boolean(body(scoped(env, item))) is decisive:
                    return decisive
            except EvaluationError as error:
                pending = error
        if pending is not None:
            raise pending
        return not decisive

    if name == "all":
        return lambda env: quantified(env, False)
    if name == "exists":
        return lambda env: quantified(env, True)
    if name == "exists_one":
        return lambda env: sum(_boolean(body(scoped(env, i))) for i in items(env)) == 1
    if name == "filter":
        return lambda env: [i for i in items(env) if _boolean(body(scoped(env, i)))]
    if len(bodies) == 2:
        keep = bodies[0]
        return lambda env: [body(scoped(env, i)) for i in items(env) if _boolean(keep(scoped(env, i)))]
    return lambda env: [body(scoped(env, i)) for i in items(env)]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type(value: Any) -> str:
    if value is None:
        return "null_type"
    if isinstance(value, bool):
        return "bool"
    for kind, name in ((int, "int"), (float, "double"), (str, "string"), (list, "list"), (Mapping, "map")):
        if isinstance(value, kind):
            return name
    return type(value).__name__


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise EvaluationError("no such overload")


def _negative(value: Any) -> Any:
    if not _is_number(value):
        raise EvaluationError("no such overload: -_")
    return _bounded(-value)


def _bounded(value: Any) -> Any:
    if _is_int(value) and not INT_MIN <= value <= INT_MAX:
        raise EvaluationError("integer overflow")
    return value


def equal(a: Any, b: Any) -> bool:
    """CEL equality: numbers compare by value, everything else only with its own type."""
    if _is_number(a) and _is_number(b):
        return bool(a == b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return len(a) == len(b) and all(k in b and equal(v, b[k]) for k, v in a.items())
    return _type(a) == _type(b) and bool(a == b)


def _binary(op: str, left: Node, right: Node) -> Node:
    if op == "==":
        return lambda env: equal(left(env), right(env))
    if op == "!=":
        return lambda env: not equal(left(env), right(env))
    if op == "in":
        return lambda env: _contains(left(env), right(env))
    function = _ARITHMETIC[op]
    return lambda env: function(op, left(env), right(env))


def _contains(item: Any, holder: Any) -> bool:
    if isinstance(holder, list):
        return any(equal(item, entry) for entry in holder)
    if isinstance(holder, Mapping):
        return item in holder
    raise EvaluationError("no such overload: @in")


def _compare(op: str, a: Any, b: Any) -> bool:
    if (not (_is_number(a) and _is_number(b)) and _type(a) != _type(b)) or not isinstance(a, int | float | str):
        raise EvaluationError(f"no such overload: _{op}_ applied to ({_type(a)}, {_type(b)})")
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op])


def _arithmetic(op: str, a: Any, b: Any) -> Any:
    kinds = _type(a), _type(b)
    if op == "+" and kinds in (("string", "string"), ("list", "list")):
        return a + b
    if kinds not in (("int", "int"), ("double", "double")) or (op == "%" and kinds[0] != "int"):
        raise EvaluationError(f"no such overload: _{op}_ applied to ({kinds[0]}, {kinds[1]})")
    if op == "+":
        return _bounded(a + b)
    if op == "-":
        return _bounded(a - b)
    if op == "*":
        return _bounded(a * b)
    if kinds[0] == "double":
        return a / b if b else float("nan") if a == 0 else float("inf") if (a > 0) == (str(b)[0] != "-") else float("-inf")
    if b == 0:
        raise EvaluationError("division by zero" if op == "/" else "modulus by zero")
    # Truncated towards zero, as in Go.
    quotient = abs(a) // abs(b)
    quotient = quotient if (a < 0) == (b < 0) else -quotient
    return _bounded(quotient if op == "/" else a - quotient * b)


_ARITHMETIC: dict[str, Callable[[str, Any, Any], Any]] = {
    **dict.fromkeys(("<", "<=", ">", ">="), _compare),
    **dict.fromkeys(("+", "-", "*", "/", "%"), _arithmetic),
}


def _call(function: Callable[..., Any], name: str, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        kinds = ", ".join(_type(a) for a in arguments)
        raise EvaluationError(f"no such overload: {name}({kinds})") from error


def _need(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(kind)
    return value


def _size(value: Any) -> int:
    if isinstance(value, str | list | Mapping):
        return len(value)
    raise TypeError("size")


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, str | int):
        return str(value)
    raise TypeError("string")


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("int")
    return int(_bounded(int(value)))


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("double")
    return float(value)


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _matches(value: Any, pattern: Any) -> bool:
    try:
        return _pattern(_need(pattern, str)).search(_need(value, str)) is not None
    except re.error as error:
        raise EvaluationError(f"error parsing regexp: {error}") from error


def _replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    return str(_need(value, str).replace(_need(old, str), _need(new, str), count))


def _split(value: Any, separator: Any, count: int = -1) -> list[str]:
    text, by = _need(value, str), _need(separator, str)
    if count == 0:
        return []
    parts: list[str] = (text.split(by) if by else list(text)) if count < 0 else text.split(by, count - 1)
    return parts


def _substring(value: Any, start: int, end: int | None = None) -> str:
    text = _need(value, str)
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError("index out of range")
    return str(text[start:stop])


def _find(value: Any, what: Any, last: bool = False) -> int:
    if isinstance(value, list):
        places = [i for i, entry in enumerate(value) if equal(entry, what)]
        return (places[-1] if last else places[0]) if places else -1
    text = _need(value, str)
    return int(text.rfind(_need(what, str)) if last else text.find(_need(what, str)))


def _sorted(value: Any) -> bool:
    items = _need(value, list)
    return all(not _compare(">", a, b) for a, b in pairwise(items))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "string": _string,
    "int": _int,
    "uint": _int,
    "double": _double,
    "dyn": lambda value: value,
    "type": _type,
    "matches": _matches,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "matches": _matches,
    "contains": lambda value, part: _need(part, str) in _need(value, str),
    "startsWith": lambda value, part: _need(value, str).startswith(_need(part, str)),
    "endsWith": lambda value, part: _need(value, str).endswith(_need(part, str)),
    "charAt": lambda value, at: _need(value, str)[at : at + 1],
    "indexOf": _find,
    "lastIndexOf": lambda value, what: _find(value, what, True),
    "lowerAscii": lambda value: _need(value, str).lower(),
    "upperAscii": lambda value: _need(value, str).upper(),
    "replace": _replace,
    "split": _split,
    "substring": _substring,
    "trim": lambda value: _need(value, str).strip(),
    "join": lambda value, by="": by.join(_need(value, list)),
    "isSorted": _sorted,
    "sum": lambda value: sum(_need(value, list)),
    "min": lambda value: min(_need(value, list)),
    "max": lambda value: max(_need(value, list)),
    "find": lambda value, pattern: m[0] if (m := _pattern(pattern).search(_need(value, str))) else "",
    "findAll": lambda value, pattern: [m[0] for m in _pattern(pattern).finditer(_need(value, str))],
}


class Program:
    """A compiled expression."""

    __slots__ = ("_node", "text")

    def __init__(self, text: str, node: Node) -> None:
        self.text = text
        self._node = node

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """The value for these variables; a variable may be a mapping that computes on access. Raises EvaluationError."""
        try:
            return self._node({**variables, "@steps": [0]})
        except RecursionError as error:
            raise EvaluationError("expression is nested too deeply") from error


def compile_expression(text: str, names: Sequence[str]) -> Program:
    """Raises CompileError."""
    if len(text) > MAX_EXPRESSION:
        raise CompileError("expression code point size exceeds limit")
    return Program(text, _Parser(text, frozenset(names)).parse())
