"""A network that fails: relays before the gateway and before S3 that delay, cut and lose answers."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.support.backends import Backends
from tests.support.stack import Stack, running_stack

_BLOCK: Final = 16 * 1024
_SHARE: Final = 0.12
"""Of the connections that come to harm."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What happens to one connection: cut after so many bytes, one way or the other; late always."""

    up: int | None = None
    down: int | None = None
    delay: float = 0.0


class Faults:
    """A relay whose connections come to harm by chance; none while it is `calm`."""

    def __init__(self) -> None:
        self.rng = random.Random()
        self.calm = True
        self.harmed = 0

    def _harm(self) -> Harm:
        if self.calm or self.rng.random() > _SHARE:
            return Harm(delay=0.0 if self.calm else self.rng.choice((0.0, 0.0, 0.0, 0.02)))
        self.harmed += 1
        bytes_ = int(10 ** self.rng.uniform(0, 6.5))
        # An answer that is lost: the request arrives, and nothing of what comes back.
        return self.rng.choice(
            (Harm(up=bytes_), Harm(down=bytes_), Harm(down=0), Harm(up=0), Harm(delay=0.4))
        )

    async def relay(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        harm = self._harm()
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            try:
                pumps = [
                    asyncio.ensure_future(self._pump(reader, far_writer, harm.up, harm.delay)),
                    asyncio.ensure_future(self._pump(far_reader, writer, harm.down, harm.delay)),
                ]
                await asyncio.wait(pumps)
            finally:
                far_writer.transport.abort()
        writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None, delay: float
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_BLOCK):
                if delay:
                    await asyncio.sleep(delay)
                if limit is not None:
                    data = data[:limit]
                    limit -= len(data)
                writer.write(data)
                await writer.drain()
                if limit == 0:
                    # What is cut is reset, in both directions.
                    writer.transport.abort()
                    return
            writer.close()


@contextmanager
def faulty(backends: Backends) -> Iterator[tuple[Stack, str, Faults]]:
    """A stack behind relays, and the address of the gateway's relay."""
    faults, loop = Faults(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relays", daemon=True)
    thread.start()
    try:
        s3 = _open(loop, faults, urlsplit(backends.s3_endpoint).port or 0)
        settings = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": f"http://127.0.0.1:{s3}"}
        with running_stack(backends, settings) as stack:
            gateway = _open(loop, faults, urlsplit(stack.gateway_url).port or 0)
            yield stack, f"http://127.0.0.1:{gateway}", faults
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _open(loop: asyncio.AbstractEventLoop, faults: Faults, target: int) -> int:
    async def serve() -> int:
        opened = await asyncio.start_server(lambda r, w: faults.relay(target, r, w), "127.0.0.1", 0)
        port: int = opened.sockets[0].getsockname()[1]
        return port

    return asyncio.run_coroutine_threadsafe(serve(), loop).result(10)


@contextmanager
def disturbed(faults: Faults | None, seed: str) -> Iterator[None]:
    """Let the network fail while the body runs."""
    if faults is None:
        yield
        return
    faults.rng.seed(seed)
    faults.calm = False
    try:
        yield
    finally:
        faults.calm = True
