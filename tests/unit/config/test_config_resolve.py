"""Options to settings: derived defaults, checks of values, fatal combinations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k3sd.config.machine import Machine
from k3sd.config.problem import ConfigError
from k3sd.config.resolve import resolve
from k3sd.config.settings import Settings


class FakeMachine(Machine):
    """A machine with a default route through 192.0.2.10."""

    def __init__(
        self, default: str = "192.0.2.10", default6: str = "", others: tuple[str, ...] = (), host: str = "Node1"
    ) -> None:
        self.default, self.default6, self.others, self.host = default, default6, others, host

    def hostname(self) -> str:
        return self.host

    def default_address(self, family: int) -> str:
        return self.default if family == 4 else self.default6

    def interface_addresses(self, interface: str) -> list[str]:
        return ["198.51.100.7"] if interface == "eth1" else []

    def global_addresses(self) -> list[str]:
        return list(self.others)


def settle(*argv: str, machine: Machine | None = None, **environ: str) -> Settings:
    return resolve("server", argv, {"K3S_CONFIG_FILE": "/dev/null", **environ}, machine or FakeMachine())


def complaints(*argv: str, machine: Machine | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settle(*argv, machine=machine, **environ)
    return [str(problem) for problem in caught.value.problems]


def test_defaults() -> None:
    settings = settle()
    assert settings == Settings(
        advertise_address="192.0.2.10",
        node_name="node1",
        node_ips=("192.0.2.10",),
        write_kubeconfig="/etc/rancher/k3s/k3s.yaml",
        node_args=("server",),
        node_env={"K3S_CONFIG_FILE": "/dev/null"},
    )
    assert settings.cluster_dns == "10.43.0.10"


def test_settings_survive_the_way_to_a_child() -> None:
    settings = settle("--kube-proxy-arg=proxy-mode=nftables", "--node-label=a=b", "--service-node-port-range=31000+9")
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.service_node_port_range == (31000, 31009)


class TestNodeAddress:
    def test_without_default_route_any_global_address_serves(self) -> None:
        assert settle(machine=FakeMachine(default="", others=("2001:db8::5", "203.0.113.4"))).node_ip == "203.0.113.4"

    def test_no_address_at_all(self) -> None:
        (complaint,) = complaints(machine=FakeMachine(default=""))
        assert complaint == (
            "network: no interface has an address that a node could have; "
            "configure the network, or choose the address with --node-ip"
        )

    def test_node_ip_suffices_then(self) -> None:
        assert settle("--node-ip=192.0.2.99", machine=FakeMachine(default="")).node_ip == "192.0.2.99"

    def test_of_an_interface(self) -> None:
        assert settle("--flannel-iface=eth1").node_ip == "198.51.100.7"
        assert "interface 'eth9'" in complaints("--flannel-iface=eth9")[0]

    def test_external_address_is_advertised(self) -> None:
        settings = settle("--node-external-ip=203.0.113.1")
        assert settings.advertise_address == "203.0.113.1"
        assert settings.node_external_ips == ("203.0.113.1",)

    def test_one_address_per_family(self) -> None:
        assert "two addresses of one family" in complaints("--node-ip=192.0.2.1,192.0.2.2")[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--node-ip=nonsense"], "node-ip is 'nonsense', which is no address"),
        (["--cluster-cidr=10.42.0.1/16"], "cluster-cidr is '10.42.0.1/16', which is no network"),
        (
            ["--service-cidr=10.0.0.0/8", "--cluster-cidr=172.16.0.0/16"],
            "service-cidr 10.0.0.0/8 is too large; give a /12 or smaller",
        ),
        (["--service-cidr=10.42.7.0/24"], "service-cidr 10.42.7.0/24 overlaps cluster-cidr 10.42.0.0/16"),
        (["--service-cidr=10.9.0.0/30"], "too small for the cluster's DNS"),
        (["--cluster-cidr=10.42.0.0/28"], "smaller than one node's /24"),
        (["--node-ip=127.0.0.1"], "--node-ip: node-ip is 127.0.0.1 (loopback), which pods cannot reach; give an address"),
        (["--node-ip=169.254.0.1"], "node-ip is 169.254.0.1 (link-local)"),
        (["--advertise-address=0.0.0.0"], "advertise-address is 0.0.0.0 (unspecified)"),
        (["--cluster-dns=192.0.2.53"], "cluster-dns 192.0.2.53 is outside of the service network 10.43.0.0/16"),
        (["--cluster-dns=10.43.0.1"], "cluster-dns 10.43.0.1 is the address of the service kubernetes"),
        (["--cluster-dns=10.43.0.10,10.43.0.11"], "cluster-dns has two addresses of one family"),
        (["--https-listen-port=70000"], "https-listen-port is 70000; give a port from 1 to 65535"),
        (["--service-node-port-range=32767-30000"], "write a range of ports"),
        (["--write-kubeconfig-mode=rw"], "write an octal mode"),
        (["--write-kubeconfig-group=no-such-group"], "there is no group 'no-such-group'"),
        (["--token-file=/proc/no-such-file"], "token-file /proc/no-such-file cannot be read: No such file or directory"),
        (["--token=a b"], "the token contains a blank"),
        (["--token=K10abc"], "the token starts with K10"),
        (["--node-name=under_score"], "'under_score' cannot be a node's name"),
        (["--node-label=novalue"], "node-label 'novalue' is no label"),
        (["--node-taint=a=b:Never"], "node-taint 'a=b:Never' is no taint"),
        (["--tls-san=not a name"], "tls-san 'not a name' is no host name or address"),
        (["--cluster-domain=Not_A_Domain"], "is no DNS domain"),
        (["--resolv-conf=/proc/no-such-file"], "there is no file /proc/no-such-file"),
        (["--datastore-endpoint=nonsense"], "invalid datastore endpoint; endpoint should be a DSN URI in the format <scheme>"),
        (["--datastore-endpoint=oracle://x"], "there is no datastore oracle://"),
        (["--container-runtime-endpoint=tcp:1"], "container-runtime-endpoint is 'tcp:1'"),
        (["--kubelet-arg=max-podz=3"], "k3sd's own component has no argument 'max-podz'"),
        (["--kube-apiserver-arg=--v=3"], "starts with dashes; write v=3"),
        (["--kube-apiserver-arg=profiling=true"], "profiling can only be false"),
        (["--cluster-reset-restore-path=x"], "--cluster-reset required with --cluster-reset-restore-path"),
        (["--cluster-reset", "--server=https://x:6443"], "cannot perform cluster-reset while server URL is set"),
        (["--disable-etcd"], "--server is required with --disable-etcd"),
        (
            ["--disable-apiserver", "--datastore-endpoint=sqlite://x"],
            "cannot use --disable-apiserver with --datastore-endpoint",
        ),
        (["--cluster-init", "--datastore-endpoint=sqlite://x"], "datastore-endpoint names a database"),
        (["--egress-selector-mode=teleport"], "write one of agent, cluster, pod, disabled"),
        (["--vpn-auth=name=x", "--flannel-backend=none"], "vpn-auth requires flannel"),
        (["--bind-address=everywhere"], "bind-address is 'everywhere', which is no address"),
        (["--node-ip=::1"], "IPv6 for pods and services is not there yet"),
        (["--cluster-cidr=fd00::/56"], "cluster-cidr and node-ip have different address families (IPv6 and IPv4)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_values_are_told_with_a_remedy(argv: list[str], words: str) -> None:
    found = complaints(*argv)
    assert any(words in complaint for complaint in found), found
    assert all(";" in complaint for complaint in found)


def test_all_problems_come_at_once() -> None:
    assert len(complaints("--node-ip=x", "--token=a b", "--cluster-init", "--https-listen-port=0x")) == 4


def test_the_agent_role_is_refused() -> None:
    with pytest.raises(ConfigError, match="joining a server is not there yet"):
        resolve("agent", [], {"K3S_CONFIG_FILE": "/dev/null"}, FakeMachine())


def test_tokens_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" secret\n")
    settings = settle(f"--token-file={file}", K3S_AGENT_TOKEN="agents")
    assert (settings.token, settings.agent_token) == ("secret", "agents")
    assert settle(f"--token-file={file}", "--token=direct").token == "direct"
    file.write_text("\n")
    assert "is empty" in complaints(f"--token-file={file}")[0]


def test_a_secret_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("token: geheim\n")
    file.chmod(0o644)
    assert settle(K3S_CONFIG_FILE=str(file)).token == "geheim"
    assert caplog.messages == [f"{file}:1: everyone can read the token; run: chmod 600 {file}"]
    caplog.clear()
    file.chmod(0o600)
    settle(K3S_CONFIG_FILE=str(file))
    assert caplog.messages == []


def test_secrets_are_not_in_messages() -> None:
    assert "geheim" not in str(complaints("--token=geheim wort", "--vpn-auth=name=tailscale,joinKey=geheim"))


@pytest.mark.parametrize(
    ("argv", "image"),
    [
        ([], "docker.io/rancher/mirrored-pause:3.6"),
        (["--system-default-registry=reg.example.com"], "reg.example.com/rancher/mirrored-pause:3.6"),
        (["--pause-image=pause:1"], "docker.io/library/pause:1"),
        (["--pause-image=reg.example.com/p:1", "--system-default-registry=other"], "reg.example.com/p:1"),
    ],
)
def test_pause_image(argv: list[str], image: str) -> None:
    assert settle(*argv).pause_image == image


def test_lists_are_split_and_names_lowered() -> None:
    settings = settle(
        "--tls-san=A.example,b", "--tls-san=b", "--disable=traefik,servicelb", "--write-kubeconfig-mode=0640", "--v=4"
    )
    assert settings.tls_sans == ("a.example", "b")
    assert settings.disable == ("traefik", "servicelb")
    assert settings.write_kubeconfig_mode == 0o640
    assert settings.debug


def test_etcd_data_on_disk_is_not_overlooked(tmp_path: Path) -> None:
    (tmp_path / "server/db/etcd/member").mkdir(parents=True)
    assert "holds a cluster on embedded etcd" in complaints(f"--data-dir={tmp_path}")[0]


def test_k3sds_own_socket_is_no_external_runtime() -> None:
    assert settle("--container-runtime-endpoint=/run/k3s/containerd/containerd.sock").container_runtime_endpoint == ""


def test_resolution_needs_no_heavy_module() -> None:
    import ast

    root = Path(__file__).resolve().parents[3] / "k3sd" / "config"
    allowed = {"yaml", "configargparse", "k3sd"}
    import sys

    for path in root.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, f"{path.name} imports {name}"
                assert not name.startswith("k3sd.") or name.startswith("k3sd.config"), f"{path.name} imports {name}"


NOT_READ = {
    "server_url": "joining is refused",
    "flannel_backend": "one node has no traffic between nodes",
    "node_internal_dns": "refused",
    "node_external_dns": "refused",
    "scheduler_args": "no argument is accepted",
    "kube_proxy_args": "no argument is accepted",
}


def test_no_setting_is_silently_ignored() -> None:
    """Every field is read by a component, or its options are refused."""
    from dataclasses import fields

    root = Path(__file__).resolve().parents[3] / "k3sd"
    paths = [path for path in root.rglob("*.py") if path.parent.name != "config" or path.name == "preflight.py"]
    text = "".join(path.read_text() for path in paths)
    unread = {field.name for field in fields(Settings) if not re.search(rf"\.{field.name}\b", text)}
    assert unread == set(NOT_READ)


def test_how_the_node_was_started_is_kept_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("node-label:\n- a=b\n- c=d\ndatastore-endpoint: postgres://u:geheim@h/db\n")
    settings = resolve(
        "server",
        ["--disable-agent", "--token=geheim", "--node-name", "n"],
        {"K3S_CONFIG_FILE": str(file), "K3S_AGENT_TOKEN": "geheim", "K3S_DATA_DIR": "/x", "HOME": "/root"},
        FakeMachine(),
    )
    words = list(settings.node_args)
    assert words[0] == "server" and "--disable-agent" in words
    assert [words[i + 1] for i, word in enumerate(words) if word == "--node-label"] == ["a=b", "c=d"]
    for name, value in (("--token", "********"), ("--datastore-endpoint", "********"), ("--node-name", "n")):
        assert words[words.index(name) + 1] == value
    assert "--agent-token" not in words, "it came from the environment"
    assert settings.node_env == {"K3S_AGENT_TOKEN": "********", "K3S_CONFIG_FILE": str(file)}
    assert Settings.from_json(settings.to_json()) == settings
