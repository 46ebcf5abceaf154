#!/usr/bin/python3
"""Make what the table of options describes: the man pages and the sample configuration.

build_docs.py man DIRECTORY     write k3sd.8, k3sd-server.8, k3sd-agent.8 and k3sd.yaml.5
build_docs.py sample FILE       write etc/config.yaml
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from k3sd import __version__
from k3sd.cli.main import COMMANDS
from k3sd.config.commandline import help_text
from k3sd.config.options import Option, Role, visible_groups

WIDTH = 100


def roff(text: str) -> str:
    """Text as roff: backslashes, dashes and leading dots escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())


def _head(name: str, section: int, title: str) -> list[str]:
    return [f'.TH {name.upper()} {section} "" "k3sd {__version__}" "k3sd"', ".SH NAME", f"{roff(name)} \\- {roff(title)}"]


def _options(role: Role, flags: bool) -> list[str]:
    lines = []
    for heading, options in visible_groups(role):
        lines.append(f'.SS "{roff(heading.capitalize())}"')
        for option in options:
            lines += [".TP", _term(option) if flags else f"\\fB{roff(option.name)}\\fR", roff(help_text(option))]
    return lines


def _term(option: Option) -> str:
    names = [f"\\fB\\-{option.short}\\fR", f"\\fB{roff(option.flag)}\\fR"] if option.short else [f"\\fB{roff(option.flag)}\\fR"]
    if option.kind == "bool":
        return ", ".join(names) + "[=\\fIBOOL\\fR]"
    return ", ".join(names) + f" \\fI{roff(option.metavar or 'VALUE')}\\fR"


_FILES = [
    ("/etc/rancher/k3s/config.yaml", "options, see k3sd.yaml(5)"),
    ("/etc/rancher/k3s/k3s.yaml", "the admin's kubeconfig, written at start"),
    ("/etc/rancher/k3s/registries.yaml", "mirrors and credentials of image registries"),
    ("/var/lib/rancher/k3s", "all state: certificates, tokens, datastore, images"),
    ("/var/lib/rancher/k3s/agent/images", "image archives in this directory are imported"),
    ("/var/lib/rancher/k3s/server/token", "the token that other nodes join with"),
]


def _files() -> list[str]:
    lines = [".SH FILES"]
    for path, text in _FILES:
        lines += [".TP", f"\\fI{roff(path)}\\fR", roff(text)]
    return lines


_STATUS = [
    ".SH EXIT STATUS",
    "0 when done or stopped, 1 when something failed, 2 for a wrong command line or configuration.",
]


def _see_also(*pages: str) -> list[str]:
    return [".SH SEE ALSO", ",\n".join(f"\\fB{roff(page[:-3])}\\fR{page[-3:]}" for page in pages)]


def build_main() -> str:
    """k3sd(8)."""
    lines = _head("k3sd", 8, "Kubernetes on the programs of your distribution")
    lines += [".SH SYNOPSIS", "\\fBk3sd\\fR [\\fB\\-\\-debug\\fR] [\\fB\\-\\-data\\-dir\\fR \\fIDIR\\fR] \\fICOMMAND\\fR [...]"]
    text = (
        "k3sd runs a Kubernetes cluster with the command line, configuration and files of K3s. containerd, runc and the CNI "
        "plugins are the distribution's own; the components of Kubernetes are k3sd's."
    )
    lines += [".SH DESCRIPTION", roff(text)]
    lines += [".SH COMMANDS"]
    for command in COMMANDS:
        words = f" {'|'.join(command.words)}" if command.words else ""
        lines += [".TP", f"\\fB{roff(command.name)}\\fR{roff(words)}", roff(command.help[0].upper() + command.help[1:] + ".")]
    lines += [*_STATUS, *_files(), *_see_also("k3sd-server(8)", "k3sd-agent(8)", "k3sd.yaml(5)", "kubectl(1)", "containerd(8)")]
    return "\n".join(lines) + "\n"


