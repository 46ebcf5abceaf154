"""The one table of options: every K3s server and agent option, one row each.

Everything else is derived from these rows: the command line, ``config.yaml`` with its drop-ins, the environment, ``--help``,
the man pages, completion and the sample in ``etc/``. A new option begins here. An option whose part of k3sd does not exist
yet has a row with ``needs``: it is known, and refused with that sentence when it is set to anything but its default or one of
``works``.

Source: K3s 1.36, ``pkg/cli/cmds/{root,server,agent}.go``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from k3sd.config.paths import CONFIG_FILE, DEFAULT_DATA_DIR, REGISTRIES_FILE

Kind = Literal["string", "bool", "int", "list", "duration", "file"]
Role = Literal["server", "agent"]

SERVER: tuple[Role, ...] = ("server",)
AGENT: tuple[Role, ...] = ("agent",)
BOTH: tuple[Role, ...] = ("server", "agent")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``default`` is text, as in a file; an empty one means unset (the help then says what happens)."""

    name: str
    kind: Kind
    group: str
    help: str
    roles: tuple[Role, ...] = BOTH
    short: str = ""
    env: str = ""
    default: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    commas: bool = True
    """Lists only: an element is split again at commas. Not so for arguments of components, whose values contain commas."""
    secret: bool = False
    hidden: bool = False
    experimental: bool = False
    deprecated: str = ""
    """What to write instead; the option still works."""
    removed: str = ""
    """What to write instead; K3s itself no longer has the option."""
    needs: str = ""
    """The missing part, as a sentence."""
    works: tuple[str, ...] = ()
    """Values that are fine although ``needs`` is set, besides the default."""

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def default_text(self) -> str:
        """The default as help and samples show it."""
        if self.kind == "bool":
            return self.default or "false"
        return self.default

    def refuses(self, text: str) -> bool:
        """Whether the value, as text, asks for a part that does not exist."""
        return bool(self.needs) and text not in (self.default_text, "", *self.works)


_ETCD = "embedded etcd is not there yet; leave the option out to use SQLite, or name a database with --datastore-endpoint"
_S3 = "snapshots to S3 are not there yet, because embedded etcd is not"
_JOIN = "joining another server is not there yet; leave the option out to run a single-server cluster"
_FLANNEL = "networking between nodes is not there yet; a single node needs no setting"
_VPN = "VPN integration is not there yet; join the VPN yourself and give its address with --node-ip"
_HELM = "the Helm controller is not there yet; install charts with the helm command"
_PORTS = "one port serves supervisor and API; choose it with --https-listen-port"
_SPLIT = "servers with only a part of the control plane are not there yet"
_ENCRYPT = "encryption of Secrets at rest is not there yet; protect the disk that holds the data directory"
_CREDENTIAL_PROVIDER = "kubelet credential providers are not there yet; use imagePullSecrets"
_REGISTRY = "the embedded registry mirror is not there yet; put images into the data directory's agent/images/"

GROUPS: dict[str, str] = {
    "config": "configuration and logging",
    "listener": "listener",
    "cluster": "cluster",
    "kubeconfig": "admin kubeconfig",
    "networking": "networking",
    "database": "datastore",
    "etcd": "embedded etcd and snapshots",
    "secrets": "secrets",
    "components": "components",
    "flags": "arguments of components",
    "node": "node",
    "runtime": "container runtime",
    "removed": "removed options",
}
"""Group key to heading, in the order help and man pages show them."""

_BUILT_IN_ADDONS = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes")

