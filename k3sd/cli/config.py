"""``k3sd config check`` and ``k3sd config show``: what a start would use, without starting anything."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from k3sd.config.load import Loaded, explain, load
from k3sd.config.machine import Machine
from k3sd.config.options import Role
from k3sd.config.resolve import DERIVED, resolve_loaded
from k3sd.config.settings import Settings

_WIDTH = 48
_USAGE = """usage: k3sd config check|show [server|agent] [--json] [flags]

Check the configuration, or show every value and where it comes from. Flags are those of k3sd server:

    k3sd config show --node-ip 192.0.2.10"""


def run(argv: Sequence[str]) -> int:
    """Exit code 2 where the configuration has a problem."""
    words = list(argv)
    if not words or words[0] not in ("check", "show") or {"-h", "--help"} & set(words):
        print(_USAGE)
        return 0 if {"-h", "--help"} & set(words) else 2
    action = words.pop(0)
    role: Role = "server"
    if words and words[0] in ("server", "agent"):
        role = "agent" if words.pop(0) == "agent" else "server"
    as_json = "--json" in words
    loaded = load(role, [word for word in words if word != "--json"], os.environ)
    settings, problems = resolve_loaded(loaded, os.environ, Machine())
    if action == "show":
        settled = settings if not any(problem.fatal for problem in problems) else None
        print(show_json(loaded, settled) if as_json else show(loaded, settled))
    for problem in problems:
        print(f"{'error' if problem.fatal else 'warning'}: {problem}", file=sys.stderr)
    if any(problem.fatal for problem in problems):
        return 2
    if action == "check":
        files = ", ".join(loaded.files) or "no file"
        print(f"the configuration is good (read: {files})")
    return 0


def rows(loaded: Loaded, settings: Settings | None) -> list[tuple[str, str | list[str], str]]:
    """``(name, value, origin)``; defaults that depend on the machine are shown as they came out, where they did."""
    result: list[tuple[str, str | list[str], str]] = []
    for value in explain(loaded):
        name, origin = value.option.name, value.origins
        if settings is not None and not value.explicit and name in DERIVED:
            result.append((name, DERIVED[name](settings), "derived"))
        elif value.option.kind == "list" and not value.option.secret:
            result.append((name, list(loaded.items(name)), origin))
        else:
            result.append((name, value.shown, origin))
    return result


def show(loaded: Loaded, settings: Settings | None) -> str:
    """A configuration file with every value's origin as a comment."""
    lines = []
    for name, value, origin in rows(loaded, settings):
        plain = isinstance(value, str) and not _needs_quotes(value)
        lines.append(f"{f'{name}: {value if plain else json.dumps(value)}':<{_WIDTH}} # {origin}")
    return "\n".join(lines)


def show_json(loaded: Loaded, settings: Settings | None) -> str:
    """The same for programs."""
    found = [{"name": name, "value": value, "origin": origin} for name, value, origin in rows(loaded, settings)]
    return json.dumps(found, indent=2)


def _needs_quotes(value: str) -> bool:
    return not value or any(character in value for character in "*#:{}[],&!|>'\"%@`")