def build_role(role: Role) -> str:
    """k3sd-server(8) or k3sd-agent(8)."""
    what = "run a Kubernetes server with its node" if role == "server" else "run a Kubernetes node that joins a server"
    lines = _head(f"k3sd-{role}", 8, what)
    lines += [".SH SYNOPSIS", f"\\fBk3sd {role}\\fR [\\fIFLAG\\fR...]"]
    lines += [".SH DESCRIPTION", roff(
        f"Runs in the foreground until SIGTERM; pods keep running then. SIGHUP reads the configuration again. "
        f"As a service it is k3sd-{role}.service. A flag overrides the configuration file, see k3sd.yaml(5), which overrides "
        "the environment. Options marked as not there yet are refused.")]  # fmt: skip
    lines += [".SH OPTIONS", *_options(role, flags=True), *_STATUS, *_files()]
    return "\n".join([*lines, *_see_also("k3sd(8)", "k3sd.yaml(5)")]) + "\n"


def build_file() -> str:
    """k3sd.yaml(5)."""
    lines = _head("k3sd.yaml", 5, "configuration of k3sd")
    lines += [".SH SYNOPSIS", "\\fI/etc/rancher/k3s/config.yaml\\fR", ".br", "\\fI/etc/rancher/k3s/config.yaml.d/*.yaml\\fR"]
    lines += [".SH DESCRIPTION", roff(
        "A flat YAML mapping of option names, without dashes in front, to values. Files of the drop-in directory follow in the "
        "order of their names. A later value replaces an earlier one; a key with a trailing + appends to the earlier list. "
        "K3S_CONFIG_FILE or --config name another file. An unknown key is an error.")]  # fmt: skip
    lines += [
        ".PP",
        "\\fBk3sd config check\\fR reads all files and reports every problem.",
        "\\fBk3sd config show\\fR prints every value and where it comes from.",
    ]
    lines += [
        ".SH EXAMPLE",
        ".nf",
        roff('write-kubeconfig-mode: "0640"\nnode-label:\n  - disk=ssd\ntls-san+:\n  - k3s.example.com'),
        ".fi",
    ]
    lines += [".SH OPTIONS", *_options("server", flags=False)]
    return "\n".join([*lines, *_files(), *_see_also("k3sd(8)", "k3sd-server(8)", "k3sd-agent(8)")]) + "\n"


def build_sample() -> str:
    """etc/config.yaml: every option that can be set today, commented out, with its default."""
    lines = [
        "# k3sd configuration; put it at /etc/rancher/k3s/config.yaml. See k3sd.yaml(5).",
        "# Every line is a comment that shows the default. k3sd config check finds mistakes.",
        "# Made from the table of options by: make sample",
    ]
    for heading, options in visible_groups("server"):
        usable = [option for option in options if option.name != "config" and (not option.needs or option.works)]
        if not usable:
            continue
        lines += ["", f"# --- {heading} ---"]
        for option in usable:
            lines += ["", *textwrap.wrap(help_text(option), WIDTH, initial_indent="# ", subsequent_indent="# ")]
            lines += _sample_lines(option)
    return "\n".join(lines) + "\n"


def _sample_lines(option: Option) -> list[str]:
    example = option.default_text or option.metavar
    if option.kind == "list":
        return [f"#{option.name}:", f"#  - {example}"]
    quoted = option.name == "write-kubeconfig-mode" or not option.default_text
    return [f'#{option.name}: "{example}"' if quoted else f"#{option.name}: {example}"]


def main(argv: list[str]) -> int:
    if len(argv) == 2 and argv[0] == "man":
        directory = Path(argv[1])
        directory.mkdir(parents=True, exist_ok=True)
        pages = {"k3sd.8": build_main(), "k3sd.yaml.5": build_file()}
        pages |= {"k3sd-server.8": build_role("server"), "k3sd-agent.8": build_role("agent")}
        for name, text in pages.items():
            (directory / name).write_text(text)
        return 0
    if len(argv) == 2 and argv[0] == "sample":
        Path(argv[1]).write_text(build_sample())
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
