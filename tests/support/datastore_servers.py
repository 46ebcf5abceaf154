"""Real database servers in temporary directories, on unix sockets or loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_port

START_SECONDS = 60


@dataclass
class Server:
    """A running server. ``endpoint`` has ``{db}`` where a database name goes, where databases have names."""

    endpoint: str
    directory: Path
    command: Sequence[str]
    user: str
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                as_user(self.user, self.command),
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )

    def revive(self) -> None:
        """Start it again until it stays: what it needs, such as its port, may be taken for a moment."""
        for _ in range(20):
            self.start()
            assert self.process is not None
            try:
                self.process.wait(0.7)
            except subprocess.TimeoutExpired:
                return
        raise AssertionError(f"{self.command[0]} does not stay up:\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """Everything it started, at once, as a power cut would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")


def as_user(user: str, command: Sequence[str]) -> list[str]:
    """``command`` under that user where we are root, ended by the kernel when a test run is killed."""
    identity: list[str] = []
    if os.geteuid() == 0 and user:
        entry = pwd.getpwnam(user)
        identity = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return ["setpriv", *identity, "--pdeathsig=KILL", *command]


def program(name: str, *places: str) -> str:
    """Its path; skips the test where it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def wait_until(server: Server, ready: Sequence[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(as_user(server.user, ready), capture_output=True, check=False).returncode:
        assert server.process is not None
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{server.command[0]} did not start:\n{server.log()[-3000:]}")
        time.sleep(0.05)


@contextmanager
def directory_for(user: str) -> Iterator[Path]:
    """Short (for unix sockets) and owned by ``user``."""
    path = Path(tempfile.mkdtemp(prefix="k3sd-"))
    if os.geteuid() == 0 and user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(server: Server, ready: Sequence[str]) -> Iterator[Server]:
    server.start()
    try:
        wait_until(server, ready)
        yield server
    finally:
        server.kill()


@contextmanager
def postgres() -> Iterator[Server]:
    places = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb, binary, ready = (program(n, *places) for n in ("initdb", "postgres", "pg_isready"))
    with directory_for("postgres") as path:
        data = path / "data"
        subprocess.run(
            as_user("postgres", [initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "-N", "--locale=C.UTF-8"]),
            check=True,
            capture_output=True,
        )
        command = [binary, "-D", str(data), "-k", str(path), "-c", "listen_addresses=", "-c", "max_connections=200"]
        command += ["-c", "recovery_init_sync_method=syncfs"]  # quick recovery although every test has a database
        server = Server(f"postgres://postgres@/{{db}}?host={path}", path, command, "postgres")
        with running(server, [ready, "-h", str(path)]):
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    install, binary, admin = program("mariadb-install-db"), program("mariadbd"), program("mariadb-admin")
    with directory_for("mysql") as path:
        data = path / "data"
        subprocess.run(
            as_user("mysql", [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]),
            check=True,
            capture_output=True,
        )
        command = [
            binary,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={path}/sock",
            "--skip-networking",
            f"--pid-file={path}/pid",
        ]
        server = Server(f"mysql://root@unix({path}/sock)/{{db}}", path, command, "mysql")
        with running(server, [admin, "--no-defaults", f"--socket={path}/sock", "-u", "root", "ping"]):
            yield server


def etcd_member(name: str, path: Path, client: str, peer: str, cluster: str) -> Server:
    command = [program("etcd"), f"--name={name}", f"--data-dir={path}/data", f"--listen-client-urls={client}"]
    command += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    command += [f"--initial-cluster={cluster}", "--max-request-bytes=16777216", "--log-level=warn"]
    return Server(client, path, command, "")


def etcd_ready(*clients: str) -> list[str]:
    return ["env", "ETCDCTL_API=3", program("etcdctl"), f"--endpoints={','.join(clients)}", "endpoint", "health"]


@contextmanager
def etcd() -> Iterator[Server]:
    """Its ports are chosen before it takes them; who finds one taken chooses again."""
    with ExitStack() as stack:
        for last in (False, False, True):
            path = stack.enter_context(directory_for(""))
            client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
            server = etcd_member("default", path, client, peer, f"default={peer}")
            try:
                stack.enter_context(running(server, etcd_ready(client)))
                break
            except AssertionError:
                if last or "address already in use" not in server.log():
                    raise
        yield server


@contextmanager
def etcd_cluster(members: int = 3) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        paths = [stack.enter_context(directory_for("")) for _ in range(members)]
        clients, peers = ([f"http://127.0.0.1:{free_port()}" for _ in range(members)] for _ in range(2))
        cluster = ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))
        servers = [etcd_member(f"m{i}", paths[i], clients[i], peers[i], cluster) for i in range(members)]
        for server in servers:
            server.start()
            stack.callback(server.kill)
        wait_until(servers[0], etcd_ready(*clients))
        yield servers


SERVERS = {"postgres": postgres, "mariadb": mariadb, "etcd": etcd}
