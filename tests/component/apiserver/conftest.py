"""A running API server for the component tests of ``k3sd.apiserver``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from k3sd.apis import resources
from tests.support.apiserver import TOKEN, TestServer, run_server


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    """On the memory store, with a ServiceAccount in the default namespace so that pods are admitted."""
    async with run_server(tmp_path) as running:
        await running.registry.client().create(
            resources.SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": "default"}}
        )
        yield running


class Http:
    """Requests as the administrator; answers are (status, headers, parsed body)."""

    def __init__(self, session: aiohttp.ClientSession, server: TestServer) -> None:
        self.session = session
        self.url = server.url

    async def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any, Any]:
        data = options.pop("data", None)
        async with self.session.request(
            method, self.url + path, json=body if data is None else None, data=data, headers=headers, **options
        ) as answer:
            if answer.content_type == "application/json":
                return answer.status, answer.headers, await answer.json()
            return answer.status, answer.headers, await answer.text()


@pytest.fixture
async def http(server: TestServer) -> AsyncIterator[Http]:
    connector = aiohttp.TCPConnector(ssl=server.client_context())
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield Http(session, server)
