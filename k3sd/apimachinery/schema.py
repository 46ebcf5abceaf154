"""The type system: every built-in type, declared once in ``k3sd.apis.<group>.<version>.TYPES`` and parsed when first asked for.

The notation, one line a field::

    Container                                a type. Behind its name: ``kind``, object with kind and apiVersion, ``typed``, has
                                             these two but is no object, ``atomic``: applied as a whole
      name! 1 string                         ``!`` required; ``1`` the protobuf number
      ports 6 []ContainerPort map=containerPort,protocol merge=containerPort
      replicas 1 *int32                      ``*`` a pointer in Go: zero values are kept
      hostPath 2.1 HostPathVolumeSource      number 1 in the message embedded as number 2
    Time = string:date-time                  a type that is a scalar or free-form in JSON

Types: string, int32, int64, bool, bytes (base64), double, any, object, ``[]T``, ``{}T`` (map with string keys), or the name of
a type of the same module, of meta/v1, or ``core.Name``. Flags: ``atomic``, ``set``, ``map=keys``, ``granular`` (list and map
types of server-side apply); ``merge``, ``merge=key``, ``retainKeys``, ``replace`` (strategic merge patch); ``default=text``;
``always`` (written though empty), ``omit`` (required, but left out when empty), ``omitzero``; ``wrap`` (protobuf wraps the list
in a message); ``@package`` behind a type name: it lives in that package. `` # `` starts a description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from sys import intern

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
CORE = "io.k8s.api.core.v1"
SCALARS = frozenset(("string", "int32", "int64", "bool", "bytes", "double", "any", "object"))
_SHARED = {
    "io.k8s.apimachinery.pkg.api.resource",
    "io.k8s.apimachinery.pkg.runtime",
    "io.k8s.apimachinery.pkg.util.intstr",
    "io.k8s.apimachinery.pkg.version",
}
_API = "io.k8s.api."
_ELSEWHERE = {
    META: "meta.v1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1": "apiextensions.v1",
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1": "apiregistration.v1",
}
MODULES = tuple(
    f"{group}.{version}"
    for version, groups in (
        (
            "v1",
            "admissionregistration apiextensions apiregistration apps authentication authorization autoscaling batch "
            "certificates coordination core discovery events flowcontrol meta networking node policy rbac resource "
            "scheduling storage",
        ),
        ("v2", "autoscaling"),
    )
    for group in groups.split()
)


class Field:
    """One field. ``type`` is a scalar name or a full type name; ``container`` is "", "list", "map" or "maplist"."""

    __slots__ = (
        "always",
        "container",
        "default",
        "keys",
        "list_type",
        "merge_key",
        "name",
        "number",
        "omitzero",
        "pointer",
        "required",
        "strategy",
        "type",
        "wrapped",
    )

    def __init__(self, name: str, number: tuple[int, ...], container: str, type_: str) -> None:
        self.name = name
        self.number = number
        self.container = container
        self.type = type_
        self.required = False
        self.pointer = False
        self.always = False
        self.omitzero = False
        self.wrapped = False
        self.default: str | None = None
        self.list_type = ""
        self.keys: tuple[str, ...] = ()
        self.strategy: tuple[str, ...] = ()
        self.merge_key = ""

    @property
    def ref(self) -> Type | None:
        """The type of a value (of an item, for lists and maps), or None for scalars."""
        return None if self.type in SCALARS else types.get(self.type)

    def __repr__(self) -> str:
        return f"Field({self.name} {self.container} {self.type})"


class Type:
    """``fields`` by JSON name, in protobuf order. ``scalar`` is "" for structs, else the JSON form (``string:date-time``).

    ``is_kind``: an object of its own, with kind and apiVersion. ``atomic``: server-side apply owns it as a whole.
    """

    __slots__ = ("atomic", "fields", "is_kind", "name", "scalar")

    def __init__(self, name: str, scalar: str, is_kind: bool, atomic: bool, fields: dict[str, Field]) -> None:
        self.name = name
        self.atomic = atomic
        self.scalar = scalar
        self.is_kind = is_kind
        self.fields = fields

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"Type({self.name})"


class _Module:
    """One declaration text, split into types; a type is parsed when asked for."""

    __slots__ = ("names", "package", "texts")

    def __init__(self, package: str, text: str) -> None:
        self.package = package
        self.texts: dict[str, str] = {}
        self.names: dict[str, str] = {}
        for block in re.split(r"\n(?=\S)", text.strip("\n")):
            head = block.partition("\n")[0].partition(" # ")[0].split()
            at = next((word[1:] for word in head if word[0] == "@"), package)
            self.texts[head[0]] = block
            self.names[head[0]] = intern(f"{at}.{head[0]}")


class _Types:
    """The registry: ``types.get(name)``. KeyError for a name no module declares."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}
        self._types: dict[str, Type] = {}

    def _module(self, package: str) -> _Module:
        module = self._modules.get(package)
        if module is None:
            path = _ELSEWHERE.get(package) or package.removeprefix(_API)
            if path not in MODULES:
                raise KeyError(package)
            module = _Module(package, import_module(f"k3sd.apis.{path}").TYPES)
            self._modules[package] = module
        return module

    @staticmethod
    def _home(name: str) -> tuple[str, str]:
        package, _, short = name.rpartition(".")
        return (META if package in _SHARED else package), short

    def get(self, name: str) -> Type:
        """The type with this full name, such as ``io.k8s.api.core.v1.Pod``."""
        found = self._types.get(name)
        if found is None:
            package, short = self._home(name)
            module = self._module(package)
            if short not in module.texts:
                raise KeyError(name)
            found = self._parse(module, short)
            self._types[found.name] = found
        return found

    def has(self, name: str) -> bool:
        try:
            self.get(name)
        except KeyError:
            return False
        return True

    def register(self, type_: Type) -> None:
        """Add a type that is declared nowhere (a custom resource), or replace it."""
        self._types[type_.name] = type_

    def unregister(self, name: str) -> None:
        self._types.pop(name, None)

    def names(self, package: str) -> list[str]:
        """All full type names a package's module declares."""
        return list(self._module(package).names.values())

    def text(self, package: str) -> str:
        """The declarations of a package, as they are written."""
        return "\n".join(self._module(package).texts.values())

    def descriptions(self, name: str) -> dict[str, str]:
        """Descriptions by field name, the type's own under ""; only what has one. Not kept in memory."""
        package, short = self._home(name)
        found = {}
        for i, line in enumerate(self._module(package).texts[short].split("\n")):
            left, mark, text = line.partition(" # ")
            if mark:
                found["" if i == 0 else left.split()[0].rstrip("!")] = text
        return found

    def _resolve(self, module: _Module, word: str) -> str:
        if word in SCALARS:
            return intern(word)
        if word.startswith("core."):
            return self._module(CORE).names[word[5:]]
        return module.names.get(word) or self._module(META).names[word]

    def _parse(self, module: _Module, short: str) -> Type:
        head, *lines = module.texts[short].split("\n")
        words = head.partition(" # ")[0].split()
        scalar = words[words.index("=") + 1] if "=" in words else ""
        is_kind = "kind" in words
        fields: dict[str, Field] = {}
        if is_kind or "typed" in words:
            fields["kind"] = Field("kind", (), "", "string")
            fields["apiVersion"] = Field("apiVersion", (), "", "string")
        for line in lines:
            field = self._field(module, line.partition(" # ")[0].split())
            fields[field.name] = field
        return Type(module.names[short], intern(scalar), is_kind, "atomic" in words, fields)

    def _field(self, module: _Module, words: list[str]) -> Field:
        name, number, type_, *flags = words
        pointer = type_[0] == "*"
        type_ = type_.lstrip("*")
        container = ""
        if type_.startswith("[]"):
            container, type_ = "list", type_[2:]
        elif type_.startswith("{}[]"):
            container, type_ = "maplist", type_[4:]
        elif type_.startswith("{}"):
            container, type_ = "map", type_[2:]
        path = tuple(int(part) for part in number.split(".")) if number != "-" else ()
        field = Field(intern(name.rstrip("!")), path, container, self._resolve(module, type_))
        field.pointer = pointer
        field.required = field.always = name.endswith("!")
        for flag in flags:
            self._flag(field, *flag.partition("=")[::2])
        return field

    @staticmethod
    def _flag(field: Field, flag: str, value: str) -> None:
        if flag in ("atomic", "set", "map", "granular"):
            field.list_type = intern(flag)
            field.keys = _intern_all(value)
        elif flag in ("merge", "retainKeys", "replace"):
            field.strategy = (*field.strategy, intern(flag))
            field.merge_key = intern(value) or field.merge_key
        elif flag == "default":
            field.default = value
        elif flag == "always":
            field.always = True
        elif flag == "omit":
            field.always = False
        elif flag == "omitzero":
            field.omitzero = True
        elif flag == "wrap":
            field.wrapped = True
        else:
            raise ValueError(f"field {field.name}: unknown flag {flag!r}")


@lru_cache(maxsize=64)
def _intern_all(keys: str) -> tuple[str, ...]:
    return tuple(intern(key) for key in keys.split(",") if key)


types = _Types()


def walk(name: str) -> Iterator[Type]:
    """The type and every type reachable from it, each once."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        name = todo.pop()
        if name in seen or name in SCALARS:
            continue
        seen.add(name)
        found = types.get(name)
        yield found
        todo += [field.type for field in found.fields.values()]
