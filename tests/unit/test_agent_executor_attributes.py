"""What the server is told of executable bits by a disk that may keep none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.executor import Work
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode
from agent.state import State


def entry(mode: int) -> LocalEntry:
    return LocalEntry("f", LocalKind.FILE, FileStat(1, 2, 3, 4, 5, mode))


@pytest.mark.parametrize(
    ("keeps_modes", "server", "agreed", "now", "told"),
    [
        (True, None, None, 0o755, True),
        (True, None, None, 0o644, False),
        (True, False, 0o644, 0o755, True),
        (True, True, 0o755, 0o644, False),
        (True, True, 0o644, 0o644, True),
        (True, False, 0o755, 0o755, False),
        (False, None, None, 0o755, False),
        (False, True, 0o644, 0o644, True),
        (False, False, 0o755, 0o755, False),
        (False, True, 0o755, 0o644, True),
    ],
)
def test_the_servers_bit_stays_unless_it_was_changed_on_a_disk_that_keeps_it(
    tmp_path: Path, *, keeps_modes: bool, server: bool | None, agreed: int | None, now: int, told: bool
) -> None:
    state = State(tmp_path / "state.db")
    node = None if server is None else RemoteNode("n", "root", "f", Kind.FILE, 1, executable=server)
    if agreed is not None:
        state.put_synced([SyncedNode("n", "root", "f", Kind.FILE, stat=entry(agreed).stat)])
    disk: Any = SimpleNamespace(keeps_modes=keeps_modes)
    unused = cast("Any", None)
    work = Work(state, disk, unused, unused, unused, "B")
    assert work.executable(node, entry(now)) is told
    state.close()


@pytest.mark.parametrize(
    ("keeps_modes", "server", "mode", "agreed"),
    [(True, True, 0o644, False), (True, False, 0o755, True), (True, True, 0o755, True),
     (False, True, 0o644, True), (False, False, 0o755, False)],
)  # fmt: skip
def test_a_bit_that_this_disk_does_not_have_yet_is_not_agreed_on(
    tmp_path: Path, *, keeps_modes: bool, server: bool, mode: int, agreed: bool
) -> None:
    """So that the next plan sets it; a disk that keeps none is done."""
    state = State(tmp_path / "state.db")
    disk: Any = SimpleNamespace(keeps_modes=keeps_modes)
    unused = cast("Any", None)
    work = Work(state, disk, unused, unused, unused, "B")
    node = RemoteNode("n", "root", "f", Kind.FILE, 1, executable=server)
    assert work.on_this_disk(node, entry(mode)) is agreed
    state.close()
