"""What a crash left behind: dropped where it is known to be nobody's only copy, else given back."""

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.actions import Download, Plan
from agent.disk import Disk
from agent.engine import Engine, Parts
from agent.executor.work import Work
from agent.guard import DISK_RESERVE_BYTES
from agent.leftovers import Expected, drop_unwanted, rescue_leftovers
from agent.model import Kind, RemoteNode, SyncedNode
from agent.settings import Settings
from agent.state import State

NODE, VERSION = "a" * 24, "b" * 24


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Scene:
    """A folder with leftovers, and a memory of one file and one link on the server."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.tmp = root / ".lockstep" / "tmp"
        self.disk = Disk(root)
        self.disk.prepare()
        self.state = State(root.parent / "state.db")
        self.state.put_remote(
            [
                RemoteNode(NODE, "r", "f", Kind.FILE, 1, version_id=VERSION, content_hash=sha256("known")),
                RemoteNode("c" * 24, "r", "l", Kind.SYMLINK, 2, symlink_target="known target"),
            ]
        )
        self.state.put("cursor", "read to its end")
        assert Expected.by(self.state).complete
        self.complete = True

    def rescue(self) -> tuple[set[str], set[str]]:
        """Settle all; return what was given back, and what stays."""
        none: Any = None
        work = Work(self.state, self.disk, none, none, Settings(home=self.root.parent), "laptop")
        expected = replace(Expected.by(self.state), complete=self.complete)
        with ThreadPoolExecutor(1) as pool:  # as the engine does: the memory cannot be asked from there
            pool.submit(rescue_leftovers, self.disk, expected, work.keep_name).result()
        given = {self._shown(path) for path in self.root.iterdir() if path.name != ".lockstep"}
        return given, {path.name for path in self.tmp.iterdir()}

    def _shown(self, path: Path) -> str:
        assert path.name.startswith("recovered-")
        assert "(conflicted copy, laptop, " in path.name
        return f"-> {path.readlink()}" if path.is_symlink() else path.read_text()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "folder")


def test_what_the_user_may_have_nowhere_else_is_given_back(scene: Scene) -> None:
    (scene.tmp / "swap.0123").write_text("the user's")
    (scene.tmp / "swap.4567").symlink_to("the user's target")
    assert scene.rescue() == ({"the user's", "-> the user's target"}, set())


def test_what_is_known_to_be_on_the_server_is_dropped(scene: Scene) -> None:
    (scene.tmp / "swap.0123").write_text("known")
    (scene.tmp / "swap.4567").symlink_to("known target")
    assert scene.rescue() == (set(), set())


def test_the_servers_own_bytes_are_dropped_though_the_server_has_moved_on(scene: Scene) -> None:
    (scene.tmp / f"swap.0123.{sha256('prepared')}").write_text("prepared")
    (scene.tmp / f"swap.4567.{sha256('prepared target')}").symlink_to("prepared target")
    assert scene.rescue() == (set(), set())


def test_what_was_swapped_out_is_no_prepared_file_though_it_has_its_name(scene: Scene) -> None:
    (scene.tmp / f"swap.0123.{sha256('prepared')}").write_text("what the user wrote in the instant")
    assert scene.rescue() == ({"what the user wrote in the instant"}, set())


def test_the_agents_own_trials_are_dropped(scene: Scene) -> None:
    (scene.tmp / "scratch.0123a\u00e9").write_text("")
    assert scene.rescue() == (set(), set())


def test_a_second_name_is_dropped_and_an_only_one_is_given_back(scene: Scene) -> None:
    (scene.tmp / "second.0123").write_text("it has another name")
    os.link(scene.tmp / "second.0123", scene.root.parent / "the other name")
    (scene.tmp / "second.4567").write_text("it has no other name")
    assert scene.rescue() == ({"it has no other name"}, set())


def test_a_partial_download_stays_as_long_as_its_version_is_wanted(scene: Scene) -> None:
    (scene.tmp / f"{NODE}.{VERSION}").write_text("kno")
    (scene.tmp / f"{NODE}.{'d' * 24}").write_text("of an older version")
    assert scene.rescue() == (set(), {f"{NODE}.{VERSION}"})


def test_a_journal_stays_with_its_download_goes_with_it_and_is_never_given_back(scene: Scene) -> None:
    for version in (VERSION, "d" * 24):
        (scene.tmp / f"{NODE}.{version}").write_text("kno")
        (scene.tmp / f"{NODE}.{version}.ranges").write_bytes(b"\0 notes")
    assert scene.rescue() == (set(), {f"{NODE}.{VERSION}", f"{NODE}.{VERSION}.ranges"})


def test_a_journal_whose_download_is_in_its_place_is_dropped(scene: Scene) -> None:
    (scene.tmp / f"{NODE}.{VERSION}.ranges").write_bytes(b"notes")
    assert scene.rescue() == (set(), set())


def test_no_download_is_dropped_before_the_remote_tree_was_read_to_its_end(scene: Scene) -> None:
    scene.complete = False
    names = {f"{NODE}.{'d' * 24}", f"{NODE}.{'d' * 24}.ranges"}
    for name in names:
        (scene.tmp / name).write_text("of a version that may be wanted")
    assert scene.rescue() == (set(), names)


def test_what_the_user_may_have_nowhere_else_is_no_journal_whatever_its_name(scene: Scene) -> None:
    (scene.tmp / "swap.0123.ranges").write_text("the user's")
    assert scene.rescue() == ({"the user's"}, set())


def test_a_whole_download_that_was_being_installed_is_a_download_again(scene: Scene) -> None:
    prepared = scene.tmp / f"swap.0123.{sha256('known')}"
    prepared.write_text("known")
    prepared.chmod(0o440)
    journal = scene.tmp / f"{NODE}.{VERSION}.ranges"
    journal.write_bytes(b"notes")
    assert scene.rescue() == (set(), {f"{NODE}.{VERSION}", journal.name})
    assert (scene.tmp / f"{NODE}.{VERSION}").read_text() == "known"
    assert (scene.tmp / f"{NODE}.{VERSION}").stat().st_mode & 0o200


def test_a_download_under_way_is_not_replaced_by_what_was_being_installed(scene: Scene) -> None:
    (scene.tmp / f"{NODE}.{VERSION}").write_text("kno")
    (scene.tmp / f"swap.0123.{sha256('known')}").write_text("known")
    assert scene.rescue() == (set(), {f"{NODE}.{VERSION}"})
    assert (scene.tmp / f"{NODE}.{VERSION}").read_text() == "kno"


def test_a_download_of_what_is_here_already_is_dropped(scene: Scene) -> None:
    agreed = SyncedNode(NODE, "r", "f", Kind.FILE, version_id=VERSION, content_hash=sha256("known"))
    scene.state.put_synced([agreed])
    for name in (f"{NODE}.{VERSION}", f"{NODE}.{VERSION}.ranges", f"swap.0123.{sha256('known')}"):
        (scene.tmp / name).write_text("known")
    assert scene.rescue() == (set(), set())


def test_a_partial_download_of_an_older_version_goes_when_its_room_is_needed(scene: Scene) -> None:
    wanted, older = f"{NODE}.{VERSION}", f"{NODE}.{'d' * 24}"
    for name in (wanted, f"{wanted}.ranges", older, f"{older}.ranges"):
        (scene.tmp / name).write_text("begun")
    (scene.tmp / "swap.0123").write_text("the user's")
    expected = Expected.by(scene.state)

    assert not drop_unwanted(scene.disk, replace(expected, complete=False))
    assert drop_unwanted(scene.disk, expected)
    assert not drop_unwanted(scene.disk, expected)
    assert {path.name for path in scene.tmp.iterdir()} == {wanted, f"{wanted}.ranges", "swap.0123"}


def test_a_partial_download_that_a_transfer_still_writes_stays(scene: Scene) -> None:
    with scene.disk.new_temp(NODE, "d" * 24) as temp, scene.disk.new_journal(temp):
        assert not drop_unwanted(scene.disk, Expected.by(scene.state))
    assert len(list(scene.tmp.iterdir())) == 2


def engine_of(scene: Scene, tasks: asyncio.TaskGroup) -> Engine:
    none: Any = None
    settings = Settings(home=scene.root.parent)
    return Engine(Parts(settings, scene.state, scene.disk, none, none, "namespace", "laptop"), tasks)


async def test_room_is_made_before_a_download_is_left_out_for_want_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = scene.tmp / f"{NODE}.{'d' * 24}"
    older.write_text("begun")
    monkeypatch.setattr(scene.disk, "free_bytes", lambda: 0 if older.exists() else 1 << 40)
    plan = Plan((Download(replace(scene.state.remote[NODE], size=5), "f", None),))
    async with asyncio.TaskGroup() as tasks:
        engine = engine_of(scene, tasks)
        assert engine._with_room(plan) is plan
        older.write_text("in use")
        with scene.disk.new_temp(NODE, "d" * 24):
            assert engine._with_room(plan).actions == ()


async def test_what_is_under_way_keeps_its_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two large files that fit one by one would run into the full disk side by side."""
    monkeypatch.setattr(scene.disk, "free_bytes", lambda: DISK_RESERVE_BYTES + 150)
    other = Download(RemoteNode("e" * 24, "r", "g", Kind.FILE, 1, version_id="f" * 24, size=100), "g", None)
    plan = Plan((Download(replace(scene.state.remote[NODE], size=100), "f", None),))
    async with asyncio.TaskGroup() as tasks:
        engine = engine_of(scene, tasks)
        assert engine._with_room(plan) is plan
        engine.executor._fetching["g"] = other
        assert engine._with_room(plan).actions == ()
        (scene.tmp / f"{'e' * 24}.{'f' * 24}").write_bytes(b"x" * 50)
        assert engine._with_room(plan) is plan, "half of it has arrived"
