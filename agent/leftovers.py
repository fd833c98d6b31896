"""What a crash left in the agent's temporary folder. Nothing of it is removed unseen.

A partial download stays, with its journal: the next try continues it. A whole one whose version
is not wanted any more is dropped, being the server's own bytes. What was being swapped may be the
only copy of something a user wrote: it is dropped only when its very content is known to be agreed
on or on the server, and otherwise given back to the user as a conflicted copy in the root.
"""

from agent.disk import Disk, DiskError, Leftover
from agent.executor.work import Work
from agent.state import State
from libs.runtime.logs import get_logger

log = get_logger("leftovers")


def rescue_leftovers(disk: Disk, state: State, work: Work) -> list[str]:
    """Settle every leftover; return the paths of what was given back. Blocks."""
    known = {node.content_hash or node.symlink_target or "" for node in state.synced.values()}
    known |= {node.content_hash or node.symlink_target or "" for node in state.remote.values()}
    wanted = {f"{node.id}.{node.version_id}" for node in state.remote.values()}
    rescued = []
    leftovers = disk.leftover_temps()
    wanted &= {leftover.name for leftover in leftovers}
    for leftover in leftovers:
        try:
            path = _settle(disk, leftover, known, wanted, work)
        except DiskError as error:
            log.warning("a leftover stays", name=leftover.name, code=error.code, detail=error.detail)
            continue
        if path is not None:
            rescued.append(path)
    return rescued


def _settle(disk: Disk, leftover: Leftover, known: set[str], wanted: set[str], work: Work) -> str | None:
    if leftover.worthless or leftover.second:
        disk.discard_temp(leftover.name)
        return None
    if not leftover.private:
        if (leftover.download or leftover.name) not in wanted and state_is_complete(work):
            disk.discard_temp(leftover.name)
        return None
    content = disk.temp_content(leftover)
    if content is not None and (content in known or leftover.is_as_prepared(content)):
        disk.discard_temp(leftover.name)
        return None
    path = work.keep_name(f"recovered-{leftover.name.split('.')[1]}")
    disk.rescue_temp(leftover.name, path)
    log.warning("something of an interrupted run was given back", path=path)
    return path


def state_is_complete(work: Work) -> bool:
    """Whether the remote tree was ever read to its end, so that absence in it means something."""
    return work.state.get("cursor") is not None
