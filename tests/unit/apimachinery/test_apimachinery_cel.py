"""Kubernetes' extensions of CEL."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.cel import MUTATIONS, EvaluationError, compile_expression


def run(text: str) -> Any:
    return compile_expression(text, [], MUTATIONS).evaluate({})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("quantity('1500m').add(quantity('500m')).compareTo(quantity('2'))", 0),
        ("quantity('200k').isLessThan(quantity('1Mi'))", True),
        ("quantity('50').sub(20).asInteger()", 30),
        ("quantity('1') == quantity('1000m')", True),
        ("isQuantity('1.5Gx')", False),
        ("quantity('-1').sign()", -1),
        ("url('https://user@example.com:8080/a%20b?x=1&x=2').getHost()", "example.com:8080"),
        ("url('https://example.com:8080/a').getPort() + url('https://example.com/a').getHostname()", "8080example.com"),
        ("url('https://example.com/?x=1&x=2').getQuery()", {"x": ["1", "2"]}),
        ("isURL('../relative')", False),
        ("ip('::1').isLoopback() && ip('10.0.0.1').family() == 4", True),
        ("ip.isCanonical('::0001')", False),
        ("isIP('1.2.3')", False),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('11.0.0.0/16')", True),
        ("cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.1.2.3/8').prefixLength() == 8", True),
        ("semver('1.2.3').isGreaterThan(semver('1.2.3-rc.1')) && semver('1.10.0').minor() == 10", True),
        ("isSemver('v1')", False),
        ("format.dns1123Label().validate('a-b').hasValue()", False),
        ("format.named('dns1123Label').value().validate('A').value().size()", 1),
        ("jsonpatch.escapeKey('a/b~c')", "a~1b~0c"),
        ("Object{spec: Object.spec{replicas: 1, ?x: optional.none()}}", {"spec": {"replicas": 1}}),
        ("[JSONPatch{op: 'add', path: '/a', value: {'b': [1]}}]", [{"op": "add", "path": "/a", "value": {"b": [1]}}]),
    ],
)
def test_value(text: str, value: Any) -> None:
    assert run(text) == value


@pytest.mark.parametrize(
    "text", ["quantity('x')", "quantity('1.5').asInteger()", "url('x y')", "ip('::ffff:1.2.3.4')", "cidr('10.0.0.1')"]
)
def test_error(text: str) -> None:
    with pytest.raises(EvaluationError):
        run(text)