OPTIONS: tuple[Option, ...] = (
    # configuration and logging
    Option(
        "config",
        "file",
        "config",
        "read options from this YAML file and from the *.yaml files in the directory FILE.d",
        short="c",
        env="K3S_CONFIG_FILE",
        default=str(CONFIG_FILE),
        metavar="FILE",
    ),
    Option("debug", "bool", "config", "log in detail", env="K3S_DEBUG"),
    Option("v", "int", "config", "log verbosity as a number; 4 and more log in detail, like --debug", default="0", metavar="N"),
    Option(
        "vmodule",
        "string",
        "config",
        "log verbosity for single source files",
        metavar="PATTERN=N,...",
        needs="log levels for single modules are not there; use --debug",
    ),
    Option(
        "log",
        "file",
        "config",
        "log to this file",
        short="l",
        metavar="FILE",
        needs="logs go to standard error, which systemd keeps in the journal; redirect standard error instead",
    ),
    Option(
        "alsologtostderr",
        "bool",
        "config",
        "log to standard error as well as to a file",
        needs="logs always go to standard error; leave the option out",
    ),
    # listener
    Option(
        "bind-address",
        "string",
        "listener",
        "address to listen on (default: 0.0.0.0, or :: where the first node address is IPv6)",
        metavar="ADDRESS",
    ),
    Option(
        "https-listen-port",
        "int",
        "listener",
        "port of the Kubernetes API and the supervisor",
        SERVER,
        default="6443",
        metavar="PORT",
    ),
    Option(
        "supervisor-port",
        "int",
        "listener",
        "separate port of the supervisor",
        SERVER,
        default="0",
        metavar="PORT",
        hidden=True,
        needs=_PORTS,
    ),
    Option(
        "apiserver-port",
        "int",
        "listener",
        "separate port of the Kubernetes API",
        SERVER,
        default="0",
        metavar="PORT",
        hidden=True,
        needs=_PORTS,
    ),
    Option(
        "apiserver-bind-address",
        "string",
        "listener",
        "separate address of the Kubernetes API",
        SERVER,
        metavar="ADDRESS",
        hidden=True,
        needs="the API listens where the supervisor listens; choose the address with --bind-address",
    ),
    Option(
        "advertise-address",
        "string",
        "listener",
        "address that pods use to reach the API (default: the first of node-external-ip, else of node-ip)",
        SERVER,
        metavar="ADDRESS",
    ),
    Option(
        "advertise-port",
        "int",
        "listener",
        "port that pods use to reach the API (default: https-listen-port)",
        SERVER,
        default="0",
        metavar="PORT",
    ),
    Option(
        "tls-san", "list", "listener", "further host names and addresses for the server certificate", SERVER, metavar="NAME"
    ),
    Option(
        "tls-san-security",
        "bool",
        "listener",
        "never add names that a client merely asks for to the server certificate",
        SERVER,
        default="true",
        needs="adding names to the certificate on demand is not there; list them with --tls-san",
    ),
    # cluster
    Option(
        "data-dir",
        "file",
        "cluster",
        "directory that holds all state",
        short="d",
        env="K3S_DATA_DIR",
        default=str(DEFAULT_DATA_DIR),
        metavar="DIR",
    ),
    Option(
        "token",
        "string",
        "cluster",
        "shared secret for joining nodes (default: the one in <data>/server/token, made at first start)",
        short="t",
        env="K3S_TOKEN",
        metavar="TOKEN",
        secret=True,
    ),
    Option("token-file", "file", "cluster", "file that holds the token", env="K3S_TOKEN_FILE", metavar="FILE"),
    Option(
        "agent-token",
        "string",
        "cluster",
        "shared secret for joining agents, but not servers (default: the token)",
        SERVER,
        env="K3S_AGENT_TOKEN",
        metavar="TOKEN",
        secret=True,
    ),
    Option(
        "agent-token-file",
        "file",
        "cluster",
        "file that holds the agent token",
        SERVER,
        env="K3S_AGENT_TOKEN_FILE",
        metavar="FILE",
    ),
    Option("server", "string", "cluster", "URL of the server to join", short="s", env="K3S_URL", metavar="URL", needs=_JOIN),
    Option(
        "cluster-init", "bool", "cluster", "start a new cluster with embedded etcd", SERVER, env="K3S_CLUSTER_INIT", needs=_ETCD
    ),
    Option(
        "cluster-reset",
        "bool",
        "cluster",
        "make this server the only member of the etcd cluster",
        SERVER,
        env="K3S_CLUSTER_RESET",
        needs=_ETCD,
    ),
    Option(
        "cluster-reset-restore-path",
        "file",
        "cluster",
        "snapshot to restore when resetting",
        SERVER,
        metavar="FILE",
        needs=_ETCD,
    ),
    # admin kubeconfig
    Option(
        "write-kubeconfig",
        "file",
        "kubeconfig",
        "write the admin's kubeconfig to this file (default: /etc/rancher/k3s/k3s.yaml)",
        SERVER,
        short="o",
        env="K3S_KUBECONFIG_OUTPUT",
        metavar="FILE",
    ),
    Option(
        "write-kubeconfig-mode",
        "string",
        "kubeconfig",
        "mode of the kubeconfig, octal",
        SERVER,
        env="K3S_KUBECONFIG_MODE",
        default="600",
        metavar="MODE",
    ),
    Option(
        "write-kubeconfig-group",
        "string",
        "kubeconfig",
        "group that owns the kubeconfig",
        SERVER,
        env="K3S_KUBECONFIG_GROUP",
        metavar="GROUP",
    ),
    Option(
        "write-kubeconfig-name",
        "string",
        "kubeconfig",
        "name of cluster, user and context inside the kubeconfig",
        SERVER,
        default="default",
        metavar="NAME",
        needs="the names inside the kubeconfig are always default; rename a copy with kubectl config rename-context",
    ),
    # networking
    Option("cluster-cidr", "list", "networking", "network of the pods (default: 10.42.0.0/16)", SERVER, metavar="CIDR"),
    Option("service-cidr", "list", "networking", "network of the services (default: 10.43.0.0/16)", SERVER, metavar="CIDR"),
    Option(
        "service-node-port-range",
        "string",
        "networking",
        "ports reserved for services of type NodePort",
        SERVER,
        default="30000-32767",
        metavar="FROM-TO",
    ),
    Option(
        "cluster-dns",
        "list",
        "networking",
        "address of the cluster's DNS (default: the tenth address of service-cidr)",
        SERVER,
        metavar="ADDRESS",
    ),
    Option(
        "cluster-domain", "string", "networking", "DNS domain of the cluster", SERVER, default="cluster.local", metavar="DOMAIN"
    ),
    Option(
        "flannel-backend",
        "string",
        "networking",
        "how pod traffic crosses nodes; none: bring another CNI plugin",
        SERVER,
        default="vxlan",
        choices=("none", "vxlan", "host-gw", "wireguard-native"),
        needs="other networks than k3sd's own are not there yet",
        works=("host-gw",),
    ),
    Option(
        "flannel-ipv6-masq",
        "bool",
        "networking",
        "masquerade IPv6 traffic of pods",
        SERVER,
        needs="IPv6 for pods and services is not there yet",
    ),
    Option(
        "flannel-external-ip", "bool", "networking", "use external addresses for traffic between nodes", SERVER, needs=_FLANNEL
    ),
    Option(
        "egress-selector-mode",
        "string",
        "networking",
        "how the API server reaches kubelets and pods",
        SERVER,
        default="agent",
        choices=("agent", "cluster", "pod", "disabled"),
        needs="the tunnel to agents is not there yet; a single server needs none",
        works=("disabled",),
    ),
    Option(
        "servicelb-namespace",
        "string",
        "networking",
        "namespace of the ServiceLB pods",
        SERVER,
        default="kube-system",
        metavar="NAMESPACE",
        needs="ServiceLB is not there yet",
    ),
    Option(
        "node-ip",
        "list",
        "networking",
        "address of this node (default: the one used for the default route)",
        short="i",
        metavar="ADDRESS",
    ),
    Option("node-external-ip", "list", "networking", "address of this node as seen from outside", metavar="ADDRESS"),
    Option(
        "node-internal-dns",
        "list",
        "networking",
        "internal DNS name published in the node's addresses",
        metavar="NAME",
        needs="DNS names among the node's addresses are not there yet; leave the option out",
    ),
    Option(
        "node-external-dns",
        "list",
        "networking",
        "external DNS name published in the node's addresses",
        metavar="NAME",
        needs="DNS names among the node's addresses are not there yet; leave the option out",
    ),
    Option(
        "resolv-conf",
        "file",
        "networking",
        "resolv.conf whose name servers pods and the cluster DNS use (default: the host's)",
        env="K3S_RESOLV_CONF",
        metavar="FILE",
    ),
    Option(
        "flannel-iface",
        "string",
        "networking",
        "interface whose address is the node's, unless --node-ip is given",
        metavar="INTERFACE",
    ),
    Option("flannel-conf", "file", "networking", "replace the generated flannel configuration", metavar="FILE", needs=_FLANNEL),
    Option(
        "flannel-cni-conf",
        "file",
        "networking",
        "replace the generated CNI configuration",
        metavar="FILE",
        needs="replacing the CNI configuration is not there yet; leave the option out",
    ),
    Option(
        "vpn-auth",
        "string",
        "networking",
        "VPN provider and its key",
        env="K3S_VPN_AUTH",
        metavar="KEY=VALUE,...",
        secret=True,
        experimental=True,
        needs=_VPN,
    ),
    Option(
        "vpn-auth-file",
        "file",
        "networking",
        "file that holds the VPN provider and its key",
        env="K3S_VPN_AUTH_FILE",
        metavar="FILE",
        experimental=True,
        needs=_VPN,
    ),
    # datastore
    Option(
        "datastore-endpoint",
        "string",
        "database",
        "database that holds the cluster (default: SQLite in the data directory)",
        SERVER,
        env="K3S_DATASTORE_ENDPOINT",
        metavar="URL",
        secret=True,
    ),
    Option(
        "datastore-cafile",
        "file",
        "database",
        "CA that signed the database's certificate",
        SERVER,
        env="K3S_DATASTORE_CAFILE",
        metavar="FILE",
    ),
    Option(
        "datastore-certfile",
        "file",
        "database",
        "client certificate for the database",
        SERVER,
        env="K3S_DATASTORE_CERTFILE",
        metavar="FILE",
    ),
    Option(
        "datastore-keyfile",
        "file",
        "database",
        "key of the client certificate for the database",
        SERVER,
        env="K3S_DATASTORE_KEYFILE",
        metavar="FILE",
    ),
    Option(
        "kine-tls",
        "bool",
        "database",
        "TLS on kine's socket",
        SERVER,
        hidden=True,
        experimental=True,
        needs="there is no kine socket to protect: the API server reads the datastore directly",
    ),
    # embedded etcd and snapshots
    Option("etcd-expose-metrics", "bool", "etcd", "serve etcd's metrics on the client address", SERVER, needs=_ETCD),
    Option("etcd-disable-snapshots", "bool", "etcd", "make no scheduled snapshots", SERVER, needs=_ETCD),
    Option(
        "etcd-snapshot-name",
        "string",
        "etcd",
        "base name of snapshots",
        SERVER,
        default="etcd-snapshot",
        metavar="NAME",
        needs=_ETCD,
    ),
    Option(
        "etcd-snapshot-schedule-cron",
        "string",
        "etcd",
        "when to make snapshots, in cron's form and local time",
        SERVER,
        default="0 */12 * * *",
        metavar="CRON",
        needs=_ETCD,
    ),
    Option(
        "etcd-snapshot-reconcile-interval",
        "duration",
        "etcd",
        "how often snapshots are compared with their records",
        SERVER,
        default="10m",
        metavar="DURATION",
        needs=_ETCD,
    ),
    Option("etcd-snapshot-retention", "int", "etcd", "snapshots to keep", SERVER, default="5", metavar="N", needs=_ETCD),
    Option(
        "etcd-snapshot-dir",
        "file",
        "etcd",
        "directory of snapshots (default: <data>/server/db/snapshots)",
        SERVER,
        metavar="DIR",
        needs=_ETCD,
    ),
    Option("etcd-snapshot-compress", "bool", "etcd", "compress snapshots", SERVER, needs=_ETCD),
    Option(
        "etcd-snapshot-restrictions",
        "list",
        "etcd",
        "options that a request for a snapshot may not set",
        SERVER,
        metavar="OPTION",
        needs=_ETCD,
    ),
    Option("etcd-s3", "bool", "etcd", "copy snapshots to S3", SERVER, needs=_S3),
    Option("etcd-s3-endpoint", "string", "etcd", "S3 endpoint", SERVER, default="s3.amazonaws.com", metavar="HOST", needs=_S3),
    Option("etcd-s3-endpoint-ca", "file", "etcd", "CA of the S3 endpoint", SERVER, metavar="FILE", needs=_S3),
    Option("etcd-s3-skip-ssl-verify", "bool", "etcd", "do not verify the S3 endpoint's certificate", SERVER, needs=_S3),
    Option(
        "etcd-s3-access-key",
        "string",
        "etcd",
        "S3 access key",
        SERVER,
        env="AWS_ACCESS_KEY_ID",
        metavar="KEY",
        secret=True,
        needs=_S3,
    ),
    Option(
        "etcd-s3-secret-key",
        "string",
        "etcd",
        "S3 secret key",
        SERVER,
        env="AWS_SECRET_ACCESS_KEY",
        metavar="KEY",
        secret=True,
        needs=_S3,
    ),
    Option(
        "etcd-s3-session-token",
        "string",
        "etcd",
        "S3 session token",
        SERVER,
        env="AWS_SESSION_TOKEN",
        metavar="TOKEN",
        secret=True,
        needs=_S3,
    ),
    Option("etcd-s3-bucket", "string", "etcd", "S3 bucket", SERVER, metavar="NAME", needs=_S3),
    Option(
        "etcd-s3-bucket-lookup-type",
        "string",
        "etcd",
        "how the bucket is addressed",
        SERVER,
        default="auto",
        choices=("auto", "dns", "path"),
        needs=_S3,
    ),
    Option("etcd-s3-region", "string", "etcd", "S3 region", SERVER, default="us-east-1", metavar="REGION", needs=_S3),
    Option("etcd-s3-folder", "string", "etcd", "folder in the bucket", SERVER, metavar="PATH", needs=_S3),
    Option("etcd-s3-retention", "int", "etcd", "snapshots to keep in S3", SERVER, default="5", metavar="N", needs=_S3),
    Option("etcd-s3-proxy", "string", "etcd", "proxy on the way to S3", SERVER, metavar="URL", needs=_S3),
    Option(
        "etcd-s3-config-secret",
        "string",
        "etcd",
        "Secret in kube-system that holds the S3 options",
        SERVER,
        metavar="NAME",
        needs=_S3,
    ),
    Option("etcd-s3-insecure", "bool", "etcd", "talk to S3 over plain HTTP", SERVER, needs=_S3),
    Option(
        "etcd-s3-timeout",
        "duration",
        "etcd",
        "time limit of an S3 operation",
        SERVER,
        default="5m",
        metavar="DURATION",
        needs=_S3,
    ),
    # secrets
    Option("secrets-encryption", "bool", "secrets", "encrypt Secrets in the datastore", SERVER, needs=_ENCRYPT),
    Option(
        "secrets-encryption-provider",
        "string",
        "secrets",
        "cipher that encrypts Secrets",
        SERVER,
        default="aescbc",
        choices=("aescbc", "secretbox"),
        experimental=True,
        needs=_ENCRYPT,
    ),
    # components
    Option(
        "disable",
        "list",
        "components",
        f"parts to leave out: {', '.join(_BUILT_IN_ADDONS)}, or the name of a file in <data>/server/manifests",
        SERVER,
        metavar="NAME",
    ),
    Option(
        "disable-scheduler",
        "bool",
        "components",
        "run no scheduler",
        SERVER,
        needs="running without the scheduler is not there yet",
    ),
    Option("disable-cloud-controller", "bool", "components", "run no cloud controller (k3sd has none to run)", SERVER),
    Option("disable-kube-proxy", "bool", "components", "run no service proxy", SERVER),
    Option(
        "disable-network-policy", "bool", "components", "enforce no network policies (k3sd does not enforce them yet)", SERVER
    ),
    Option("disable-helm-controller", "bool", "components", "run no Helm controller (k3sd has none to run)", SERVER),
    Option(
        "disable-apiserver", "bool", "components", "run no API server", SERVER, hidden=True, experimental=True, needs=_SPLIT
    ),
    Option(
        "disable-controller-manager",
        "bool",
        "components",
        "run no controllers",
        SERVER,
        hidden=True,
        experimental=True,
        needs=_SPLIT,
    ),
    Option("disable-etcd", "bool", "components", "run no etcd", SERVER, hidden=True, experimental=True, needs=_SPLIT),
    Option("disable-agent", "bool", "components", "run no pods on this server", SERVER, hidden=True, experimental=True),
    Option("embedded-registry", "bool", "components", "share images between nodes", SERVER, needs=_REGISTRY),
    Option(
        "supervisor-metrics",
        "bool",
        "components",
        "serve metrics on the supervisor's port",
        SERVER,
        experimental=True,
        needs="the supervisor has no metrics of its own yet; the API server's are at /metrics",
    ),
    Option(
        "helm-job-image", "string", "components", "image of the jobs that install charts", SERVER, metavar="IMAGE", needs=_HELM
    ),
    Option(
        "default-local-storage-path",
        "file",
        "components",
        "directory of local-path volumes (default: <data>/storage)",
        SERVER,
        metavar="DIR",
        needs="the local-path provisioner is not there yet; use hostPath volumes",
    ),
    Option(
        "system-default-registry",
        "string",
        "components",
        "registry that system images are named after",
        SERVER,
        env="K3S_SYSTEM_DEFAULT_REGISTRY",
        metavar="HOST",
    ),
    Option(
        "enable-pprof",
        "bool",
        "components",
        "serve profiles on the supervisor's port",
        experimental=True,
        needs="profiles are not there yet",
    ),
    Option(
        "rootless",
        "bool",
        "components",
        "run as an ordinary user",
        experimental=True,
        needs="running without root is not there yet; start k3sd as root",
    ),
    Option(
        "prefer-bundled-bin",
        "bool",
        "components",
        "prefer bundled programs over the host's",
        experimental=True,
        needs="k3sd bundles no programs; it uses the distribution's",
    ),
    # arguments of components
    Option(
        "kube-apiserver-arg",
        "list",
        "flags",
        "argument for the API server, without dashes",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
    ),
    Option(
        "etcd-arg", "list", "flags", "argument for etcd, without dashes", SERVER, metavar="KEY=VALUE", commas=False, needs=_ETCD
    ),
    Option(
        "kube-controller-manager-arg",
        "list",
        "flags",
        "argument for the controllers, without dashes",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
    ),
    Option(
        "kube-scheduler-arg",
        "list",
        "flags",
        "argument for the scheduler, without dashes",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
    ),
    Option(
        "kube-cloud-controller-manager-arg",
        "list",
        "flags",
        "argument for the cloud controller, without dashes",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
        needs="there is no cloud controller",
    ),
    Option(
        "kube-controller-arg",
        "list",
        "flags",
        "old name of kube-controller-manager-arg",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
        hidden=True,
        deprecated="write kube-controller-manager-arg",
    ),
    Option(
        "kube-cloud-controller-arg",
        "list",
        "flags",
        "old name of kube-cloud-controller-manager-arg",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
        hidden=True,
        deprecated="write kube-cloud-controller-manager-arg",
        needs="there is no cloud controller",
    ),
    Option(
        "helm-controller-arg",
        "list",
        "flags",
        "argument for the Helm controller, without dashes",
        SERVER,
        metavar="KEY=VALUE",
        commas=False,
        needs=_HELM,
    ),
    Option("kubelet-arg", "list", "flags", "argument for the kubelet, without dashes", metavar="KEY=VALUE", commas=False),
    Option(
        "kube-proxy-arg", "list", "flags", "argument for the service proxy, without dashes", metavar="KEY=VALUE", commas=False
    ),
    # node
    Option("node-name", "string", "node", "name of this node (default: the host name)", env="K3S_NODE_NAME", metavar="NAME"),
    Option(
        "with-node-id",
        "bool",
        "node",
        "append an id made at first start to the node's name",
        needs="node ids are not there yet; choose the name with --node-name",
    ),
    Option("node-label", "list", "node", "label of this node, kept in sync", metavar="KEY=VALUE"),
    Option("node-taint", "list", "node", "taint of this node, set when it registers", metavar="KEY=VALUE:EFFECT"),
    Option(
        "selinux",
        "bool",
        "node",
        "label containers for SELinux",
        env="K3S_SELINUX",
        needs="SELinux labels for containers are not there yet",
    ),
    Option(
        "lb-server-port",
        "int",
        "node",
        "local port of the load balancer over servers",
        env="K3S_LB_SERVER_PORT",
        default="6444",
        metavar="PORT",
        needs="the load balancer over servers is not there yet; a single server needs none",
    ),
    Option("protect-kernel-defaults", "bool", "node", "refuse to start rather than change kernel settings"),
    Option("disable-apiserver-lb", "bool", "node", "use no load balancer over servers", AGENT, experimental=True),
    Option(
        "image-credential-provider-bin-dir",
        "file",
        "node",
        "directory of credential provider plugins",
        default="/var/lib/rancher/credentialprovider/bin",
        metavar="DIR",
        needs=_CREDENTIAL_PROVIDER,
    ),
    Option(
        "image-credential-provider-config",
        "file",
        "node",
        "configuration of credential provider plugins",
        default="/var/lib/rancher/credentialprovider/config.yaml",
        metavar="FILE",
        needs=_CREDENTIAL_PROVIDER,
    ),
    # container runtime
    Option(
        "container-runtime-endpoint",
        "string",
        "runtime",
        "socket of a CRI runtime to use instead of containerd",
        metavar="SOCKET",
    ),
    Option(
        "image-service-endpoint",
        "string",
        "runtime",
        "socket of a CRI image service",
        metavar="SOCKET",
        experimental=True,
        needs="a separate image service is not there yet; images come from the runtime",
    ),
    Option("default-runtime", "string", "runtime", "runtime of containers that name none", default="runc", metavar="NAME"),
    Option(
        "disable-default-registry-endpoint",
        "bool",
        "runtime",
        "never ask an image's own registry where a mirror is configured",
        needs="turning the default endpoint off is not there yet; block it in the firewall",
    ),
    Option(
        "nonroot-devices",
        "bool",
        "runtime",
        "give devices to the container's user",
        needs="device ownership by container user is not there yet",
    ),
    Option(
        "pause-image",
        "string",
        "runtime",
        "image that holds a pod's namespaces, made locally",
        default="rancher/mirrored-pause:3.6",
        metavar="IMAGE",
    ),
    Option(
        "snapshotter",
        "string",
        "runtime",
        "how image layers are stacked",
        default="overlayfs",
        choices=("overlayfs", "native", "btrfs", "zfs", "fuse-overlayfs", "stargz"),
        needs="this snapshotter is a program that Debian does not ship; use overlayfs or native",
        works=("native", "btrfs", "zfs"),
    ),
    Option(
        "private-registry",
        "file",
        "runtime",
        "registry mirrors and credentials",
        default=str(REGISTRIES_FILE),
        metavar="FILE",
        needs="another file than the default is not there yet; put mirrors and credentials there",
    ),
    Option(
        "airgap-extra-registry",
        "list",
        "runtime",
        "registries whose names imported images get as well",
        metavar="HOST",
        hidden=True,
        needs=_REGISTRY,
    ),
    Option(
        "docker",
        "bool",
        "runtime",
        "use Docker instead of containerd",
        experimental=True,
        needs="Docker as the runtime is not there; leave the option out to use containerd",
    ),
    # removed
    Option("no-deploy", "list", "removed", "", SERVER, hidden=True, removed="write disable"),
    Option(
        "cluster-secret", "string", "removed", "", env="K3S_CLUSTER_SECRET", hidden=True, secret=True, removed="write token"
    ),
    Option("no-flannel", "bool", "removed", "", hidden=True, removed="write flannel-backend: none"),
    Option("disable-selinux", "bool", "removed", "", hidden=True, removed="leave the option out; SELinux labels are off"),
    Option("multi-cluster-cidr", "bool", "removed", "", SERVER, hidden=True, removed="leave the option out"),
)

BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}
BY_SHORT: dict[str, Option] = {option.short: option for option in OPTIONS if option.short}


def options_for(role: Role) -> tuple[Option, ...]:
    """The options a role knows, in the order of the table."""
    return tuple(option for option in OPTIONS if role in option.roles)


def visible_groups(role: Role) -> list[tuple[str, list[Option]]]:
    """``(heading, options)`` for help and man pages, without hidden options and empty groups."""
    found = [
        (heading, [o for o in OPTIONS if o.group == key and role in o.roles and not o.hidden])
        for key, heading in GROUPS.items()
    ]
    return [(heading, options) for heading, options in found if options]
