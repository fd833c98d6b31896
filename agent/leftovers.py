"""What a crash left in the agent's temporary folder. Nothing of it is removed unseen.

A partial download stays, with its journal: the next try continues it. A whole one whose version
is not wanted any more is dropped, being the server's own bytes. What was being swapped may be the
only copy of something a user wrote: it is dropped only when its very content is known to be agreed
on or on the server, and otherwise given back to the user as a conflicted copy in the root. A download
that was whole and being installed is a download again, so that nothing of it has to travel twice.
"""

from collections.abc import Mapping

from agent.disk import Disk, DiskError, Leftover
from agent.executor.work import Work
from agent.model import LocalKind
from agent.state import State
from libs.runtime.logs import get_logger

log = get_logger("leftovers")


def rescue_leftovers(disk: Disk, state: State, work: Work) -> list[str]:
    """Settle every leftover; return the paths of what was given back. Blocks."""
    known = {node.content_hash or node.symlink_target or "" for node in state.synced.values()}
    known |= {node.content_hash or node.symlink_target or "" for node in state.remote.values()}
    leftovers = disk.leftover_temps()
    wanted = _wanted(state)
    rescued = []
    for leftover in sorted(leftovers, key=lambda leftover: not leftover.private):
        try:
            path = _settle(disk, leftover, known, wanted, work)
        except DiskError as error:
            log.warning("a leftover stays", name=leftover.name, code=error.code, detail=error.detail)
            continue
        if path is not None:
            rescued.append(path)
    return rescued


def _wanted(state: State) -> dict[str, str]:
    """Return what is still to be fetched: the name of the partial download → its SHA-256."""
    agreed = {(node.id, node.content_hash) for node in state.synced.values()}
    return {
        f"{node.id}.{node.version_id}": node.content_hash
        for node in state.remote.values()
        if node.content_hash is not None and (node.id, node.content_hash) not in agreed
    }


def _settle(
    disk: Disk, leftover: Leftover, known: set[str], wanted: Mapping[str, str], work: Work
) -> str | None:
    if leftover.worthless or leftover.second:
        disk.discard_temp(leftover.name)
        return None
    if not leftover.private:
        _settle_download(disk, leftover, wanted, work)
        return None
    content = disk.temp_content(leftover)
    if content is not None and (content in known or leftover.is_as_prepared(content)):
        _settle_known(disk, leftover, content, wanted)
        return None
    path = work.keep_name(f"recovered-{leftover.name.split('.')[1]}")
    disk.rescue_temp(leftover.name, path)
    log.warning("something of an interrupted run was given back", path=path)
    return path


def _settle_download(disk: Disk, leftover: Leftover, wanted: Mapping[str, str], work: Work) -> None:
    """Drop what is not wanted any more, and a journal whose download is in its place."""
    stays = (leftover.download or leftover.name) in wanted
    if leftover.download is not None and not disk.has_temp(leftover.download):
        stays = False
    if not stays and state_is_complete(work):
        disk.discard_temp(leftover.name)


def _settle_known(disk: Disk, leftover: Leftover, content: str, wanted: Mapping[str, str]) -> None:
    """Drop what the server has too; a whole download that was on its way in is a download again."""
    if leftover.kind is LocalKind.FILE and leftover.is_as_prepared(content):
        for name in (name for name, content_hash in wanted.items() if content_hash == content):
            if not disk.has_temp(name):
                disk.return_temp(leftover.name, name)
                return
    disk.discard_temp(leftover.name)


def state_is_complete(work: Work) -> bool:
    """Whether the remote tree was ever read to its end, so that absence in it means something."""
    return work.state.get("cursor") is not None
