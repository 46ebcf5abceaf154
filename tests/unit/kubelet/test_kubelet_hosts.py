from pathlib import Path
from typing import Any

import pytest

from k3sd.kubelet import hosts

Obj = dict[str, Any]


def pod(name: str = "web", **spec: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": "ns", "uid": "u"}, "spec": spec}


@pytest.mark.parametrize(
    ("a_pod", "expected"),
    [
        (pod(), ("web", "")),
        (pod(hostname="h", subdomain="sub"), ("h", "sub.ns.svc.cluster.local")),
        (pod(subdomain="sub"), ("web", "sub.ns.svc.cluster.local")),
        (pod("a" * 62 + ".b-c"), ("a" * 62, "")),
        (pod(hostnameOverride="x.example.org", subdomain="sub"), ("x.example.org", "")),
        (pod(hostNetwork=True), ("node-1", "")),
    ],
)
def test_pod_hostname(a_pod: Obj, expected: tuple[str, str]) -> None:
    assert hosts.pod_hostname(a_pod, "cluster.local", "node-1") == expected


def test_fqdn_as_hostname() -> None:
    assert hosts.kernel_hostname(pod(), "h", "s.ns.svc.x") == "h"
    assert hosts.kernel_hostname(pod(setHostnameAsFQDN=True), "h", "s.ns.svc.x") == "h.s.ns.svc.x"
    with pytest.raises(hosts.HostnameError, match=r"is too long \(64 characters is the max, 72 characters requested\)"):
        hosts.kernel_hostname(pod(setHostnameAsFQDN=True), "h" * 60, "ns.svc.cluster.local"[:11])


def test_hosts_file() -> None:
    a_pod = pod(hostAliases=[{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}])
    text = hosts.hosts_file(a_pod, ["10.42.0.5", "fd00::5"], "h", "s.ns.svc.x")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "\n10.42.0.5\th.s.ns.svc.x\th\nfd00::5\th.s.ns.svc.x\th\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\n")


def test_hosts_file_of_the_host_network() -> None:
    text = hosts.hosts_file(pod(hostNetwork=True), ["192.0.2.1"], "n", "", "127.0.0.1 localhost\n")
    assert text == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"


def test_own_mount_over_hosts_wins() -> None:
    assert hosts.wants_hosts_mount({"volumeMounts": [{"mountPath": "/data"}]})
    assert not hosts.wants_hosts_mount({"volumeMounts": [{"mountPath": "/etc/hosts"}]})


def test_rewriting_keeps_the_inode_and_shortens(tmp_path: Path) -> None:
    path = hosts.write_hosts_file(tmp_path, "a long text\n")
    inode = path.stat().st_ino
    assert hosts.write_hosts_file(tmp_path, "short\n") == path
    assert (path.read_text(), path.stat().st_ino, path.stat().st_mode & 0o777) == ("short\n", inode, 0o644)


HOST = "# comment\nnameserver 192.0.2.53\nsearch example.org. lan\noptions edns0 ndots:2\noptions ndots:3\n"


def test_cluster_first() -> None:
    config = hosts.pod_dns(pod(), ["10.43.0.10"], "cluster.local", HOST)
    assert config.servers == ["10.43.0.10"]
    assert config.searches == ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org", "lan"]
    assert config.options == ["ndots:5"] and not config.warnings


@pytest.mark.parametrize(
    "a_pod", [pod(dnsPolicy="Default"), pod(hostNetwork=True), pod(hostNetwork=True, dnsPolicy="ClusterFirst")]
)
def test_default_is_the_nodes_file(a_pod: Obj) -> None:
    config = hosts.pod_dns(a_pod, ["10.43.0.10"], "cluster.local", HOST)
    assert (config.servers, config.searches, config.options) == (["192.0.2.53"], ["example.org", "lan"], ["edns0", "ndots:3"])


def test_cluster_first_with_host_net() -> None:
    config = hosts.pod_dns(pod(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"), ["10.43.0.10"], "cluster.local", "")
    assert config.servers == ["10.43.0.10"]


def test_none_with_dns_config() -> None:
    extra = {
        "nameservers": ["1.1.1.1"],
        "searches": ["resolv.conf.local"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    config = hosts.pod_dns(pod(dnsPolicy="None", dnsConfig=extra), ["10.43.0.10"], "cluster.local", HOST)
    assert (config.servers, config.searches, config.options) == (["1.1.1.1"], ["resolv.conf.local"], ["ndots:2", "edns0"])


def test_dns_config_merges() -> None:
    extra = {"nameservers": ["1.1.1.1", "10.43.0.10"], "options": [{"name": "ndots", "value": "1"}]}
    config = hosts.pod_dns(pod(dnsConfig=extra), ["10.43.0.10"], "", HOST)
    assert (config.servers, config.options) == (["10.43.0.10", "1.1.1.1"], ["ndots:1"])


def test_no_cluster_dns_falls_back_aloud() -> None:
    config = hosts.pod_dns(pod(), [], "cluster.local", HOST)
    assert config.servers == ["192.0.2.53"]
    assert config.warnings == [
        'kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. '
        'Falling back to "Default" policy.'
    ]


def test_limits() -> None:
    extra = {"nameservers": [f"192.0.2.{i}" for i in range(5)], "searches": [f"d{i}.example" for i in range(40)]}
    config = hosts.pod_dns(pod(dnsPolicy="None", dnsConfig=extra), [], "", "")
    assert len(config.servers) == 3 and len(config.searches) == 32 and len(config.warnings) == 2


def test_no_resolver_file() -> None:
    config = hosts.pod_dns(pod(dnsPolicy="Default"), [], "", "")
    assert (config.servers, config.searches) == (["127.0.0.1"], ["."])
