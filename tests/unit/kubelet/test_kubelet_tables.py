"""Small decisions of the kubelet as tables: cgroup values, container configuration, backoff, admission, names, patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k3sd.config.settings import Settings
from k3sd.kubelet import admission, backoff, cgroups, credentials, eviction, nodeobject, podinfo, staticpods
from k3sd.kubelet.containerconfig import (
    DNS,
    ConfigError,
    ImageUser,
    NodeFacts,
    build_container_config,
    build_sandbox_config,
    check_non_root,
)
from k3sd.kubelet.cri.messages import NamespaceMode, ProfileType
from k3sd.kubelet.layout import next_restart_count
from k3sd.kubelet.runtime import Grace
from k3sd.kubelet.statuswriter import build_patch
from k3sd.lib import processes
from tests.unit.kubelet.kubelet_pods import container, pod

Obj = dict[str, Any]
FACTS = NodeFacts(memory_capacity=8 << 30, seccomp_root=Path("/k/seccomp"))


def resources(cpu: str = "", memory: str = "", cpu_limit: str = "", memory_limit: str = "") -> Obj:
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    limits = {k: v for k, v in (("cpu", cpu_limit), ("memory", memory_limit)) if v}
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


# cgroups


@pytest.mark.parametrize(
    ("given", "shares", "quota", "memory"),
    [
        (resources(), 2, 0, 0),
        (resources("100m"), 102, 0, 0),
        (resources("1m"), 2, 0, 0),
        (resources("", "", "500m"), 512, 50000, 0),
        (resources("20m", "", "5m"), 20, 1000, 0),
        (resources("300", "1Gi", "", "2Gi"), 262144, 0, 2 << 30),
    ],
)
def test_container_limits(given: Obj, shares: int, quota: int, memory: int) -> None:
    entry = container("a", resources=given)
    assert cgroups.container_limits(pod(entry), entry) == cgroups.Limits(shares, quota, memory)


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([resources()], cgroups.Limits(2)),
        ([resources("1", "1Gi", "1", "1Gi")], cgroups.Limits(1024, 100000, 1 << 30)),
        ([resources("500m"), resources("1", "", "2")], cgroups.Limits(1536)),
        ([resources("", "", "1", "1Mi"), resources("", "", "1")], cgroups.Limits(2, 200000)),
    ],
)
def test_pod_limits(containers: list[Obj], expected: cgroups.Limits) -> None:
    spec = pod(*(container(f"c{i}", resources=r) for i, r in enumerate(containers)))
    assert cgroups.pod_limits(spec) == expected


@pytest.mark.parametrize(
    ("given", "qos", "score"),
    [
        (resources(), "BestEffort", 1000),
        (resources("1", "1Gi", "1", "1Gi"), "Guaranteed", -997),
        (resources("", "", "1", "1Gi"), "Guaranteed", -997),
        (resources("", "4Gi"), "Burstable", 500),
        (resources("", "1Ki"), "Burstable", 999),
        (resources("", "8Gi"), "Burstable", 3),
    ],
)
def test_qos_and_oom_score(given: Obj, qos: str, score: int) -> None:
    entry = container("a", resources=given)
    assert podinfo.compute_qos(pod(entry)) == qos
    assert cgroups.oom_score_adj(pod(entry), entry, 8 << 30) == score


def test_cgroup_names() -> None:
    assert cgroups.pod_cgroup("a-b", "Burstable", systemd=False) == "/kubepods/burstable/poda-b"
    assert cgroups.pod_cgroup("a-b", "Guaranteed", systemd=False) == "/kubepods/poda-b"
    name = cgroups.pod_cgroup("a-b", "BestEffort", systemd=True)
    assert name == "kubepods-besteffort-poda_b.slice"
    assert cgroups._relative(name) == f"kubepods.slice/kubepods-besteffort.slice/{name}"


def test_systemd_properties() -> None:
    assert cgroups.systemd_properties(cgroups.Limits(1024, 150000, 1 << 20)) == [
        "CPUWeight=39",
        "CPUQuota=150%",
        "MemoryMax=1048576",
    ]
    assert cgroups.systemd_properties(cgroups.Limits(2)) == ["CPUWeight=1"]


def test_hierarchy_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    manager = cgroups.CgroupManager(root=tmp_path, top="/k3sd")
    manager.setup(cgroups.Limits(2048, memory=1 << 30))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "k3sd/kubepods/memory.max").read_text() == str(1 << 30)
    spec = pod(container("a", resources=resources("1", "1Gi", "2", "1Gi")))
    assert manager.create_pod(spec) == "/k3sd/kubepods/burstable/podu1"
    directory = tmp_path / "k3sd/kubepods/burstable/podu1"
    values = {name: (directory / name).read_text() for name in ("cpu.weight", "cpu.max", "memory.max")}
    assert values == {"cpu.weight": "39", "cpu.max": "200000 100000", "memory.max": str(1 << 30)}
    assert manager.pods() == {"u1"}


def test_only_strays_of_this_node_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 is a container of our shim, 80 of a shim with other mounts, 90 lost its shim; we are 60, a child of 50."""
    parents = {60: 50, 50: 1, 70: 71, 71: 1, 80: 81, 81: 82, 82: 1, 90: 1}
    monkeypatch.setattr(processes, "parent", lambda pid: parents.get(pid, 0))
    shims = {71: "/usr/bin/containerd-shim-runc-v2 -id x", 82: "/usr/bin/containerd-shim-runc-v2 -id y"}
    monkeypatch.setattr(processes, "command_line", lambda pid: shims.get(pid, "app containerd-shim"))
    monkeypatch.setattr(processes, "shares_mounts", lambda pid: pid == 71)
    monkeypatch.setattr(cgroups.os, "getpid", lambda: 60)
    killed: list[int] = []
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, number: killed.append(pid))
    (tmp_path / "cgroup.procs").write_text("0\n1\n50\n60\n70\n80\n90\n")
    assert not cgroups.CgroupManager._kill(tmp_path)
    assert killed == [70, 90]
    (tmp_path / "cgroup.procs").write_text("70\n")
    assert cgroups.CgroupManager._kill(tmp_path)


