"""Content that this device has already: a file to be fetched may lie in another place of the folder.

A copy on disk costs no bytes on the wire. What the memory says of a file is a claim; the bytes are
hashed while they are copied, so that a file that changed meanwhile is no danger.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from agent.disk import BlockedError, Disk, DiskError
from agent.disk.look import BLOCK, Digest, Stop
from agent.model import LocalEntry, LocalKind
from agent.transfer.blocking import guarded
from agent.transfer.ranges import write_all

_TRIED: Final = 3
"""Files with one content that are tried before the content is fetched."""


class Duplicates:
    """Files of the local tree by content, for the downloads of one round.

    The tree is looked through once, and only when something is asked for: a round that fetches
    nothing pays nothing, and memory is taken for the wanted contents alone.
    """

    def __init__(self, local: Mapping[str, LocalEntry], wanted: AbstractSet[str]) -> None:
        self._local = local
        self._wanted = wanted
        self._found: dict[str, list[LocalEntry]] | None = None

    def of(self, content_hash: str, size: int | None = None) -> list[LocalEntry]:
        """Return files that had this content when they were last looked at, at most a few.

        With `size`, which the server says of the content, only those that have it.
        """
        if self._found is None:
            self._found = self._search()
        found = self._found.get(content_hash, [])
        return [entry for entry in found if size is None or entry.stat.size == size]

    def _search(self) -> dict[str, list[LocalEntry]]:
        found: dict[str, list[LocalEntry]] = {}
        for entry in self._local.values():
            content_hash = entry.content_hash
            if content_hash is None or content_hash not in self._wanted:
                continue
            if entry.kind is LocalKind.FILE and entry.trouble is None:
                same = found.setdefault(content_hash, [])
                if len(same) < _TRIED:
                    same.append(entry)
        return found


def copy_content(
    disk: Disk, entry: LocalEntry, fd: int, digest: Digest | None = None, *, stop: Stop | None = None
) -> bool:
    """Make an open file's content that of another file; say whether it is all there and as `entry` says.

    Otherwise the open file is empty, or as it was when the other one shows at once that it is not
    what it was. Blocks. `digest` makes more of the bytes. Raises `LocalError` "unwritable", and
    `BlockedError` "stopping" when the agent wants to end, or `stop` says so.
    """
    digest, begun = digest or hashlib.sha256(), False
    try:
        with disk.open_for_read(entry.path) as opened:
            if opened.stat.same_content_signs(entry.stat):
                guarded(os.ftruncate, fd, 0)
                begun = True
                for offset, block in _blocks(opened.fd, entry.stat.size):
                    _check_wanted(disk, stop)
                    digest.update(block)
                    guarded(write_all, fd, block, offset)
                if digest.hexdigest() == entry.content_hash:
                    return True
    except DiskError as error:
        if error.code == "stopping":
            raise
    if begun:
        guarded(os.ftruncate, fd, 0)
    return False


def _check_wanted(disk: Disk, stop: Stop | None) -> None:
    if disk.stopping or (stop is not None and stop()):
        raise BlockedError("The agent is stopping", code="stopping")


def _blocks(fd: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """Yield a file's bytes with their offsets, a block more than `size` at most; each overwrites the last."""
    buffer = memoryview(bytearray(BLOCK))
    offset = 0
    while offset <= size and (count := os.preadv(fd, [buffer], offset)):
        yield offset, buffer[:count]
        offset += count
