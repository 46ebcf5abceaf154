"""The rendered rules in a real kernel, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")

SCRIPT = """
import json, socket, subprocess, sys, threading
sys.path[:0] = [{root!r}, {root!r} + "/tests/unit/network"]
from test_network_servicemap import FACTS, ready, service, slice_
from k3sd.network import cleanup, links, nft, rules
from k3sd.network.servicemap import build_service_ports

def sh(*a): subprocess.run(a, check=True)
sh("ip", "link", "set", "lo", "up")
sh("ip", "link", "add", "host0", "type", "bridge")
sh("ip", "addr", "add", "192.0.2.1/24", "dev", "host0")
sh("ip", "link", "set", "host0", "up")
before = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
links.set_sysctls()
links.ensure_service_link("10.43.0.10", "10.43.0.0/16", "192.0.2.1")
links.ensure_service_link("10.43.0.10", "10.43.0.0/16", "192.0.2.1")
sh("ip", "link", "add", "cni0", "type", "bridge")
for last in (2, 3): sh("ip", "addr", "add", f"10.42.0.{{last}}/24", "dev", "cni0")
sh("ip", "link", "set", "cni0", "up")
def serve(address):
    s = socket.socket(); s.bind((address, 8080)); s.listen()
    def loop():
        while True:
            c, _ = s.accept(); c.sendall(address.encode()); c.close()
    threading.Thread(target=loop, daemon=True).start()
for a in ("10.42.0.2", "10.42.0.3"): serve(a)
def ask(address, port):
    try:
        with socket.create_connection((address, port), timeout=2) as c: return c.recv(100).decode()
    except OSError as e: return type(e).__name__
result = {{}}
door = nft.Nft()
port = {{"port": 80, "name": "http", "nodePort": 30080}}
both = build_service_ports([service(type="NodePort", ports=[port])], [slice_([ready("10.42.0.2"), ready("10.42.0.3")])], "n1")
state = rules.build_ruleset(both, FACTS)
door.apply([*rules.base_commands(FACTS), *rules.diff(rules.Ruleset(), state)])
result["spread"] = sorted({{ask("10.43.0.5", 80) for _ in range(40)}})
result["nodeport"] = ask("192.0.2.1", 30080)
result["nodeport-loopback"] = ask("127.0.0.1", 30080)
result["other-port"] = ask("10.43.0.5", 81)
def step(services, slices):
    global state
    new = rules.build_ruleset(build_service_ports(services, slices, "n1"), FACTS)
    door.apply(rules.diff(state, new)); state = new
step([service(type="NodePort", ports=[port], sessionAffinity="ClientIP")], [slice_([ready("10.42.0.2"), ready("10.42.0.3")])])
result["affinity"] = len({{ask("10.43.0.5", 80) for _ in range(20)}})
step([service(type="NodePort", ports=[port])], [slice_([ready("10.42.0.3")])])
result["one"] = sorted({{ask("10.43.0.5", 80) for _ in range(10)}})
step([service(type="NodePort", ports=[port])], [])
result["none"] = [ask("10.43.0.5", 80), ask("192.0.2.1", 30080)]
step([], [])
result["gone"] = ask("10.43.0.5", 80)
cleanup.nft.delete_table(); links.remove_links()
after = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
result["clean"] = [after == before, subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout]
print(json.dumps(result))
"""


def test_rules_in_the_kernel() -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SCRIPT.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["spread"] == ["10.42.0.2", "10.42.0.3"]
    assert result["nodeport"] in ("10.42.0.2", "10.42.0.3")
    assert result["nodeport-loopback"] in ("10.42.0.2", "10.42.0.3")
    assert result["other-port"] == "ConnectionRefusedError"
    assert result["affinity"] == 1
    assert result["one"] == ["10.42.0.3"]
    assert result["none"] == ["ConnectionRefusedError", "ConnectionRefusedError"]
    assert result["gone"] == "ConnectionRefusedError"
    assert result["clean"] == [True, ""]
