"""Options from files, environment and command line, with K3s's precedence: flag, then file, then environment, then default.

Drop-ins ``<file>.d/*.yaml`` follow the main file in name order; a later key replaces the earlier value, ``key+`` appends to it.
List values of the command line replace the file's. Every value keeps its origin. All problems are reported at once, each with
its place.

Source: K3s 1.36, ``pkg/configfilearg``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from k3sd.config.options import BY_NAME, BY_SHORT, OPTIONS, Option, Role, options_for
from k3sd.config.problem import ConfigError, Problem

if TYPE_CHECKING:
    from k3sd.config.yamlfile import Entry

MAX_FILE_BYTES = 1 << 20
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+|0")


Parsed = str | bool | int | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it came from. ``value`` is ``None`` when the option is unset; durations and files stay text."""

    option: Option
    value: Parsed
    origin: str
    explicit: bool
    """False for the built-in default."""
    places: tuple[str, ...] = ()
    """Where each item of a list came from."""

    @property
    def origins(self) -> str:
        """Every place the value came from, one a file."""
        first = {place.rpartition(":")[0] or place: place for place in reversed(self.places)}
        return ", ".join(reversed(first.values())) or self.origin

    @property
    def shown(self) -> str:
        """The value for people; secrets are masked."""
        if self.value is None or self.value == ():
            return ""
        if self.option.secret:
            return "********"
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if isinstance(self.value, tuple):
            return ",".join(self.value)
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Every option of a role with its value. ``files`` are those that were read, in order."""

    role: Role
    values: Mapping[str, Value]
    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    """Fatal ones and warnings."""

    def origin(self, name: str, item: str = "") -> str:
        """Where the value came from, or one item of a list."""
        value = self.values[name]
        if isinstance(value.value, tuple) and item in value.value:
            return value.places[value.value.index(item)]
        return value.origin

    def text(self, name: str) -> str:
        value = self.values[name].value
        return value if isinstance(value, str) else ""

    def flag(self, name: str) -> bool:
        return self.values[name].value is True if name in self.values else False

    def number(self, name: str) -> int:
        value = self.values[name].value
        return value if isinstance(value, int) else 0

    def items(self, name: str) -> tuple[str, ...]:
        value = self.values[name].value
        return value if isinstance(value, tuple) else ()


@dataclass(slots=True)
class _Raw:
    """Text values of one option before parsing, each with its place."""

    items: list[tuple[str, str]] = field(default_factory=list)


def load(role: Role, argv: Sequence[str], environ: Mapping[str, str]) -> Loaded:
    """Every option of ``role``. Never raises for bad configuration: see ``problems``. ``--help`` prints and exits 0."""
    problems: list[Problem] = []
    flags = _read_command_line(role, argv, problems)
    config, config_origin, explicit = _config_file(flags, environ)
    from_files: dict[str, _Raw] = {}
    files = _read_files(role, config, config_origin, explicit, from_files, problems)
    values: dict[str, Value] = {}
    for option in options_for(role):
        value = _value(option, flags.get(option.name), from_files.get(option.name), environ, problems)
        values[option.name] = value
    values["config"] = Value(BY_NAME["config"], config, config_origin, explicit)
    return Loaded(role, values, tuple(files), tuple(problems))


def start_arguments(loaded: Loaded) -> tuple[str, ...]:
    """What the node was started with, from flags and files alike, as a command line would say it: the role, then option and
    value in turn. Secrets are masked. Source: K3s ``pkg/nodeconfig``, ``getNodeArgs``."""
    words: list[str] = [loaded.role]
    for name, value in loaded.values.items():
        if not value.explicit or value.origin == value.option.env or (name == "config" and value.origin != "--config"):
            continue
        if value.option.kind == "bool" and value.value is True:
            words.append(f"--{name}")
            continue
        items = value.value if isinstance(value.value, tuple) and not value.option.secret else (value.shown,)
        for item in items:
            words += [f"--{name}", item]
    return tuple(words)


def start_environment(loaded: Loaded, environ: Mapping[str, str]) -> dict[str, str]:
    """The ``K3S_*`` variables, secrets masked. Source: K3s ``pkg/nodeconfig``, ``getNodeEnv``."""
    secrets = {option.env for option in OPTIONS if option.secret}
    return {
        name: "********" if name in secrets else value
        for name, value in sorted(environ.items())
        if name.startswith("K3S_") and name not in ("K3S_DATA_DIR",)
    }


# command line


def _read_command_line(role: Role, argv: Sequence[str], problems: list[Problem]) -> dict[str, _Raw]:
    if not argv:
        return {}
    from k3sd.config.commandline import read_command_line

    try:
        known, unknown = read_command_line(role, argv)
    except ConfigError as error:
        problems.extend(error.problems)
        return {}
    for word in unknown:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
            problems.append(_unknown(role, word.partition("=")[0], name, "flag"))
        else:
            problems.append(Problem("command line", f"unexpected argument {word!r}", f"k3sd {role} takes only flags"))
    return {name: _Raw([(f"--{name}", text) for text in texts]) for name, texts in known.items()}


def _unknown(role: Role, where: str, name: str, noun: str) -> Problem:
    if name in BY_NAME:
        other = "agents" if role == "server" else "servers"
        return Problem(where, f"{name} is an option of {other}, not of this {role}", "leave it out")
    import difflib  # for a mistake only

    near = difflib.get_close_matches(name, [o.name for o in options_for(role) if not o.removed], n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]}?" if near else f"see k3sd {role} --help for the options there are"
    return Problem(where, f"unknown {noun} {name!r}", remedy)


# files


def _config_file(flags: Mapping[str, _Raw], environ: Mapping[str, str]) -> tuple[str, str, bool]:
    """``(file, origin, named explicitly)``. The environment wins over the flag, as in K3s."""
    if environ.get("K3S_CONFIG_FILE"):
        return environ["K3S_CONFIG_FILE"], "K3S_CONFIG_FILE", True
    if "config" in flags:
        return flags["config"].items[-1][1], "--config", True
    return BY_NAME["config"].default, "default", False


def _read_files(
    role: Role, config: str, origin: str, explicit: bool, into: dict[str, _Raw], problems: list[Problem]
) -> list[str]:
    if config.startswith(("http://", "https://")):
        try:
            text = _fetch(config)
        except OSError as error:
            problems.append(Problem(config, f"cannot be fetched: {error}", "check the address and the network"))
            return []
        _merge_text(role, config, text, into, problems)
        return [config]
    main = Path(config)
    drop_ins = _drop_ins(Path(f"{config}.d"), problems)
    read = []
    for path in (main, *drop_ins):
        try:
            with path.open("rb") as file:
                body = file.read(MAX_FILE_BYTES + 1)
            text = body.decode()
        except FileNotFoundError:
            if explicit and not drop_ins:
                problems.append(Problem(origin, f"no such file: {config}", "create it, or leave the setting out"))
            continue
        except UnicodeDecodeError as error:
            problems.append(Problem(str(path), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8"))
            continue
        except OSError as error:
            remedy = (
                "run k3sd as root, or mend the file's owner and mode"
                if isinstance(error, PermissionError)
                else "mend or remove it"
            )
            problems.append(Problem(str(path), f"cannot be read: {error.strerror}", remedy))
            continue
        if len(body) > MAX_FILE_BYTES:
            problems.append(Problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "name a configuration file"))
            continue
        read.append(str(path))
        _merge_text(role, str(path), text, into, problems)
    return read


def _drop_ins(directory: Path, problems: list[Problem]) -> list[Path]:
    try:
        names = sorted(path.name for path in directory.iterdir() if path.name.lower().endswith((".yaml", ".yml")))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(Problem(str(directory), f"cannot be read: {error.strerror}", "mend the directory's owner and mode"))
        return []
    return [directory / name for name in names]


def _fetch(url: str) -> str:
    from urllib.request import urlopen  # rarely used

    with urlopen(url, timeout=10) as answer:
        body: bytes = answer.read(MAX_FILE_BYTES)
    return body.decode(errors="replace")


def _merge_text(role: Role, source: str, text: str, into: dict[str, _Raw], problems: list[Problem]) -> None:
    from k3sd.config.yamlfile import parse

    entries, found = parse(source, text)
    problems.extend(found)
    for entry in entries:
        _merge_entry(role, source, entry, into, problems)


def _merge_entry(role: Role, source: str, entry: Entry, into: dict[str, _Raw], problems: list[Problem]) -> None:
    where = f"{source}:{entry.line}"
    name = entry.key.removesuffix("+").lstrip("-")
    option = BY_NAME.get(name) or (BY_SHORT.get(name) if len(name) == 1 else None)
    if option is None:
        problems.append(_unknown(role, where, name, "option"))
        return
    if role not in option.roles:
        # One file may serve servers and agents alike, so K3s warns only.
        other = "agents" if role == "server" else "servers"
        problems.append(Problem(where, f"{name} is an option of {other} and has no effect here", "leave it out", fatal=False))
        return
    if option.name == "config":
        problems.append(Problem(where, "a configuration file cannot name another", f"use drop-ins in {source}.d/", fatal=False))
        return
    if entry.items is None:
        shape = "a list of single values" if option.kind == "list" else "a single value"
        problems.append(Problem(where, f"{name} has a nested value", f"write {shape}"))
        return
    if entry.is_list and option.kind != "list" and len(entry.items) != 1:
        problems.append(Problem(where, f"{name} is a list of {len(entry.items)} values", "write a single value"))
        return
    raw = _Raw([(f"{source}:{line}", text) for text, line in entry.items])
    if entry.key.endswith("+") and option.kind == "list" and option.name in into:
        into[option.name].items.extend(raw.items)
    else:
        into[option.name] = raw


# values


def _value(
    option: Option, flags: _Raw | None, from_files: _Raw | None, environ: Mapping[str, str], problems: list[Problem]
) -> Value:
    variable = environ.get(option.env, "") if option.env else ""
    if flags is not None:
        texts = flags.items
    elif from_files is not None:
        texts = from_files.items
    elif variable:
        texts = [(option.env, variable)]
    else:
        return Value(option, _default(option), "default", False)
    if option.kind != "list":
        texts = texts[-1:]
    origin = texts[0][0] if texts else "default"
    if option.removed:
        problems.append(Problem(origin, f"{option.name} was removed", option.removed))
        return Value(option, None, origin, True)
    if option.deprecated:
        problems.append(Problem(origin, f"{option.name} is deprecated", option.deprecated, fatal=False))
    parsed: list[str] = []
    places: list[str] = []
    single: Parsed = None
    for where, text in texts:
        if option.kind == "list":
            if option.commas or where == option.env:
                parsed.extend(part.strip() for part in text.split(",") if part.strip())
            elif text:
                parsed.append(text)
            places += [where] * (len(parsed) - len(places))
        else:
            before = len(problems)
            single = _parse(option, where, text, problems)
            shown = str(single).lower() if isinstance(single, bool) else text
            if len(problems) == before and option.refuses(shown) and _is_meant(option, where):
                problems.append(Problem(where, _refusal(option, text), option.needs))
    if option.kind != "list":
        return Value(option, single, origin, True)
    if parsed and option.needs:
        problems.append(Problem(origin, _refusal(option, ",".join(parsed)), option.needs))
    return Value(option, tuple(parsed), origin, True, tuple(places))


def _is_meant(option: Option, where: str) -> bool:
    """Credentials of other programs in the environment (``AWS_*``) are no request for a missing part."""
    return where != option.env or option.env.startswith("K3S_")


def _refusal(option: Option, text: str) -> str:
    if option.kind == "bool" or option.secret or not text:
        return f"{option.name} cannot be used"
    return f"{option.name} cannot be {text!r}"


def _default(option: Option) -> Parsed:
    if option.kind == "list":
        return ()
    if option.kind == "bool":
        return option.default == "true"
    if option.kind == "int":
        return int(option.default or "0")
    return option.default or None


def _parse(option: Option, where: str, text: str, problems: list[Problem]) -> Parsed:
    if text == "":
        # K3s turns ``key:`` without a value into ``--key=``: unset.
        return _default(option)
    if option.kind == "bool":
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        problems.append(Problem(where, f"{option.name} is {text!r}", "write true or false"))
        return _default(option)
    if option.kind == "int":
        try:
            return int(text, 0)
        except ValueError:
            problems.append(Problem(where, f"{option.name} is {text!r}", "write a whole number"))
            return _default(option)
    if option.kind == "duration" and not _DURATION.fullmatch(text):
        problems.append(Problem(where, f"{option.name} is {text!r}", "write a duration such as 90s, 10m or 1h30m"))
    if option.choices and text not in option.choices:
        problems.append(Problem(where, f"{option.name} is {text!r}", f"write one of {', '.join(option.choices)}"))
    return text


def explain(loaded: Loaded) -> list[Value]:
    """What ``config show`` prints: visible options, and hidden ones that were set."""
    found = (loaded.values.get(option.name) for option in OPTIONS)
    return [value for value in found if value is not None and (not value.option.hidden or value.explicit)]
