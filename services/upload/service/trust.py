"""What is believed of S3's checks: as it was told by the settings, or as it was found by trying."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Gauge

from libs.contracts.errors import LockstepError
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger
from libs.storage.capabilities import Capabilities

log = get_logger("trust")

CAPABILITY: Final = Gauge(
    "lockstep_object_store_capability", "What S3 was found to do (1) or not (0)", ["capability"]
)
_AGAIN: Final = Backoff(1.0, 60.0)

Look = Callable[[], Awaitable[Capabilities]]


class Trust:
    """Whether S3 refuses bytes whose SHA-256 is not the one that their URL is bound to.

    `told`, when given, decides. Until the look at S3 has succeeded nothing is trusted: what is
    completed meanwhile is read and hashed by the janitor.
    """

    def __init__(self, *, told: bool | None) -> None:
        self._told = told
        self._found: Capabilities | None = None
        self._has_refused_a_copy = False
        self._may_look = asyncio.Event()
        self._looked = asyncio.Event()

    @property
    def puts(self) -> bool:
        """Of objects that are sent in one request."""
        return self._decide(found=self._found is not None and self._found.put_checksums)

    @property
    def parts(self) -> bool:
        """Of parts of multipart uploads."""
        return self._decide(found=self._found is not None and self._found.part_checksums)

    @property
    def copies(self) -> bool:
        """Whether S3 is known to copy ranges of objects into others, and only of the object that is meant."""
        return self._found is not None and self._found.copying and not self._has_refused_a_copy

    def copy_refused(self, reason: str) -> None:
        """Have nothing copied any more: to ask again and again would hold up what is asked for for ever."""
        log.warning("S3 refuses to copy: from now on every byte is sent", reason=reason)
        self._has_refused_a_copy = True

    def _decide(self, *, found: bool) -> bool:
        return found if self._told is None else self._told

    async def first_look(self) -> None:
        """Let the looks begin (the bucket is there), and return when the first has ended, however."""
        self._may_look.set()
        await self._looked.wait()

    async def find_out(self, look: Look) -> None:
        """Look at S3, again while that tells nothing; what S3 does never ends it."""
        await self._may_look.wait()
        tries = 0
        while self._found is None:
            try:
                self._learn(await look())
            except LockstepError as error:
                log.warning("the object store's capabilities are not known yet", reason=error.detail)
                self._looked.set()
                await asyncio.sleep(_AGAIN.delay(tries))
                tries += 1
        self._looked.set()

    def _learn(self, found: Capabilities) -> None:
        self._found = found
        log.info("object store capabilities", trust_puts=self.puts, trust_parts=self.parts, **found.facts())
        for name, there in found.facts().items():
            CAPABILITY.labels(name).set(there)
        for name, consequence in found.consequences().items():
            log.warning("the object store lacks a capability", capability=name, consequence=consequence)
        if self._told and not (found.put_checksums and found.part_checksums):
            log.warning("checksums are trusted by LOCKSTEP_S3_TRUST_CHECKSUMS, but S3 does not enforce them")