def test_hierarchy_of_version_1(tmp_path: Path) -> None:
    for controller in ("cpu", "memory", "cpuset"):
        (tmp_path / controller).mkdir()
    manager = cgroups.CgroupManager(root=tmp_path)
    manager.setup()
    assert (tmp_path / "cpu/kubepods/besteffort/cpu.shares").read_text() == "2"
    manager.create_pod(pod(container("a", resources=resources("1", "1Gi", "1", "1Gi"))))
    directory = tmp_path / "cpu/kubepods/podu1"
    assert (directory / "cpu.cfs_quota_us").read_text() == "100000"
    assert (tmp_path / "memory/kubepods/podu1/memory.limit_in_bytes").read_text() == str(1 << 30)
    smaller = pod(container("a", resources=resources("500m", "1Gi", "500m", "1Gi")))
    manager.widen_pod(smaller, cgroups.pod_limits(smaller))
    assert (directory / "cpu.cfs_quota_us").read_text() == "100000"
    manager.update_pod(smaller)
    assert (directory / "cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "cpuset/kubepods/podu1").is_dir()


def test_pod_resources_cover_the_largest_init_container() -> None:
    init = [
        container("i", resources=resources("3")),
        container("side", restartPolicy="Always", resources=resources("1")),
        container("j", resources=resources("4")),
    ]
    spec = pod(container("a", resources=resources("2")), init=init, overhead={"cpu": "100m"})
    assert str(podinfo.pod_resources(spec, "requests")["cpu"]) == "5100m"


# configurations


def build(entry: Obj, spec: Obj | None = None, **fields: Any) -> Any:
    given: dict[str, Any] = {
        "restart_count": 2,
        "image_ref": "sha256:1",
        "user": ImageUser(),
        "env": [("A", "1"), ("B", "x")],
        "mounts": (),
        "facts": FACTS,
        **fields,
    }
    return build_container_config(spec or pod(entry), entry, **given)


def test_container_config() -> None:
    entry = container("a", command=["$(A)", "$$(A)", "$(Z)"], args=["$(B)"], workingDir="/w", tty=True)
    config = build(entry)
    assert (list(config.command), list(config.args)) == (["1", "$(A)", "$(Z)"], ["x"])
    assert (config.log_path, config.metadata.attempt, config.tty) == ("a/2.log", 2, True)
    assert config.labels["io.kubernetes.container.name"] == "a"
    assert config.annotations["io.kubernetes.container.restartCount"] == "2"
    assert config.linux.security_context.run_as_user.value == 0
    assert config.linux.security_context.seccomp.profile_type == ProfileType.UNCONFINED
    assert config.linux.resources.cpu_period == 100000
    assert "/proc/kcore" in config.linux.security_context.masked_paths


def test_security_context_of_pod_and_container() -> None:
    context = {
        "runAsUser": 1000,
        "runAsGroup": 2000,
        "fsGroup": 3000,
        "supplementalGroups": [4000],
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    own = {
        "runAsUser": 1001,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "procMount": "Unmasked",
        "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
    }
    security = build(container("a", securityContext=own), pod(securityContext=context)).linux.security_context
    assert (security.run_as_user.value, security.run_as_group.value) == (1001, 2000)
    assert list(security.supplemental_groups) == [3000, 4000]
    assert (security.no_new_privs, security.readonly_rootfs) == (True, True)
    assert list(security.capabilities.drop_capabilities) == ["ALL"]
    assert list(security.masked_paths) == []
    assert security.seccomp.localhost_ref == "/k/seccomp/p.json"


@pytest.mark.parametrize(
    ("context", "user", "message"),
    [
        ({}, ImageUser(0), ""),
        ({"runAsNonRoot": True}, ImageUser(5), ""),
        ({"runAsNonRoot": True}, ImageUser(0), "container has runAsNonRoot and image will run as root"),
        ({"runAsNonRoot": True, "runAsUser": 0}, ImageUser(5), "container's runAsUser breaks non-root policy"),
        ({"runAsNonRoot": True, "runAsUser": 1}, ImageUser(0), ""),
        ({"runAsNonRoot": True}, ImageUser(None, "www"), "container has runAsNonRoot and image has non-numeric user (www)"),
    ],
)
def test_non_root(context: Obj, user: ImageUser, message: str) -> None:
    entry = container("a", securityContext=context)
    if not message:
        check_non_root(pod(entry), entry, user)
        return
    with pytest.raises(ConfigError) as caught:
        check_non_root(pod(entry), entry, user)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith('(pod: "p_ns(u1)", container: a)')


@pytest.mark.parametrize(
    ("spec", "network", "pid", "ipc"),
    [
        ({}, "POD", "CONTAINER", "POD"),
        ({"hostNetwork": True, "hostIPC": True}, "NODE", "CONTAINER", "NODE"),
        ({"hostPID": True}, "POD", "NODE", "POD"),
        ({"shareProcessNamespace": True}, "POD", "POD", "POD"),
    ],
)
def test_namespaces(spec: Obj, network: str, pid: str, ipc: str) -> None:
    config = build_sandbox_config(pod(**spec), 0, hostname="h", dns=DNS(), log_directory="/l", cgroup_parent="/c")
    options = config.linux.security_context.namespace_options
    assert [NamespaceMode(v).name for v in (options.network, options.pid, options.ipc)] == [network, pid, ipc]
    assert config.hostname == ("" if spec.get("hostNetwork") else "h")


def test_ephemeral_container_looks_into_its_target() -> None:
    options = build(container("e"), pod(), target_id="abc").linux.security_context.namespace_options
    assert (options.pid, options.target_id) == (NamespaceMode.TARGET, "abc")


def test_sandbox_config() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}, {"containerPort": 81}]
    spec = pod(container("a", ports=ports), securityContext={"sysctls": [{"name": "net/a", "value": "1"}]})
    spec["metadata"]["labels"] = {"app": "x"}
    dns = DNS(["10.43.0.10"], ["x.svc"], ["ndots:5"])
    config = build_sandbox_config(spec, 3, hostname="h", dns=dns, log_directory="/l", cgroup_parent="/c")
    assert [(m.host_port, m.container_port) for m in config.port_mappings] == [(8080, 80)]
    assert dict(config.labels) == {
        "app": "x",
        "io.kubernetes.pod.name": "p",
        "io.kubernetes.pod.namespace": "ns",
        "io.kubernetes.pod.uid": "u1",
    }
    assert dict(config.linux.sysctls) == {"net.a": "1"}
    assert (config.metadata.attempt, config.linux.cgroup_parent, list(config.dns_config.searches)) == (3, "/c", ["x.svc"])


