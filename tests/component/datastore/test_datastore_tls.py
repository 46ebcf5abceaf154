"""PostgreSQL and MariaDB over TLS, with the right and the wrong authority."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datastore_certificates import authority
from datastore_servers import SERVERS, Server, free_port, running

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend, DatastoreError


@contextmanager
def over_tls(driver: str, certificates: Path) -> Iterator[str]:
    """The endpoint of a server that speaks TLS on loopback."""
    with SERVERS[driver]() as plain:
        plain.kill()
        for name in ("server.crt", "server.key", "server-ca.crt"):
            shutil.copy(certificates / name, plain.directory)
            if os.geteuid() == 0:
                entry = pwd.getpwnam(plain.user)
                os.chown(plain.directory / name, entry.pw_uid, entry.pw_gid)
            (plain.directory / name).chmod(0o600)
        port = free_port()
        command = list(plain.command)
        where = plain.directory
        if driver == "postgres":
            (where / "data" / "postmaster.pid").unlink(missing_ok=True)
            with open(where / "data" / "pg_hba.conf", "a") as rules:
                rules.write("hostssl all all 127.0.0.1/32 trust\n")
            command[command.index("listen_addresses=")] = "listen_addresses=127.0.0.1"
            command += ["-c", f"port={port}", "-c", "ssl=on", "-c", f"ssl_cert_file={where}/server.crt"]
            command += ["-c", f"ssl_key_file={where}/server.key"]
            ready = [str(Path(command[0]).with_name("pg_isready")), "-h", "127.0.0.1", "-p", str(port)]
            endpoint = f"postgres://postgres@127.0.0.1:{port}/k3s"
        else:
            command.remove("--skip-networking")
            command += [f"--port={port}", "--bind-address=127.0.0.1", f"--ssl-cert={where}/server.crt"]
            command += [f"--ssl-key={where}/server.key", f"--ssl-ca={where}/server-ca.crt", "--require-secure-transport=ON"]
            ready = ["mariadb-admin", "--no-defaults", f"--socket={where}/sock", "-u", "root", "ping"]
            endpoint = f"mysql://root@tcp(127.0.0.1:{port})/k3s"
        with running(Server(endpoint, where, command, plain.user), ready):
            yield endpoint


@pytest.mark.parametrize("driver", ["postgres", "mariadb"])
async def test_the_authority_decides(driver: str, tmp_path: Path) -> None:
    authority(tmp_path, "server")
    authority(tmp_path, "other")
    with over_tls(driver, tmp_path) as endpoint:

        def store(ca: str) -> Backend:
            return open_backend(endpoint, data_dir=tmp_path, cafile=str(tmp_path / f"{ca}-ca.crt"), patience_seconds=0)

        good = store("server")
        await good.start()
        await good.create("/registry/x/a", b"1")
        assert (await good.get("/registry/x/a"))[1] is not None
        await good.stop()
        with pytest.raises(DatastoreError, match=r"(?i)certificate"):
            await store("other").start()
        with pytest.raises(DatastoreError, match=r"(?i)certificate|SSL|TLS|No such file"):
            await store("missing").start()
