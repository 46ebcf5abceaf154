"""Arguments of components (``kube-apiserver-arg`` and its like): parsing, and which ones k3sd's own components have.

K3s hands them to the upstream programs. Ours are other programs: an argument that ours do not have is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from k3sd.config.problem import Problem

Kind = Literal["string", "bool", "int", "duration"]

SUPPORTED: dict[str, dict[str, Kind]] = {
    "kube-apiserver-arg": {
        "anonymous-auth": "bool",
        "api-audiences": "string",
        "disable-admission-plugins": "string",
        "service-account-issuer": "string",
    },
    "kube-controller-manager-arg": {
        "controllers": "string",
        "leader-elect": "bool",
        "node-cidr-mask-size": "int",
        "node-cidr-mask-size-ipv4": "int",
        "node-cidr-mask-size-ipv6": "int",
        "node-monitor-grace-period": "duration",
        "node-startup-grace-period": "duration",
        "terminated-pod-gc-threshold": "int",
    },
    "kube-scheduler-arg": {},
    "kubelet-arg": {
        "allowed-unsafe-sysctls": "string",
        "cgroup-driver": "string",
        "cgroup-root": "string",
        "kube-reserved": "string",
        "max-pods": "int",
        "system-reserved": "string",
    },
    "kube-proxy-arg": {},
}
"""Option to the arguments its component reads from ``Settings``, and the form of their values."""

_FORMS: dict[Kind, tuple[re.Pattern[str], str]] = {
    "string": (re.compile(r".*", re.DOTALL), ""),
    "bool": (re.compile(r"true|false"), "write true or false"),
    "int": (re.compile(r"\d+"), "write a whole number"),
    "duration": (re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+|0"), "write a duration such as 40s or 5m"),
}

_DEFAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "kube-apiserver-arg": {
        "allow-privileged": ("true",),
        "authorization-mode": ("Node,RBAC",),
        "profiling": ("false",),
        "enable-bootstrap-token-auth": ("true",),
    },
    "kube-controller-manager-arg": {"profiling": ("false",), "use-service-account-credentials": ("true",)},
    "kube-scheduler-arg": {"profiling": ("false",)},
    "kubelet-arg": {
        "cgroup-driver": ("cgroupfs",),
        "fail-swap-on": ("false",),
        "anonymous-auth": ("false",),
        "read-only-port": ("0",),
        "serialize-image-pulls": ("false",),
    },
    "kube-proxy-arg": {"proxy-mode": ("nftables",)},
}
"""Arguments that may be given with exactly this value, because it is how the component behaves anyway."""


def parse_component_args(option: str, items: Sequence[str], where: str) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """``key=value`` texts to a map in K3s's form: ``key`` alone means ``true``; repeated keys add up."""
    result: dict[str, tuple[str, ...]] = {}
    problems = []
    for item in items:
        key, equals, value = item.partition("=")
        if key.startswith("-"):
            problems.append(Problem(where, f"{option} {item!r} starts with dashes", f"write {item.lstrip('-')}"))
            key = key.lstrip("-")
        if not key:
            problems.append(Problem(where, f"{option} {item!r} has no name", "write key=value"))
            continue
        result[key] = (*result.get(key, ()), value if equals else "true")
    return result, problems


def check_component_args(option: str, args: Mapping[str, tuple[str, ...]], where: str) -> list[Problem]:
    """Arguments that no component of ours reads."""
    supported, fixed = SUPPORTED[option], _DEFAULTS[option]
    problems = []
    for key, values in args.items():
        if key in supported:
            form, remedy = _FORMS[supported[key]]
            problems += [Problem(where, f"{option} {key} is {v!r}", remedy) for v in values if not form.fullmatch(v)]
            continue
        if fixed.get(key) == values:
            continue
        if key in fixed:
            what = f"{option} {key} can only be {','.join(fixed[key])}"
            problems.append(Problem(where, what, "leave it out"))
            continue
        import difflib  # for a mistake only

        near = difflib.get_close_matches(key, [*supported, *fixed], n=1, cutoff=0.8)
        known = ", ".join(sorted(supported)) or "none yet"
        remedy = f"did you mean {near[0]}?" if near else f"leave it out; arguments there are: {known}"
        problems.append(Problem(where, f"{option}: k3sd's own component has no argument {key!r}", remedy))
    return problems
