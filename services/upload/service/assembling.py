"""A new object at S3: of parts that are sent, and of parts that S3 copies from the object before."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from libs.contracts.errors import LockstepError, NotFoundError, UnavailableError
from libs.contracts.limits import BASE_PART_BYTES, MIB, S3_MIN_PART_BYTES
from libs.contracts.parts import part_size_for
from libs.contracts.recipe import Recipe
from libs.delta.rebuild import copied_parts
from libs.storage.port import ObjectStore, PartToJoin, Slice, StoredObject, UploadGoneError

PART: Final = 8 * MIB
"""The smallest part. What an edit lies in is sent, the parts between edits are copied: smaller ones would
save more of what is edited here and there, larger ones would be fewer requests. All of an object have one
size, which some S3 require. At the places where S3 itself cuts objects (4 and 8 MiB) little is cut anew."""
_SENT: Final = 2
"""Parts that travel to S3 while the next one is put together."""
_COPIED: Final = 4
"""Parts that S3 copies at once. They take no memory here."""
_MOST_RECUTS: Final = 16
"""How often in a row an object is made of copies at other places than where S3 has cut it: each time its
pieces at S3 become more and smaller."""


class CopyRefusedError(Exception):
    """S3 does not copy what it was asked to, and would not if it were asked again."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts that an object is made of."""

    part_size: int
    copies: tuple[Slice | None, ...] = ()
    """For each part what it is a copy of; none: all are sent."""
    recuts: int = 0

    @staticmethod
    def of(recipe: Recipe, base: StoredObject, *, may_copy: bool) -> "Layout":
        """Return how the target of a checked recipe is made of its base."""
        part_size = part_size_for(recipe.size, base=PART)
        if base.etag is None or not may_copy or base.size <= S3_MIN_PART_BYTES:
            return Layout(part_size)  # Amazon S3 copies no ranges of objects of up to 5 MiB
        parts = copied_parts(recipe, part_size)
        recuts = base.copied + any(part is not None and part.offset % part_size for part in parts)
        if recuts > _MOST_RECUTS or not any(parts):
            return Layout(part_size)
        slices = (None if part is None else Slice(base.key, base.etag, part) for part in parts)
        return Layout(part_size, tuple(slices), recuts)

    @property
    def noted(self) -> int | None:
        """What is noted with an object that has copied parts; None: with another."""
        return self.recuts if self.copies else None

    def copy(self, number: int) -> Slice | None:
        """Return what a part, counted from 1, is a copy of; None when it is sent."""
        return self.copies[number - 1] if self.copies else None


def in_one(size: int) -> bool:
    """Whether an object is small enough for one request."""
    return size <= BASE_PART_BYTES


@dataclass(slots=True)
class Assembly:
    """The object while it is made: by a multipart upload, or, without an `upload_id`, by one PUT.

    The bytes of copied parts pass, too, but for those who hash them only.
    """

    objects: ObjectStore
    key: str
    layout: Layout
    upload_id: str | None
    _waiting: bytearray = field(default_factory=bytearray)
    _parts: list["asyncio.Task[PartToJoin]"] = field(default_factory=list)
    _sent: list["asyncio.Task[PartToJoin]"] = field(default_factory=list)
    _copied: list["asyncio.Task[PartToJoin]"] = field(default_factory=list)
    _whole: bytes = b""

    def cut(self, piece: bytes) -> Iterator[bytearray]:
        """Take bytes and yield the parts that they complete. One at least stays for `rest`."""
        at = 0
        with memoryview(piece) as view:
            while at < len(view):
                if self.upload_id is not None and len(self._waiting) == self.layout.part_size:
                    yield self.rest()
                room = self.layout.part_size - len(self._waiting) if self.upload_id else len(view)
                self._waiting += view[at : at + room]
                at += room

    def rest(self) -> bytearray:
        """Return the last part."""
        rest, self._waiting = self._waiting, bytearray()
        return rest

    async def take(self, part: bytearray) -> None:
        """Have the next part made, after those before it but a few are there.

        Raises what went wrong with an earlier one: `UnavailableError`, `CopyRefusedError`, and
        `NotFoundError` when what is copied is gone or another now.
        """
        if self.upload_id is None:
            self._whole = bytes(part)
            return
        number = len(self._parts) + 1
        source = self.layout.copy(number)
        if source is None:
            await self._begin(self._send(self.upload_id, number, bytes(part)), self._sent, _SENT)
        else:
            await self._begin(self._copy(self.upload_id, number, source), self._copied, _COPIED)

    async def _begin(
        self, job: Coroutine[Any, Any, PartToJoin], among: list["asyncio.Task[PartToJoin]"], most: int
    ) -> None:
        try:
            if len(among) >= most:
                await among[-most]
        except BaseException:
            job.close()
            raise
        task = asyncio.create_task(job)
        among.append(task)
        self._parts.append(task)

    async def _send(self, upload_id: str, number: int, part: bytes) -> PartToJoin:
        copying = self.layout.noted is not None
        try:
            return await self.objects.put_part(self.key, upload_id, number, part, copying=copying)
        except UploadGoneError as error:
            raise _taken_over() from error

    async def _copy(self, upload_id: str, number: int, source: Slice) -> PartToJoin:
        try:
            return await self.objects.copy_part(self.key, upload_id, number, source)
        except UploadGoneError as error:
            raise _taken_over() from error
        except (NotFoundError, UnavailableError):
            raise
        except LockstepError as error:
            raise CopyRefusedError(error.detail) from error

    async def finish(self) -> None:
        """Make the object of what was taken. Raises as `take`."""
        if self.upload_id is None:
            await self.objects.put(self.key, self._whole)
            return
        parts = [await task for task in self._parts]
        try:
            await self.objects.complete_multipart(self.key, self.upload_id, parts)
        except UploadGoneError as error:
            raise _taken_over() from error

    async def drop(self) -> None:
        """Let nothing of it stay."""
        await self.settle()
        if self.upload_id is not None:
            await self.objects.abort_multipart(self.key, self.upload_id)

    async def settle(self) -> None:
        """Leave nothing running."""
        for task in self._parts:
            task.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)


def _taken_over() -> UnavailableError:
    return UnavailableError("Another process puts this together", retry_after=1)
