"""Which network namespaces are ours, from what the CNI library remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k3sd import killall
from k3sd.config import paths


def test_namespaces_come_from_either_form_of_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, netns = tmp_path / "cni" / "results", tmp_path / "netns"
    results.mkdir(parents=True)
    netns.mkdir()
    for name in ("cni-a", "cni-b", "cni-other", "admin"):
        (netns / name).touch()
    interfaces = [{"name": "cni0"}, {"name": "eth0", "sandbox": str(netns / "cni-a")}]
    (results / "cbr0-1-eth0").write_text(json.dumps({"result": {"interfaces": interfaces}}))
    (results / "cbr0-2-eth0").write_text(json.dumps({"netns": str(netns / "cni-b"), "result": None}))
    (results / "cbr0-3-eth0").write_text(json.dumps({"netns": str(netns / "admin")}))
    (results / "cbr0-4-eth0").write_text(json.dumps({"netns": str(netns / "cni-gone")}))
    (results / "cbr0-5-eth0").write_text("damaged")
    (results / "cbr0-6-eth0").write_text("[]")
    (results / "podman-1-eth0").write_text(json.dumps({"netns": str(netns / "cni-other")}))
    monkeypatch.setattr(paths, "CNI_STATE", tmp_path / "cni")
    assert sorted(path.name for path in killall.recorded_namespaces()) == ["cni-a", "cni-b"]
