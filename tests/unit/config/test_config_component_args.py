"""Arguments of components: their form, and that the table says what the components really read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k3sd.config.component_args import SUPPORTED, check_component_args, parse_component_args

SOURCE = Path(__file__).resolve().parents[3] / "k3sd"
ATTRIBUTE = {
    "kube-apiserver-arg": "apiserver_args",
    "kube-controller-manager-arg": "controller_manager_args",
    "kube-scheduler-arg": "scheduler_args",
    "kubelet-arg": "kubelet_args",
    "kube-proxy-arg": "kube_proxy_args",
}

RESOLVED = {"cgroup-driver", "node-cidr-mask-size-ipv4", "node-cidr-mask-size-ipv6"}
"""Read by ``resolve``, or under a name put together."""


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["a=b", "c"], {"a": ("b",), "c": ("true",)}),
        (["a=b=c", "a=d"], {"a": ("b=c", "d")}),
        (["a="], {"a": ("",)}),
    ],
)
def test_form(items: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert parse_component_args("kubelet-arg", items, "x") == (expected, [])


def test_dashes_and_missing_names_are_told() -> None:
    _, problems = parse_component_args("kubelet-arg", ["--max-pods=3", "=x"], "file:1")
    assert [problem.remedy for problem in problems] == ["write max-pods=3", "write key=value"]


def test_what_holds_anyway_may_be_written() -> None:
    assert check_component_args("kube-apiserver-arg", {"profiling": ("false",)}, "x") == []
    (problem,) = check_component_args("kube-apiserver-arg", {"profiling": ("true",)}, "x")
    assert "can only be false" in problem.what


def test_values_have_a_form() -> None:
    args = {"terminated-pod-gc-threshold": ("many",), "node-monitor-grace-period": ("1m30s",)}
    (problem,) = check_component_args("kube-controller-manager-arg", args, "x")
    assert str(problem) == "x: kube-controller-manager-arg terminated-pod-gc-threshold is 'many'; write a whole number"


def test_the_nearest_argument_is_named() -> None:
    (problem,) = check_component_args("kube-controller-manager-arg", {"controler": ("x",)}, "x")
    assert problem.remedy == "did you mean controllers?"


@pytest.mark.parametrize("option", SUPPORTED)
def test_the_table_is_what_the_components_read(option: str) -> None:
    pattern = re.compile(ATTRIBUTE[option] + r"""(?:\.get\(|\[)\s*["']([a-z-]+)["']""")
    texts = [path.read_text() for path in SOURCE.rglob("*.py") if path.parent.name != "config"]
    read = {name for text in texts for name in pattern.findall(text)}
    assert read <= set(SUPPORTED[option])
    for name in set(SUPPORTED[option]) - RESOLVED:
        assert any(f'"{name}"' in text for text in texts), f"{option} {name} is read by nobody"
