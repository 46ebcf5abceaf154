"""``k3sd completion bash|zsh``: scripts made from the tables of commands and options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from k3sd.cli.main import COMMANDS
from k3sd.config.options import Option, Role, options_for

_USAGE = "usage: k3sd completion bash|zsh\n\nPrint a completion script: source <(k3sd completion bash)"


def run(argv: Sequence[str]) -> int:
    """Print one script."""
    if list(argv) == ["bash"]:
        print(build_bash(), end="")
    elif list(argv) == ["zsh"]:
        print(build_zsh(), end="")
    elif set(argv) & {"-h", "--help"}:
        print(_USAGE)
    else:
        print(_USAGE, file=sys.stderr)
        return 2
    return 0


def _visible(role: Role) -> list[Option]:
    return [option for option in options_for(role) if not option.hidden]


def build_bash() -> str:
    """A script for bash; nothing but the shell is needed."""
    choices = {f"--{o.name}": o.choices for o in _visible("server") if o.choices}
    files = [f"--{o.name}" for o in _visible("server") if o.kind == "file"]
    cases = [
        f'            {flag}) COMPREPLY=($(compgen -W "{" ".join(values)}" -- "$word")); return ;;'
        for flag, values in choices.items()
    ]
    words = [f'        {c.name}) COMPREPLY=($(compgen -W "{" ".join(c.words)}" -- "$word")) ;;' for c in COMMANDS if c.words]
    return "\n".join(
        [
            "# bash completion for k3sd",
            "_k3sd() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
            "    COMPREPLY=()",
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        COMPREPLY=($(compgen -W "{" ".join(c.name for c in COMMANDS)}" -- "$word"))',
            "        return",
            "    fi",
            '    case "${COMP_WORDS[1]}" in',
            "        server|agent)",
            '            case "$before" in',
            *cases,
            f'            {"|".join(files)}) COMPREPLY=($(compgen -f -- "$word")); return ;;',
            "            esac",
            '            if [ "${COMP_WORDS[1]}" = server ]; then',
            f'                COMPREPLY=($(compgen -W "{_flags("server")}" -- "$word"))',
            "            else",
            f'                COMPREPLY=($(compgen -W "{_flags("agent")}" -- "$word"))',
            "            fi ;;",
            *words,
            "    esac",
            "}",
            "complete -o default -F _k3sd k3sd",
            "",
        ]
    )


def _flags(role: Role) -> str:
    return " ".join(option.flag for option in _visible(role))


def build_zsh() -> str:
    """A script for zsh."""
    commands = [f"        '{c.name}:{_quote(c.help)}'" for c in COMMANDS]
    lines = ["#compdef k3sd", "_k3sd() {", "    local -a commands flags", "    commands=(", *commands, "    )"]
    lines += [
        "    if (( CURRENT == 2 )); then",
        "        _describe 'command' commands",
        "        return",
        "    fi",
        '    case "$words[2]" in',
    ]
    for role in ("server", "agent"):
        lines += [f"    {role})", "        flags=("]
        for option in _visible(role):
            lines.append(
                f"            '*{option.flag}=[{_quote(option.help)}]:{option.metavar or 'value'}:{_zsh_action(option)}'"
            )
        lines += ["        )", "        _arguments -S $flags ;;"]
    for command in COMMANDS:
        if command.words:
            lines.append(f"    {command.name}) _values '{command.name}' {' '.join(command.words)} ;;")
    return "\n".join([*lines, "    esac", "}", '[ "$funcstack[1]" = _k3sd ] && _k3sd "$@" || compdef _k3sd k3sd', ""])


def _zsh_action(option: Option) -> str:
    if option.kind == "file":
        return "_files"
    values = option.choices or (("true", "false") if option.kind == "bool" else ())
    return f"({' '.join(values)})" if values else ""


def _quote(text: str) -> str:
    return text.replace("'", "").replace("[", "(").replace("]", ")").replace(":", " -")
