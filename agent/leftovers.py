"""What a crash left in the agent's temporary folder. Nothing of it is removed unseen.

A partial download stays, with its journal: the next try continues it. A whole one whose version
is not wanted any more is dropped, being the server's own bytes. What was being swapped may be the
only copy of something a user wrote: it is dropped only when its very content is known to be agreed
on or on the server, and otherwise given back to the user as a conflicted copy in the root. A download
that was whole and being installed is a download again, so that nothing of it has to travel twice.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from agent.disk import Disk, DiskError, Leftover
from agent.model import LocalKind, RemoteNode, SyncedNode
from agent.state import State
from libs.runtime.logs import get_logger

log = get_logger("leftovers")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the memory says of leftovers. Only the thread that owns the memory can ask it."""

    known: frozenset[str]
    """Hashes of files and targets of links that are agreed on or on the server."""
    wanted: Mapping[str, str]
    """What is still to be fetched: the name of the partial download → its SHA-256."""
    complete: bool
    """Whether the remote tree was ever read to its end, so that absence in it means something."""

    @classmethod
    def by(cls, state: State) -> "Expected":
        """Ask the memory."""
        nodes: tuple[SyncedNode | RemoteNode, ...] = (*state.synced.values(), *state.remote.values())
        agreed = {(node.id, node.content_hash) for node in state.synced.values()}
        wanted = {
            f"{node.id}.{node.version_id}": node.content_hash
            for node in state.remote.values()
            if node.content_hash is not None and (node.id, node.content_hash) not in agreed
        }
        known = frozenset(node.content_hash or node.symlink_target or "" for node in nodes)
        return cls(known, wanted, state.get("cursor") is not None)


def rescue_leftovers(disk: Disk, expected: Expected, keep_name: Callable[[str], str]) -> list[str]:
    """Settle every leftover; return the paths of what was given back. Blocks."""
    rescued = []
    for leftover in sorted(disk.leftover_temps(), key=lambda leftover: not leftover.private):
        try:
            path = _settle(disk, leftover, expected, keep_name)
        except DiskError as error:
            log.warning("a leftover stays", name=leftover.name, code=error.code, detail=error.detail)
            continue
        if path is not None:
            rescued.append(path)
    return rescued


def drop_unwanted(disk: Disk, expected: Expected) -> bool:
    """Remove partial downloads that are wanted no more and that nobody writes; say whether any was. Blocks.

    A newer version has come since they were begun. They are the server's own bytes, and take room.
    """
    dropped = False
    for leftover in disk.leftover_temps():
        download = leftover.download or leftover.name
        kept = leftover.private or leftover.worthless or download in expected.wanted
        if expected.complete and not kept:
            with suppress(DiskError):  # a transfer has it open
                disk.discard_idle(leftover.name, download)
                dropped = True
    return dropped


def _settle(
    disk: Disk, leftover: Leftover, expected: Expected, keep_name: Callable[[str], str]
) -> str | None:
    if leftover.worthless or leftover.second:
        disk.discard_temp(leftover.name)
        return None
    if not leftover.private:
        _settle_download(disk, leftover, expected)
        return None
    content = disk.temp_content(leftover)
    if content is not None and (content in expected.known or leftover.is_as_prepared(content)):
        _settle_known(disk, leftover, content, expected.wanted)
        return None
    path = keep_name(f"recovered-{leftover.name.split('.')[1]}")
    disk.rescue_temp(leftover.name, path)
    log.warning("something of an interrupted run was given back", path=path)
    return path


def _settle_download(disk: Disk, leftover: Leftover, expected: Expected) -> None:
    """Drop what is not wanted any more, and a journal whose download is in its place."""
    stays = (leftover.download or leftover.name) in expected.wanted
    if leftover.download is not None and not disk.has_temp(leftover.download):
        stays = False
    if not stays and expected.complete:
        disk.discard_temp(leftover.name)


def _settle_known(disk: Disk, leftover: Leftover, content: str, wanted: Mapping[str, str]) -> None:
    """Drop what the server has too; a whole download that was on its way in is a download again."""
    if leftover.kind is LocalKind.FILE and leftover.is_as_prepared(content):
        for name in (name for name, content_hash in wanted.items() if content_hash == content):
            if not disk.has_temp(name):
                disk.return_temp(leftover.name, name)
                return
    disk.discard_temp(leftover.name)
