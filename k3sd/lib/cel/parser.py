"""From text to closures: recursive descent over the grammar of google/cel-spec ``doc/langdef.md``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from k3sd.lib.cel import nodes
from k3sd.lib.cel.nodes import Env, Node
from k3sd.lib.cel.values import INT_MAX, TYPE_NAMES, CompileError, EvaluationError, Type, negative, type_name

MAX_DEPTH = 50


class Library(NamedTuple):
    """What an expression may call. A name with a dot in ``functions`` belongs to a namespace (``math.greatest``). ``messages``
    are the names of types that may be built with ``Name{field: value}``, with whatever follows the name after dots."""

    functions: Mapping[str, Callable[..., Any]]
    methods: Mapping[str, Callable[..., Any]]
    messages: frozenset[str] = frozenset()


class _Token(NamedTuple):
    kind: str
    value: Any
    at: int


_TOKENS = re.compile(
    r"""(?P<space>[ \t\r\n\f]+|//[^\n]*)
    |(?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<string>(?:[rR][bB]?|[bB][rR]?)?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*|`[_a-zA-Z0-9./ -]+`)
    |(?P<op>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,\[\](){}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()  # noqa: SIM905
)
"""Words that are no names although the language has no use for them."""
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}


def _unescape(text: str) -> str | bytes:
    prefix = text[: len(text) - len(text.lstrip("rRbB"))].lower()
    body = text[len(prefix) :]
    quote = 3 if body[:3] in ('"""', "'''") else 1
    body = body[quote:-quote]

    def one(match: re.Match[str]) -> str:
        for group in (1, 2, 3):
            if match[group]:
                return chr(int(match[group], 16))
        return chr(int(match[4], 8)) if match[4] else _ESCAPES.get(match[5], match[5])

    if "b" not in prefix:
        return body if "r" in prefix else _ESCAPE.sub(one, body)
    if "r" in prefix:
        return body.encode()
    # Escapes of bytes name bytes, everything else is UTF-8.
    out = bytearray()
    at = 0
    for match in _ESCAPE.finditer(body):
        out += body[at : match.start()].encode()
        out += one(match).encode("latin-1" if match[1] or match[4] else "utf-8")
        at = match.end()
    return bytes(out + body[at:].encode())


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
            out.append(_Token(kind, value.strip("`") if kind == "name" else value, at))
        at = match.end()
    out.append(_Token("end", "<EOF>", at))
    return out


