"""A database that goes away and comes back, as clients of the API server see it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from datastore_harness import Harness

from k3sd.datastore import open_backend
from tests.support.apiserver import TOKEN, run_server

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


@pytest.mark.parametrize("harness", ["postgres", "mariadb", "etcd"], indirect=True)
async def test_readyz_says_why_and_requests_fail_cleanly(harness: Harness, tmp_path: Path) -> None:
    assert harness.server is not None
    await (await harness.open()).stop()
    backend = open_backend(harness.endpoint, data_dir=tmp_path, patience_seconds=5)
    async with run_server(tmp_path, backend=backend) as server:
        connector = aiohttp.TCPConnector(ssl=server.client_context())
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {TOKEN}"}) as session:

            async def ask(method: str, path: str, body: Any = None) -> tuple[int, str]:
                async with asyncio.timeout(20), session.request(method, server.url + path, json=body) as answer:
                    return answer.status, await answer.text()

            def configmap(name: str) -> dict[str, Any]:
                return {"metadata": {"name": name}, "data": {"k": "v" * 1000}}

            async def metric(name: str) -> float:
                _, text = await ask("GET", "/metrics")
                return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))

            assert (await ask("GET", "/readyz")) == (200, "ok")
            written = await metric("k3sd_datastore_bytes_total")
            assert (await ask("POST", CONFIGMAPS, configmap("before")))[0] == 201
            assert await metric("k3sd_datastore_bytes_total") > written + 1000

            harness.server.kill()
            try:
                status, text = await ask("POST", CONFIGMAPS, configmap("meanwhile"))
                assert status >= 500 and '"kind":"Status"' in text and "Traceback" not in text
                status, text = await ask("GET", "/readyz?verbose")
                assert status == 500 and "[-]etcd failed" in text and "[+]ping ok" in text
                status, text = await ask("GET", "/readyz/etcd")
                assert status == 500 and ("does not answer" in text or "was lost" in text), text
                assert (await ask("GET", "/livez/ping"))[0] == 200
            finally:
                harness.server.revive()

            async with asyncio.timeout(60):
                while (await ask("GET", "/readyz"))[0] != 200:  # noqa: ASYNC110 - a client has only this
                    await asyncio.sleep(0.2)
                while (await ask("POST", CONFIGMAPS, configmap("after")))[0] != 201:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            status, text = await ask("GET", CONFIGMAPS)
            assert status == 200 and '"before"' in text and '"after"' in text


async def test_what_reached_the_disk_is_counted() -> None:
    """Not below pytest's own directory, which may be in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="k3sd-") as folder:
        async with run_server(Path(folder), "sqlite") as server:
            connector = aiohttp.TCPConnector(ssl=server.client_context())
            async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {TOKEN}"}) as session:

                async def written() -> float:
                    async with session.get(server.url + "/metrics") as answer:
                        lines = (await answer.text()).splitlines()
                    return float(next(line.split()[1] for line in lines if line.startswith("k3sd_disk_written_bytes_total ")))

                before = await written()
                for i in range(20):
                    body = {"metadata": {"name": f"c{i}"}, "data": {"k": "v" * 10_000}}
                    async with session.post(server.url + CONFIGMAPS, json=body) as answer:
                        assert answer.status == 201
                assert await written() - before > 200_000