# time


def test_backoff_doubles_and_forgets() -> None:
    now = [1000.0]
    restarts = backoff.Backoff(clock=lambda: now[0])
    assert restarts.remaining("k", 1000) == 0
    delays = []
    for _ in range(7):
        restarts.next("k", now[0])
        delays.append(restarts.get("k"))
        now[0] += restarts.get("k")
    assert delays == [10, 20, 40, 80, 160, 300, 300]
    assert restarts.remaining("k", now[0] - 1) == 299
    assert restarts.remaining("k", now[0] + 601) == 0
    restarts.forget("k")
    assert restarts.get("k") == 0


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s")])
def test_backoff_text(seconds: float, text: str) -> None:
    assert backoff.text(seconds) == text


def test_grace() -> None:
    entry = container("a", livenessProbe={"terminationGracePeriodSeconds": 7})
    spec = pod(entry, terminationGracePeriodSeconds=20)
    assert Grace().seconds(spec, entry, "") == 20
    assert Grace().seconds(spec, entry, "liveness") == 7
    spec["metadata"]["deletionGracePeriodSeconds"] = 5
    assert Grace().seconds(spec, entry, "liveness") == 5
    assert Grace(1).seconds(spec, entry, "") == 1


# admission

NODE = {
    "metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux", "disk": "ssd", "cores": "4"}},
    "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
    "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2", "x/y": "1"}},
}
TOLERANT = {"tolerations": [{"operator": "Exists"}]}


