"""What really travels between a client and its servers: all bytes of its connections, headers too."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_BLOCK = 1 << 18


class Wire:
    """Relays, in a thread of their own, that count both ways."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire")
        self._servers: list[asyncio.Server] = []
        self.total = 0
        """Bytes so far, of all connections, both ways."""

    def url_to(self, url: str) -> str:
        """Return a URL through which the one given is reached, counted."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{url} names no port")
        listening = asyncio.run_coroutine_threadsafe(self._listen(parts.hostname, parts.port), self._loop)
        return f"{parts.scheme}://127.0.0.1:{listening.result(10)}"

    @contextmanager
    def running(self) -> Iterator["Wire"]:
        """Relay while the body runs."""
        self._thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _listen(self, host: str, port: int) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(host, port, reader, writer)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=_BLOCK)
        self._servers.append(server)
        port_taken: int = server.sockets[0].getsockname()[1]
        return port_taken

    async def _relay(
        self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=_BLOCK)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            for one in (writer, far_writer):
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_BLOCK):
                self.total += len(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
