"""One YAML configuration file as entries with their lines. Knows YAML, not the options; loaded only where a file exists."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from k3sd.config.problem import Problem

_TRUE = frozenset({"yes", "on"})
_FALSE = frozenset({"no", "off"})


@dataclass(frozen=True, slots=True)
class Entry:
    """``key`` as written, with a trailing ``+``; ``items`` are texts with their lines, or None for a nested value."""

    key: str
    line: int
    items: tuple[tuple[str, int], ...] | None
    is_list: bool


def parse(source: str, text: str) -> tuple[list[Entry], list[Problem]]:
    """The entries of a flat mapping, and what is wrong with the text, each with ``source:line``."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return [], [Problem(f"{source}:{line}", f"is not valid YAML: {error.problem or error.context}", "mend the line")]
    except RecursionError:
        return [], [Problem(source, "is nested too deeply", "write a flat mapping of options to values")]
    except yaml.YAMLError as error:
        return [], [Problem(source, f"is not valid YAML: {error}", "mend the file")]
    if root is None:
        return [], []
    if not isinstance(root, yaml.MappingNode):
        what = "is not a mapping of options to values"
        return [], [Problem(f"{source}:{_line(root)}", what, "write lines such as debug: true")]
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for key_node, value in root.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
        line = _line(key_node)
        if key in seen:
            what = f"{key} is already set in line {seen[key]}"
            problems.append(Problem(f"{source}:{line}", what, "write it once; key+ appends to an earlier file"))
            continue
        seen[key] = line
        is_list = isinstance(value, yaml.SequenceNode)
        nodes = value.value if is_list else [value]
        flat = all(isinstance(node, yaml.ScalarNode) for node in nodes)
        entries.append(Entry(key, line, tuple((_scalar(node), _line(node)) for node in nodes) if flat else None, is_list))
    return entries, problems


def _scalar(node: yaml.ScalarNode) -> str:
    """The text as written, so that ``0644`` stays octal text; only YAML's words for true, false and nothing are translated."""
    text = str(node.value)
    if node.tag == "tag:yaml.org,2002:null":
        return ""
    if node.tag == "tag:yaml.org,2002:bool":
        return "true" if text.lower() in _TRUE else "false" if text.lower() in _FALSE else text.lower()
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
