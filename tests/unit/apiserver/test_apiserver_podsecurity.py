"""Pod Security Standards: upstream's wording for each check."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apiserver.admission.podsecurity import evaluate

GOOD: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def spec(context: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    container = {"name": "c", **fields}
    if context is not None:
        container["securityContext"] = context
    return {"containers": [container], **(pod or {})}


@pytest.mark.parametrize(
    ("level", "pod", "expected"),
    [
        ("privileged", spec({"privileged": True}), ""),
        ("baseline", spec(), ""),
        ("restricted", spec(GOOD), ""),
        ("baseline", spec({"privileged": True}), 'privileged (container "c" must not set securityContext.privileged=true)'),
        ("baseline", spec(pod={"hostNetwork": True, "hostPID": True}), "host namespaces (hostNetwork=true, hostPID=true)"),
        ("baseline", spec(pod={"volumes": [{"name": "v", "hostPath": {}}]}), 'hostPath volumes (volume "v")'),
        ("baseline", spec(ports=[{"hostPort": 80}]), 'hostPort (container "c" uses hostPort 80)'),
        (
            "baseline",
            spec({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}),
            'non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)',
        ),
        (
            "baseline",
            spec(pod={"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "restricted",
            spec(),
            'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
            'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
            'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
            'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to '
            '"RuntimeDefault" or "Localhost")',
        ),
        (
            "restricted",
            spec(GOOD, {"volumes": [{"name": "v", "hostPath": {}}]}),
            'restricted volume types (volume "v" uses restricted volume type "hostPath")',
        ),
        ("restricted", spec({**GOOD, "runAsUser": 0}), 'runAsUser=0 (container "c" must not set runAsUser=0)'),
        (
            "restricted",
            spec(
                {k: v for k, v in GOOD.items() if k in ("allowPrivilegeEscalation", "capabilities")},
                {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost"}}},
            ),
            "",
        ),
    ],
)
def test_evaluate(level: str, pod: dict[str, Any], expected: str) -> None:
    assert evaluate(level, {}, pod) == expected
