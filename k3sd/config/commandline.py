"""The command line: configargparse's parser made from the table of options, and Go's rules for flags in front of it.

Loaded only where there are flags or help is asked for; a start without flags does without. configargparse documents the
environment variables; its own precedence (environment before file) is not K3s's, so values are put together in ``load``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import configargparse

from k3sd.config.options import BY_NAME, BY_SHORT, Option, Role, options_for, visible_groups
from k3sd.config.problem import ConfigError, Problem


class _Parser(configargparse.ArgumentParser):
    """Reports a usage error as a ``Problem`` instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem("command line", message, f"see {self.prog} --help")])


def build_parser(role: Role) -> configargparse.ArgumentParser:
    """The command line of ``k3sd server`` or ``k3sd agent``; every option collects its texts unparsed."""
    parser = _Parser(
        prog=f"k3sd {role}",
        usage=f"k3sd {role} [flags]",
        description="Run a Kubernetes server with its node." if role == "server" else "Run a Kubernetes node.",
        formatter_class=configargparse.RawDescriptionHelpFormatter,
        add_config_file_help=False,
        add_env_var_help=False,
        allow_abbrev=False,
        epilog=(
            "A flag overrides the configuration file, which overrides the environment.\n"
            "Every flag is also a key of the file: https-listen-port: 6443"
        ),
    )
    grouped: set[str] = set()
    for heading, options in visible_groups(role):
        group = parser.add_argument_group(heading)
        for option in options:
            _add_argument(group, option, help_text(option))
            grouped.add(option.name)
    for option in options_for(role):
        if option.name not in grouped:
            _add_argument(parser, option, configargparse.SUPPRESS)
    return parser


def help_text(option: Option) -> str:
    """One help sentence with default, environment variable and state."""
    notes = []
    if option.default and option.kind != "bool" and option.default != "0":
        notes.append(f"default: {option.default}")
    elif option.kind == "bool" and option.default == "true":
        notes.append("default: true")
    if option.choices:
        notes.append("one of " + ", ".join(option.choices))
    if option.kind == "list":
        notes.append("may be repeated")
    if option.env:
        notes.append(f"env: {option.env}")
    if option.deprecated:
        notes.append(f"deprecated: {option.deprecated}")
    if option.needs:
        notes.append(f"so far: {', '.join(_working(option))}" if option.works else "not there yet")
    return option.help + (f" [{'; '.join(notes)}]" if notes else "")


def _working(option: Option) -> list[str]:
    return [value for value in (option.default_text, *option.works) if value]


def _add_argument(group: Any, option: Option, text: str) -> None:
    names = [f"-{option.short}", option.flag] if option.short else [option.flag]
    if len(option.name) == 1:
        names = [f"-{option.name}", option.flag]
    keywords: dict[str, Any] = {
        "dest": option.name,
        "action": "append",
        "help": text if text == configargparse.SUPPRESS else text.replace("%", "%%"),
        "default": configargparse.SUPPRESS,
    }
    if option.kind == "bool":
        group.add_argument(*names, nargs="?", const="true", metavar="BOOL", **keywords)
    else:
        group.add_argument(*names, metavar=option.metavar or option.name.upper(), **keywords)


def normalize_arguments(argv: Sequence[str]) -> list[str]:
    """Go's flag rules in argparse's words: ``-name`` is ``--name``, and a boolean never takes the next word as its value.

    A value may begin with a dash (``--node-label -x``), so every value is joined to its flag with ``=``.
    """
    result: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        option = BY_NAME.get(name) or BY_SHORT.get(name)
        if not word.startswith("-") or word in ("-h", "--help") or option is None:
            result.append(word)
        elif equals:
            result.append(f"{option.flag}={value}")
        elif option.kind == "bool":
            result.append(f"{option.flag}=true")
        else:
            following = next(words, None)
            result.append(option.flag if following is None else f"{option.flag}={following}")
    return result


def read_command_line(role: Role, argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """``(texts by option name, unknown words)``. Raises ConfigError for a flag without its value; prints help and exits."""
    known, unknown = build_parser(role).parse_known_args(normalize_arguments(argv), env_vars={}, config_file_contents="")
    return {name: texts for name, texts in vars(known).items() if name in BY_NAME}, unknown