def port(number: int, **fields: Any) -> Obj:
    return container("a", ports=[{"containerPort": 1, "hostPort": number, **fields}])


def affinity(**rule: Any) -> Obj:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (pod(**TOLERANT), None),
        (pod(), "TaintToleration"),
        (pod(**TOLERANT, nodeSelector={"disk": "hdd"}), "NodeAffinity"),
        (pod(**TOLERANT, **affinity(key="disk", operator="In", values=["ssd"])), None),
        (pod(**TOLERANT, **affinity(key="disk", operator="NotIn", values=["ssd"])), "NodeAffinity"),
        (pod(**TOLERANT, **affinity(key="cores", operator="Gt", values=["3"])), None),
        (pod(**TOLERANT, os={"name": "windows"}), "PodOSNotSupported"),
        (pod(container("a", resources=resources("1500m")), **TOLERANT), "OutOfcpu"),
        (pod(container("a", resources={"requests": {"x/y": "2"}}), **TOLERANT), "OutOfx/y"),
        (pod(container("a", resources={"requests": {"absent/z": "2"}}), **TOLERANT), None),
        (pod(port(80), **TOLERANT), "NodePorts"),
        (pod(port(80, protocol="UDP"), **TOLERANT), None),
        (pod(**TOLERANT, securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "SysctlForbidden"),
        (pod(**TOLERANT, securityContext={"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}), None),
    ],
)
def test_admission(spec: Obj, reason: str | None) -> None:
    other = pod(port(80), **TOLERANT)
    other["spec"]["containers"][0]["resources"] = resources("1")
    other["metadata"]["uid"] = "u2"
    verdict = admission.admit(spec, NODE, [other])
    assert (verdict.reason if verdict else None) == reason


def test_admission_messages() -> None:
    verdict = admission.admit(pod(container("a", resources=resources("2500m")), **TOLERANT), NODE, [])
    assert verdict is not None and verdict.message == (
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 2500, used: 0, capacity: 2000"
    )


# names


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("a/b:1", "docker.io/a/b:1"),
        ("reg.io/a", "reg.io/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("a@sha256:" + "0" * 64, "docker.io/library/a@sha256:" + "0" * 64),
    ],
)
def test_image_names(image: str, full: str) -> None:
    assert credentials.normalize(image) == full
    assert credentials.name_error(image) == ""


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("UPPER/Bad", "invalid reference format: repository name (Bad) must be lowercase"),
        ("docker.io/library/Bad:1", "invalid reference format: repository name (library/Bad) must be lowercase"),
        ("images:ubuntu/24.04", "invalid reference format"),
        ("https://example.com/x", "invalid reference format"),
        ("web: 1", "invalid reference format"),
        ("web:1:2", "invalid reference format"),
        ("web@sha256:12", "invalid reference format"),
        ("-web", "invalid reference format"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("example.com/" + "a" * 250, "repository name must not be more than 255 characters"),
        ("[::1]:5000/web:1", ""),
        ("localhost/a__b-c/d.e:Tag_1@sha256:" + "0" * 64, ""),
    ],
)
def test_wrong_image_names(image: str, error: str) -> None:
    assert credentials.name_error(image) == error


