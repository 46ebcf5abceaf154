"""TLS to every database server, with everything that can be wrong about it: one clear error each, at once."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from datastore_certificates import authority

from k3sd.datastore import migrate, open_backend
from k3sd.datastore.backend import Backend, DatastoreError
from k3sd.datastore.backup import backup, check
from k3sd.datastore.endpoint import TLS
from tests.support.datastore_servers import SERVERS, Server, as_user, directory_for, program, running
from tests.support.ports import free_port

DRIVERS = ["postgres", "mariadb", "etcd"]
PASSWORD = "right-and-secret"


@contextmanager
def sql_over_tls(driver: str, certificates: Path) -> Iterator[str]:
    """The endpoint of a server on loopback that wants TLS, a client certificate and a password."""
    with SERVERS[driver]() as plain:
        where = plain.directory
        if driver == "mariadb":
            user = "k3s@localhost"
            statement = f"CREATE USER {user} IDENTIFIED BY '{PASSWORD}' REQUIRE X509; GRANT ALL ON *.* TO {user}"
            client = [program("mariadb"), "--no-defaults", f"--socket={where}/sock", "-u", "root", "-e", statement]
        else:
            statement = f"CREATE USER k3s SUPERUSER PASSWORD '{PASSWORD}'"
            client = [program("psql"), "-h", str(where), "-U", "postgres", "-c", statement]
        subprocess.run(as_user(plain.user, client), check=True, capture_output=True)
        plain.kill()
        for name in ("server.crt", "server.key", "server-ca.crt"):
            shutil.copy(certificates / name, where)
            if os.geteuid() == 0:
                entry = pwd.getpwnam(plain.user)
                os.chown(where / name, entry.pw_uid, entry.pw_gid)
            (where / name).chmod(0o600)
        port = free_port()
        command = list(plain.command)
        if driver == "postgres":
            (where / "data" / "postmaster.pid").unlink(missing_ok=True)
            (where / "data" / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n")
            command[command.index("listen_addresses=")] = "listen_addresses=127.0.0.1"
            command += ["-c", f"port={port}", "-c", "ssl=on", "-c", f"ssl_cert_file={where}/server.crt"]
            command += ["-c", f"ssl_key_file={where}/server.key", "-c", f"ssl_ca_file={where}/server-ca.crt"]
            ready = [str(Path(command[0]).with_name("pg_isready")), "-h", "127.0.0.1", "-p", str(port)]
            endpoint = f"postgres://k3s:{PASSWORD}@127.0.0.1:{port}/k3s"
        else:
            command.remove("--skip-networking")
            command += [f"--port={port}", "--bind-address=127.0.0.1", f"--ssl-cert={where}/server.crt"]
            command += [f"--ssl-key={where}/server.key", f"--ssl-ca={where}/server-ca.crt", "--require-secure-transport=ON"]
            ready = ["mariadb-admin", "--no-defaults", f"--socket={where}/sock", "-u", "root", "ping"]
            endpoint = f"mysql://k3s:{PASSWORD}@tcp(127.0.0.1:{port})/k3s"
        with running(Server(endpoint, where, command, plain.user), ready):
            yield endpoint


@contextmanager
def etcd_over_tls(certificates: Path) -> Iterator[str]:
    ctl = program("etcdctl")
    with directory_for("") as path:
        client, peer = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        cert, key, ca = (str(certificates / n) for n in ("server.crt", "server.key", "server-ca.crt"))
        command = [program("etcd"), f"--data-dir={path}/data", f"--listen-client-urls={client}", "--client-cert-auth"]
        command += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster=default={peer}", f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}"]
        ready = ["env", "ETCDCTL_API=3", ctl, f"--endpoints={client}", f"--cacert={ca}", f"--cert={cert}", f"--key={key}"]
        with running(Server(client, path, command, ""), [*ready, "endpoint", "health"]):
            yield client


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority(directory, "server")
    authority(directory, "other")
    for key in directory.glob("*.key"):
        key.chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def over_tls(certificates: Path) -> Iterator[Callable[[str], str]]:
    """``endpoint(driver)`` starts the server on first use."""
    running_servers: dict[str, str] = {}
    with ExitStack() as stack:

        def endpoint(driver: str) -> str:
            if driver not in running_servers:
                server = etcd_over_tls(certificates) if driver == "etcd" else sql_over_tls(driver, certificates)
                running_servers[driver] = stack.enter_context(server)
            return running_servers[driver]

        yield endpoint


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def files(certificates: Path, ca: str, cert: str, key: str = "") -> TLS:
    """``ca`` and ``cert`` name an authority; a text with a slash is a file, an empty one is not given."""

    def path(name: str, suffix: str) -> str:
        return name if "/" in name or not name else str(certificates / f"{name}{suffix}")

    return TLS(path(ca, "-ca.crt"), path(cert, ".crt"), path(key or cert, ".key"))


def store(endpoint: str, tls: TLS, data_dir: Path) -> Backend:
    """One with K3s's patience: an error that is final must not use it up."""
    return open_backend(endpoint, data_dir=data_dir, cafile=tls.cafile, certfile=tls.certfile, keyfile=tls.keyfile)


