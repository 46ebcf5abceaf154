"""The table of subcommands and what precedes them: global flags, help, version. Modules load when their command runs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """``module:function`` takes the words behind the command's name and returns the exit code."""

    name: str
    target: str
    help: str
    words: tuple[str, ...] = ()
    """What may follow, for completion."""


COMMANDS: tuple[Command, ...] = (
    Command("server", "k3sd.cli.serve:server", "run a server with its node"),
    Command("agent", "k3sd.cli.serve:agent", "run a node that joins a server"),
    Command("kubectl", "k3sd.cli.tools:kubectl", "run kubectl as the cluster's admin"),
    Command("crictl", "k3sd.cli.tools:crictl", "run crictl on k3sd's containerd"),
    Command("ctr", "k3sd.cli.tools:ctr", "run ctr on k3sd's containerd"),
    Command("config", "k3sd.cli.config:run", "check the configuration, or show it with its origins", ("check", "show")),
    Command("check-config", "k3sd.cli.check_config:run", "check what the kernel and the system offer"),
    Command("killall", "k3sd.cli.serve:killall", "stop all pods and remove everything k3sd made at run time"),
    Command(
        "datastore",
        "k3sd.cli.datastore:run",
        "serve the datastore as etcd, move it, back it up, restore and check it",
        ("serve", "migrate", "backup", "restore", "check"),
    ),
    Command("completion", "k3sd.cli.completion:run", "print a completion script", ("bash", "zsh")),
    Command("token", "k3sd.cli.later:token", "manage join tokens"),
    Command("certificate", "k3sd.cli.later:certificate", "manage certificates"),
    Command("etcd-snapshot", "k3sd.cli.later:etcd_snapshot", "manage etcd snapshots"),
    Command("secrets-encrypt", "k3sd.cli.later:secrets_encrypt", "manage encryption of Secrets"),
)

_GLOBAL_FLAGS = {"--data-dir": "K3S_DATA_DIR", "-d": "K3S_DATA_DIR"}


def main(argv: Sequence[str]) -> int:
    """Run one command line; ``argv`` is without the program's name."""
    words = _global_flags(list(argv))
    if not words or words[0] in ("help", "-h", "--help"):
        if len(words) > 1 and words[0] == "help":
            return main([words[1], "--help"])
        print(usage(), end="")
        return 0
    name, *rest = words
    if name in ("--version", "-v", "-version"):
        print(version_text())
        return 0
    command = next((c for c in COMMANDS if c.name == name), None)
    if command is None:
        near = difflib.get_close_matches(name, [c.name for c in COMMANDS], n=1)
        hint = f"did you mean {near[0]}?" if near else "see k3sd --help"
        print(f"k3sd: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    module, _, function = command.target.partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(rest))
    except BrokenPipeError:
        # The reader, head(1) say, has seen enough. Standard output is replaced so that closing it does not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def usage() -> str:
    """The text of ``k3sd --help``."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: k3sd [--debug] [--data-dir DIR] COMMAND [...]",
            "",
            "Kubernetes on the programs your distribution ships.",
            "",
            "commands:",
            *lines,
            "",
            "k3sd COMMAND --help describes a command; k3sd --version prints the version.",
            "",
        ]
    )


def version_text() -> str:
    """What ``--version`` prints, in K3s's form."""
    import platform

    from k3sd import KUBERNETES_VERSION, __version__

    return f"k3sd version {KUBERNETES_VERSION}+k3sd1 ({__version__})\npython version {platform.python_version()}"


def _global_flags(words: list[str]) -> list[str]:
    """Take ``--debug`` and ``--data-dir`` in front of the command; they act as K3S_DEBUG and K3S_DATA_DIR."""
    while words and words[0].startswith("-"):
        flag, equals, value = words[0].partition("=")
        if flag == "--debug":
            os.environ["K3S_DEBUG"] = value or "true"
        elif flag in _GLOBAL_FLAGS and (equals or len(words) > 1):
            os.environ[_GLOBAL_FLAGS[flag]] = value if equals else words.pop(1)
        else:
            break
        words.pop(0)
    return words