def test_pull_secrets() -> None:
    import base64
    import json

    auths = {
        "https://index.docker.io/v1/": {"auth": base64.b64encode(b"u:p:q").decode()},
        "*.example.com": {"username": "g", "password": "h"},
        "reg.example.com/team": {"username": "t", "password": "s"},
    }
    data = {".dockerconfigjson": base64.b64encode(json.dumps({"auths": auths}).encode()).decode()}
    secret = {"metadata": {"name": "s"}, "type": "kubernetes.io/dockerconfigjson", "data": data}
    found = credentials.parse_secret(secret)

    def users(image: str) -> list[str]:
        return [c.username for c in credentials.matching(image, found)]

    assert [(c.username, c.password) for c in credentials.matching("busybox", found)] == [("u", "p:q")]
    assert users("reg.example.com/team/app") == ["t", "g"]
    assert users("reg.example.com/other") == ["g"]
    assert users("quay.io/x") == []
    with pytest.raises(ValueError, match="Secret 's' is no valid docker config"):
        credentials.parse_secret({**secret, "data": {".dockerconfigjson": "!"}})


def test_restart_count_survives_in_the_log_directory(tmp_path: Path) -> None:
    assert next_restart_count(tmp_path / "absent") == 0
    for name in ("0.log", "2.log.20260101-000000", "x.log"):
        (tmp_path / name).touch()
    assert next_restart_count(tmp_path) == 3


# status patches


def test_patch_holds_only_what_changed() -> None:
    ready = {"type": "Ready", "status": "True"}
    base = {
        "phase": "Pending",
        "podIPs": [{"ip": "1"}],
        "reason": "x",
        "conditions": [ready, {"type": "Mine", "status": "True"}],
    }
    assert build_patch(base, {**base, "conditions": [ready]}) == {}
    wanted = {"phase": "Running", "podIPs": [{"ip": "2"}], "conditions": [{"type": "Ready", "status": "False", "reason": "r"}]}
    assert build_patch(base, wanted) == {
        "phase": "Running",
        "reason": None,
        "podIPs": [{"ip": "2"}, {"$patch": "replace"}],
        "conditions": [{"type": "Ready", "status": "False", "reason": "r"}],
    }


# node


def test_capacity_and_allocatable() -> None:
    facts = nodeobject.MachineFacts(4, 8 << 30, 100 << 30, "m", "s", "b", "k", "o", {"2048kB": 4 << 20})
    capacity = nodeobject.build_capacity(facts, 110)
    assert capacity == {
        "cpu": "4",
        "memory": "8388608Ki",
        "ephemeral-storage": "104857600Ki",
        "pods": "110",
        "hugepages-2Mi": "4Mi",
    }
    out = nodeobject.build_allocatable(capacity, nodeobject.parse_reserved(["cpu=100m,memory=1Gi", "cpu=400m"]))
    assert (out["cpu"], out["memory"], out["ephemeral-storage"]) == ("3500m", "7164Mi", "102005473280")


def test_foreign_resources_stay() -> None:
    assert nodeobject.merge_resources({"cpu": "1"}, {"cpu": "9", "a.b/c": "3"}) == {"cpu": "1", "a.b/c": "3"}


def test_images_are_listed_in_one_order() -> None:
    class Image:
        def __init__(self, number: int, size: int) -> None:
            self.id, self.size, self.repo_digests, self.repo_tags = f"sha256:{number}", size, (), (f"image:{number}",)

    images = [Image(1, 10), Image(2, 10), Image(3, 20)]
    shown = nodeobject.build_images(images)
    assert [row["names"] for row in shown] == [["image:3"], ["image:2"], ["image:1"]]
    assert nodeobject.build_images(images[::-1]) == shown


def test_condition_times() -> None:
    old = nodeobject.build_conditions(nodeobject.Health("starting"), [], "t0")
    new = nodeobject.build_conditions(nodeobject.Health(), old, "t1")
    ready, disk = new[3], new[1]
    assert (ready["type"], ready["status"], ready["reason"], ready["lastTransitionTime"]) == (
        "Ready",
        "True",
        "KubeletReady",
        "t1",
    )
    assert (disk["lastTransitionTime"], disk["lastHeartbeatTime"]) == ("t0", "t1")


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("a=b:NoSchedule", {"key": "a", "value": "b", "effect": "NoSchedule"}),
        ("a:NoExecute", {"key": "a", "effect": "NoExecute"}),
    ],
)
def test_taints(text: str, taint: Obj) -> None:
    assert nodeobject.parse_taint(text) == taint


