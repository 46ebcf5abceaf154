"""A network between a client and a server that can be cut, or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path


class Proxy:
    """Forwards connections to ``target``: a port of loopback or the path of a unix socket."""

    def __init__(self, target: int | str) -> None:
        self._target = target
        self.broken = 0
        """Connections cut so far."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None

    async def listen(self, path: str = "") -> int:
        """On ``path``, or on a port of loopback, which is returned."""
        if path:
            self._server = await asyncio.start_unix_server(self._accept, path)
            return 0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, in the middle of whatever it carries."""
        self.broken += len(self._writers) // 2
        for writer in tuple(self._writers):
            writer.transport.abort()

    def silence(self) -> None:
        """Carry nothing, in new connections neither, until ``speak``."""
        self._flowing.clear()

    def speak(self) -> None:
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._flowing.wait()
            if isinstance(self._target, int):
                there = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                there = await asyncio.open_unix_connection(self._target)
            self._writers.add(there[1])
            await asyncio.gather(self._carry(reader, there[1]), self._carry(there[0], writer))
            self._writers.discard(there[1])
        except OSError:
            writer.transport.abort()  # the server is down, or the connection was cut
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def between(driver: str, endpoint: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy in front of a test server's ``endpoint``, and the endpoint through it."""
    with tempfile.TemporaryDirectory(prefix="k3sd-") as directory:
        if driver == "etcd":
            proxy = Proxy(int(endpoint.rpartition(":")[2]))
            through = f"http://127.0.0.1:{await proxy.listen()}"
        elif driver == "postgres":
            real = endpoint.partition("host=")[2]
            proxy = Proxy(f"{real}/.s.PGSQL.5432")
            await proxy.listen(f"{directory}/.s.PGSQL.5432")
            through = endpoint.replace(real, directory)
        else:
            real = endpoint.partition("unix(")[2].partition(")")[0]
            proxy = Proxy(real)
            await proxy.listen(f"{directory}/sock")
            through = endpoint.replace(real, str(Path(directory) / "sock"))
        try:
            yield proxy, through
        finally:
            await proxy.close()