class Parser:
    """One expression. ``names`` are the variables that exist; ``chains`` collects the fields selected from them."""

    def __init__(self, text: str, names: frozenset[str], library: Library) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._names = names
        self._local: frozenset[str] = frozenset()
        self._library = library
        self._depth = 0
        self.chains: set[tuple[str, ...]] = set()

    def parse(self) -> Node:
        """Raises CompileError."""
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

    def _identifier(self) -> str:
        token = self._peek
        if token.kind != "name":
            self._fail()
        self._next += 1
        return str(token.value)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CompileError("expression is nested too deeply")

    def _ternary(self) -> Node:
        self._deeper()
        node = self._or()
        if self._take("?"):
            yes = self._or()
            self._expect(":")
            node = nodes.choice(node, yes, self._ternary())
        self._depth -= 1
        return node

    def _or(self) -> Node:
        node = self._and()
        while self._take("||"):
            node = nodes.absorbing(node, self._and(), True)
        return node

    def _and(self) -> Node:
        node = self._relation()
        while self._take("&&"):
            node = nodes.absorbing(node, self._relation(), False)
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
            node = nodes.binary(op, node, self._sum())

    def _sum(self) -> Node:
        node = self._product()
        while op := self._take("+", "-"):
            node = nodes.binary(op, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._unary()
        while op := self._take("*", "/", "%"):
            node = nodes.binary(op, node, self._unary())
        return node

    def _unary(self) -> Node:
        op = self._take("!", "-")
        if not op:
            return self._member()
        self._deeper()
        inner = self._unary()
        self._depth -= 1
        if op == "!":
            return nodes.negation(inner)
        return lambda env: negative(inner(env))

    def _member(self) -> Node:
        start = self._peek
        node = self._primary()
        # The fields selected from a variable one after the other, for those who know its type.
        chain: list[str] | None = None
        if start.kind == "name" and self._next > 0 and self._tokens[self._next - 1] is start and start.value in self._names:
            chain = [str(start.value)]
        while True:
            if self._take("."):
                optional = bool(self._take("?"))
                name = self._identifier()
                if not optional and self._take("("):
                    self._note(chain)
                    chain = None
                    node = self._method(node, name)
                else:
                    if chain is not None:
                        chain.append(name)
                    node = nodes.select(node, name, optional=optional)
            elif self._take("["):
                self._note(chain)
                chain = None
                optional = bool(self._take("?"))
                key = self._ternary()
                self._expect("]")
                node = nodes.index(node, key, optional=optional)
            else:
                self._note(chain)
                return node

    def _note(self, chain: list[str] | None) -> None:
        if chain is not None and chain[0] not in self._local:
            self.chains.add(tuple(chain))

    def _method(self, target: Node, name: str) -> Node:
        if name in nodes.MACROS:
            return self._macro(target, name)
        arguments = self._arguments()
        function = self._library.methods.get(name)
        if function is None:
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return lambda env: call(function, name, target(env), *(a(env) for a in arguments))

    def _macro(self, target: Node, name: str) -> Node:
        variables = [self._identifier()]
        if self._peek.value != ")":
            self._expect(",")
        outer = self._names, self._local
        two = name in nodes.TWO_VARIABLES and self._peek.kind == "name" and self._tokens[self._next + 1].value == ","
        if two:
            variables.append(self._identifier())
            self._expect(",")
        self._names |= set(variables)
        self._local |= set(variables)
        bodies = []
        if self._peek.value != ")":
            bodies.append(self._ternary())
            while self._take(","):
                bodies.append(self._ternary())
        self._names, self._local = outer
        self._expect(")")
        if len(bodies) not in nodes.MACROS[name]:
            raise CompileError(f"macro '{name}' has the wrong number of arguments")
        return nodes.macro(name, target, variables, bodies)

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
            return nodes.constant(value)
        if self._take("("):
            node = self._ternary()
            self._expect(")")
            return node
        if self._take("["):
            return self._list()
        if self._take("{"):
            return self._map()
        return self._name(self._identifier())

    def _list(self) -> Node:
        items: list[tuple[Node, bool]] = []
        while not self._take("]"):
            optional = bool(self._take("?"))
            items.append((self._ternary(), optional))
            if not self._take(","):
                self._expect("]")
                break
        return nodes.list_of(items)

    def _map(self, *, fields: bool = False) -> Node:
        """A map, or what is between the braces of a message (``fields``)."""
        entries: list[tuple[Node, Node, bool]] = []
        while not self._take("}"):
            optional = bool(self._take("?"))
            key = nodes.constant(self._identifier()) if fields else self._ternary()
            self._expect(":")
            entries.append((key, self._ternary(), optional))
            if not self._take(","):
                self._expect("}")
                break
        return nodes.map_of(entries)

    def _name(self, name: str) -> Node:
        if name in _CONSTANTS:
            return nodes.constant(_CONSTANTS[name])
        if name in RESERVED or name == "in":
            raise CompileError(f"Syntax error: reserved identifier: {name}")
        if name in self._library.messages and name not in self._local:
            return self._message(name)
        if name == "has" and self._take("("):
            return self._has()
        if self._take("("):
            return self._function(name)
        if name not in self._names:
            if self._peek.value == "." and self._tokens[self._next + 1].kind == "name":
                return self._qualified(name)
            if name in TYPE_NAMES:
                return nodes.constant(Type(name))
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return nodes.variable(name)

    def _message(self, name: str) -> Node:
        while self._take("."):
            name = f"{name}.{self._identifier()}"
        if not self._take("{"):
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return self._map(fields=True)

    def _qualified(self, name: str) -> Node:
        """A function of a namespace, or the name of a type."""
        full = name
        while self._peek.value == "." and self._tokens[self._next + 1].kind == "name":
            self._next += 1
            full = f"{full}.{self._identifier()}"
        if full == "cel.bind" and self._take("("):
            return self._bind()
        if self._take("("):
            return self._function(full)
        if full in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return nodes.constant(Type(full))
        raise CompileError(f"undeclared reference to '{name}' (in container '')")

    def _function(self, name: str) -> Node:
        arguments = self._arguments()
        function = self._library.functions.get(name)
        if function is None:
            raise CompileError(f"undeclared reference to '{name}' (in container '')")
        return lambda env: call(function, name, *(a(env) for a in arguments))

    def _bind(self) -> Node:
        name = self._identifier()
        self._expect(",")
        value = self._ternary()
        self._expect(",")
        outer = self._names, self._local
        self._names |= {name}
        self._local |= {name}
        body = self._ternary()
        self._names, self._local = outer
        self._expect(")")
        return nodes.bind(name, value, body)

    def _has(self) -> Node:
        """``has(a.b.c)``: whether the last field is there."""
        start = self._next
        node = self._ternary()
        self._expect(")")
        last = self._tokens[self._next - 2]
        holder = getattr(node, "holder", None)
        if last.kind != "name" or self._tokens[self._next - 3].value not in (".", "?") or start == self._next or holder is None:
            raise CompileError("invalid argument to has() macro")
        return nodes.has(holder, str(last.value))


def call(function: Callable[..., Any], name: str, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        kinds = ", ".join(type_name(a) for a in arguments)
        raise EvaluationError(f"no such overload: {name}({kinds})") from error


class Program:
    """A compiled expression. ``chains`` are the fields it selects from its variables: ``a.b.c`` as ``("a", "b", "c")``."""

    __slots__ = ("_node", "chains", "text")

    def __init__(self, text: str, node: Node, chains: frozenset[tuple[str, ...]]) -> None:
        self.text = text
        self.chains = chains
        self._node = node

    def evaluate(self, variables: Env) -> Any:
        """The value for these variables; a variable may be a mapping that computes on access. Raises EvaluationError."""
        try:
            return self._node({**variables, nodes.STEPS: [0]})
        except RecursionError as error:
            raise EvaluationError("expression is nested too deeply") from error


MAX_EXPRESSION = 64 << 10


def compile_expression(text: str, names: Sequence[str], library: Library) -> Program:
    """Raises CompileError."""
    if len(text) > MAX_EXPRESSION:
        raise CompileError("expression code point size exceeds limit")
    parser = Parser(text, frozenset(names), library)
    node = parser.parse()
    return Program(text, node, frozenset(parser.chains))