# static pods and eviction

MANIFEST = b"apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n"


def test_manifest_becomes_a_pod_of_this_node() -> None:
    made = staticpods.parse_manifest(MANIFEST, "/m/web.yaml", "Node1")
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("web-node1", "default")
    assert made["metadata"]["uid"] == made["metadata"]["annotations"]["kubernetes.io/config.hash"]
    assert podinfo.is_static(made) and made["spec"]["nodeName"] == "Node1"
    assert made["spec"]["restartPolicy"] == "Always"
    other = staticpods.parse_manifest(MANIFEST.replace(b"image: b", b"image: c"), "/m/web.yaml", "Node1")
    assert other["metadata"]["uid"] != made["metadata"]["uid"]
    mirror = staticpods.build_mirror(made, {"metadata": {"name": "Node1", "uid": "n"}})
    assert podinfo.is_mirror(mirror) and not podinfo.is_static(mirror)
    assert mirror["metadata"]["ownerReferences"][0]["uid"] == "n"
    assert "uid" not in mirror["metadata"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "neither valid YAML nor JSON"),
        (b"[]", "must hold one object of apiVersion v1, kind Pod"),
        (b"apiVersion: v1\nkind: Pod\n", "metadata.name and spec.containers are required"),
        (MANIFEST.replace(b"spec: {", b"spec: {serviceAccountName: x, "), "cannot use a service account"),
    ],
)
def test_bad_manifest_is_named(data: bytes, message: str) -> None:
    with pytest.raises(staticpods.ManifestError) as caught:
        staticpods.parse_manifest(data, "/m/x.yaml", "n")
    assert str(caught.value).startswith("/m/x.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eviction_reclaims_first_and_holds_the_pressure() -> None:
    now, free = [0.0], [50]
    calls: list[str] = []
    manager = eviction.EvictionManager(
        [Path("/")],
        lambda: calls.append("reclaim"),
        lambda verdict: calls.append(verdict.reason) is None,
        measure=lambda _: free[0],
        clock=lambda: now[0],
    )
    assert not manager.look().disk_pressure
    free[0] = 10
    assert not manager.look().disk_pressure and not manager.look().disk_pressure
    assert calls == ["reclaim"]
    calls.clear()
    free[0] = 3
    assert manager.look().disk_pressure and calls == ["reclaim"]
    manager.look()
    assert calls == ["reclaim", "Evicted"]
    free[0], now[0] = 50, 200.0
    assert manager.look().disk_pressure
    now[0] = 400.0
    assert not manager.look().disk_pressure


def test_eviction_order() -> None:
    def made(uid: str, priority: int, given: Obj) -> Obj:
        out = pod(container("a", resources=given), priority=priority)
        out["metadata"]["uid"] = uid
        return out

    pods = [
        made("critical", 2_000_000_000, resources()),
        made("guaranteed", 0, resources("1", "1Gi", "1", "1Gi")),
        made("best", 0, resources()),
        made("high", 10, resources()),
    ]
    assert [podinfo.uid(p) for p in eviction.rank(pods)] == ["best", "guaranteed", "high"]


def test_annotations_say_how_the_node_was_started() -> None:
    settings = Settings(
        node_name="n", node_ips=("192.0.2.1",), node_args=("server", "--token", "********"), node_env={"K3S_X": "y"}
    )
    found = nodeobject.build_annotations(settings)
    assert found["k3s.io/node-args"] == '["server","--token","********"]'
    assert found["k3s.io/node-env"] == '{"K3S_X":"y"}'
    assert found["k3s.io/node-config-hash"] == "HTWZSDGPHGNYPJ6UPL4TLGOXEEYOHCNR6FFFHIXQSF2UNQ2IPOQQ===="
    changed = nodeobject.build_annotations(replace(settings, node_args=("server",)))
    assert changed["k3s.io/node-config-hash"] != found["k3s.io/node-config-hash"]
    assert "k3s.io/node-args" not in nodeobject.build_annotations(Settings(node_ips=("192.0.2.1",)))