async def refusal(endpoint: str, tls: TLS, data_dir: Path) -> str:
    async with asyncio.timeout(20):
        with pytest.raises(DatastoreError) as failed:
            await store(endpoint, tls, data_dir).start()
    text = str(failed.value)
    assert PASSWORD not in text and "\n" not in text and ("127.0.0.1" in text or "localhost" in text or "datastore-" in text)
    return text


async def test_the_right_files_work(driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path) -> None:
    tls = files(certificates, "server", "server")
    good = store(over_tls(driver), tls, tmp_path)
    await good.start()
    await good.create("/registry/x/a", b"1")
    assert (await good.list("/registry/x/", "/registry/x0")).count == 1
    await good.stop()
    saved = await backup(over_tls(driver), tmp_path / "saved", data_dir=tmp_path, tls=tls)
    assert saved.size > 0
    assert not (await check(over_tls(driver), data_dir=tmp_path, tls=tls)).problems
    target = f"sqlite://{tmp_path}/moved.db"
    assert (await migrate.migrate(over_tls(driver), target, data_dir=tmp_path, source_tls=tls)).keys == 1


WRONG = {
    "another authority": (
        "other",
        "server",
        r"(?i)certificate is not accepted|certificate verify failed|self.signed certificate",
    ),
    "no client certificate": ("server", "", r"(?i)certificate|Access denied for user 'k3s'"),
    "a client certificate of another authority": ("server", "other", r"(?i)certificate|unknown ca|Access denied|TLS/SSL error"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_certificates(
    case: str, driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path
) -> None:
    ca, cert, message = WRONG[case]
    text = await refusal(over_tls(driver), files(certificates, ca, cert), tmp_path)
    assert re.search(message, text), text
    if "Access denied" not in text:
        assert "--datastore-c" in text, text


async def test_a_certificate_for_another_host(
    driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path
) -> None:
    endpoint = over_tls(driver).replace("127.0.0.1", "localhost")
    text = await refusal(endpoint, files(certificates, "server", "server"), tmp_path)
    assert "localhost" in text and "certificate" in text.lower()


@pytest.mark.parametrize("which", ["cafile", "certfile", "keyfile"])
async def test_a_file_that_does_not_exist(
    which: str, driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path
) -> None:
    tls = files(certificates, "server", "server")
    missing = str(tmp_path / "nothing.pem")
    text = await refusal(over_tls(driver), TLS(**{**{k: getattr(tls, k) for k in tls.__slots__}, which: missing}), tmp_path)
    assert missing in text and f"--datastore-{which}" in text


async def test_a_certificate_without_its_key(
    driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path
) -> None:
    tls = files(certificates, "server", "server")
    text = await refusal(over_tls(driver), TLS(tls.cafile, tls.certfile), tmp_path)
    assert "--datastore-keyfile" in text


@pytest.mark.parametrize("driver", ["postgres", "mariadb"])
async def test_a_wrong_password(driver: str, over_tls: Callable[[str], str], certificates: Path, tmp_path: Path) -> None:
    endpoint = over_tls(driver).replace(PASSWORD, "wrong-and-secret")
    text = await refusal(endpoint, files(certificates, "server", "server"), tmp_path)
    assert "wrong-and-secret" not in text and ("password authentication failed" in text or "Access denied" in text)


@pytest.mark.parametrize("driver", ["mariadb", "etcd"])
async def test_a_server_without_tls(
    driver: str, certificates: Path, tmp_path: Path, database_server: Callable[[str], Server | None]
) -> None:
    server = database_server(driver)
    assert server is not None
    endpoint = server.endpoint.format(db="k3s").replace("http://", "https://")
    async with asyncio.timeout(20):
        with pytest.raises(DatastoreError, match=r"TLS|SSL"):
            await store(endpoint, files(certificates, "server", "server"), tmp_path).start()


async def test_plain_text_to_an_etcd_with_tls(over_tls: Callable[[str], str], tmp_path: Path) -> None:
    text = await refusal(over_tls("etcd").replace("https://", "http://"), TLS(), tmp_path)
    assert "it speaks TLS; write https:// in the endpoint" in text


async def test_an_etcd_with_users(tmp_path: Path) -> None:
    ctl = program("etcdctl")
    with SERVERS["etcd"]() as server:
        for words in ("user add root:secret", "user grant-role root root", "auth enable"):
            done = ["env", "ETCDCTL_API=3", ctl, f"--endpoints={server.endpoint}", *words.split()]
            subprocess.run(done, check=True, capture_output=True)
        text = await refusal(server.endpoint, TLS(), tmp_path)
        assert "user name is empty" in text and "--datastore-certfile" in text
