"""What is ours: network namespaces from what the CNI library remembers, cgroups from what the starts left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k3sd import killall, prepare
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


@pytest.mark.parametrize("version", [1, 2])
def test_cgroups_go_below_the_roots_that_were_used(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "cgroup"
    hierarchies = [mount] if version == 2 else [mount / "cpu", mount / "memory"]
    for hierarchy in hierarchies:
        for path in ("a/b/kubepods/burstable/podx", "kubepods/besteffort", "c/kubepods", "c/used", "other/kubepods"):
            (hierarchy / path).mkdir(parents=True)
    if version == 2:
        (mount / "cgroup.controllers").touch()
    monkeypatch.setattr(paths, "CGROUP_ROOTS", tmp_path / "cgroup-roots")
    assert killall.cgroup_roots() == ["/"]
    for root in ("a/b", "/c/", "a/b/"):
        prepare.remember_cgroup_root(root)
    assert killall.cgroup_roots() == ["/a/b", "/c"]
    removed = killall.remove_cgroups(killall.cgroup_roots(), mount)
    expected = [str(h / path) for h in hierarchies for path in ("a/b/kubepods", "a/b", "a", "c/kubepods")]
    assert sorted(removed) == sorted(expected)
    for hierarchy in hierarchies:
        assert (hierarchy / "kubepods/besteffort").is_dir(), "another node's, who uses the default"
        assert (hierarchy / "c/used").is_dir() and (hierarchy / "other/kubepods").is_dir()
