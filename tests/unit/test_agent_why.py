"""`why`, `ignored` and `status` from a memory alone: every reason has a code, no server is asked."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LocalError
from agent.lock import locked
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble
from agent.progress import FileProgress, Progress
from agent.settings import Settings
from agent.state import PHASE, State, set_paused
from agent.verdict import located
from tests.support.command_line import call
from tests.support.linked_home import ROOT_ID, linked_home

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass
class World:
    """A linked device with a folder on disk and a memory, and no server at all."""

    settings: Settings
    folder: Path
    state: State
    seq: int = 0
    stack: ExitStack = field(default_factory=ExitStack)

    def node(self, name: str, parent: str = ROOT_ID, kind: Kind = Kind.FILE, **values: Any) -> RemoteNode:
        """Let the server have something."""
        self.seq += 1
        known = (
            {"content_hash": "1" * 64, "version_id": f"v{self.seq}", "size": 3} if kind is Kind.FILE else {}
        )
        node = RemoteNode(f"{self.seq:024x}", parent, name, kind, self.seq, **{**known, **values})
        self.state.put_remote([node])
        return node

    def entry(self, path: str, content_hash: str = "1" * 64, **values: Any) -> LocalEntry:
        """Put a file on disk and let the last scan have seen it."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"abc")
        entry = LocalEntry(path, LocalKind.FILE, stat_of(file), content_hash, **values)
        self.state.put_local([entry])
        return entry

    def agree(self, path: str, **values: Any) -> RemoteNode:
        """Have a file in step."""
        entry = self.entry(path)
        node = self.node(path, mtime_ns=entry.stat.mtime_ns, **values)
        known = (node.version_id, node.content_hash, 3, node.mtime_ns)
        synced = SyncedNode(node.id, ROOT_ID, path, Kind.FILE, *known, stat=entry.stat)
        self.state.put_synced([synced])
        return node

    def says(self, **values: Any) -> None:
        """Let an agent run that says this of itself."""
        self.stack.enter_context(locked(self.settings.lock_path))
        self.state.put(PHASE, json.dumps({"phase": "in_step", **values}))

    def run(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        code, out, err = call([*arguments, "--json"], home=self.settings.home, cwd=self.folder)
        assert code == expect, (out, err)
        value: dict[str, Any] = json.loads((out or err).splitlines()[-1])
        return value


def stat_of(path: Path) -> FileStat:
    raw = path.lstat()
    return FileStat(
        raw.st_dev, raw.st_ino, raw.st_size, raw.st_mtime_ns, raw.st_ctime_ns, raw.st_mode & 0o7777
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = linked_home(tmp_path / "home", folder)
    state = State(settings.state_path)
    state.put("namespace_id", ROOT_ID)
    made = World(settings, folder, state)
    with made.stack:
        yield made
    state.close()


# Paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b", "a/b"), ("/a/b", "a/b"), ("a//b/", "a/b"), ("./a", "a"), ("a/../b", "b"), ("/", ""), ("", ""),
        ("/sync/root/a", "a"), ("/sync/root", ""), ("/sync/root/../root/a", "a"),
        ("/sync/rootless", "sync/rootless"), ("caf\udce9", "caf\udce9"),
    ],
)  # fmt: skip
def test_a_path_is_relative_to_the_root_or_absolute_in_the_folder(text: str, path: str) -> None:
    assert located(Path("/sync/root"), text) == path


@pytest.mark.parametrize("text", ["..", "../x", "a/../../x", "/../x/../..", "a\0b"])
def test_a_path_outside_the_folder_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="outside_folder"):
        located(Path("/sync/root"), text.lstrip("/"))


def test_a_path_by_way_of_a_link_to_the_folder_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "real/d").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert located(tmp_path / "link", str(tmp_path / "real/d/x")) == "d/x"
    assert located(tmp_path / "real", str(tmp_path / "link/d/x")) == "d/x"


# why --------------------------------------------------------------------------------------------


def test_what_both_sides_agree_on_is_in_step(world: World) -> None:
    node = world.agree("a.txt")
    told = world.run("why", "/a.txt")
    assert (told["in_step"], told["code"], told["actions"], told["problem"]) == (True, "in_step", [], None)
    assert [told[side]["path"] for side in ("remote", "local", "synced")] == ["a.txt"] * 3
    assert told["remote"]["id"] == told["synced"]["id"] == node.id
    assert world.run("why", "/")["code"] == "in_step"


def test_a_problem_is_told_with_its_tries_and_the_next_one(world: World) -> None:
    world.entry("a.txt")
    for _ in range(2):
        world.state.put_problem("a.txt", Trouble("quota_exceeded", "No room"), lambda _: 1000.0)
    told = world.run("why", "a.txt", expect=5)
    assert told["code"] == "quota_exceeded"
    assert (told["problem"]["attempts"], told["problem"]["detail"]) == (2, "No room")
    assert told["problem"]["retry_at"].endswith("Z")
    assert world.run("why", "/", expect=5)["below"] == 1


def test_a_trouble_of_the_scan_is_the_reason_here_and_below(world: World) -> None:
    world.entry("a.txt", trouble=Trouble("permission_denied", "No permission"))
    assert world.run("why", "a.txt", expect=5)["code"] == "permission_denied"
    locked_folder = LocalEntry(
        "d", LocalKind.FOLDER, stat_of(world.folder), trouble=Trouble("permission_denied", "No permission")
    )
    world.state.put_local([locked_folder])
    folder = world.node("d", kind=Kind.FOLDER)
    world.node("x", folder.id)
    told = world.run("why", "d/x", expect=5)
    assert told["code"] == "permission_denied"
    assert "d: No permission" in told["detail"]


@pytest.mark.parametrize(
    ("says", "paused", "code"),
    [
        (None, False, "not_running"),
        ({}, False, "waiting"),
        ({"phase": "offline"}, False, "offline"),
        ({"phase": "paused"}, True, "paused"),
        (None, True, "paused"),
        ({"phase": "halted", "halted": "Too many", "halt_code": "mass_deletion"}, False, "mass_deletion"),
    ],
)
def test_what_is_to_be_done_is_told_and_why_it_was_not_yet(
    world: World, says: dict[str, Any] | None, paused: bool, code: str
) -> None:
    world.entry("new.txt")
    if says is not None:
        world.says(**says)
    if paused:
        set_paused(world.settings.state_path, paused=True)
    told = world.run("why", "new.txt", expect=5)
    assert told["code"] == code
    assert [(s["kind"], s["path"], s["bytes"]) for s in told["actions"]] == [("upload", "new.txt", 3)]
    assert told["running"] is (says is not None)


def test_a_large_file_under_way_is_said_to_be(world: World) -> None:
    world.entry("big.bin")
    world.says(in_flight=["big.bin"])
    assert world.run("why", "big.bin", expect=5)["code"] == "transferring"


def test_what_an_agent_that_is_gone_had_under_way_is_not(world: World) -> None:
    world.entry("big.bin")
    world.state.put(PHASE, json.dumps({"phase": "working", "in_flight": ["big.bin"]}))
    assert world.run("why", "big.bin", expect=5)["code"] == "not_running"


def test_a_change_that_no_scan_has_seen_is_seen(world: World) -> None:
    world.agree("a.txt")
    (world.folder / "a.txt").write_bytes(b"another content")
    assert world.run("why", "a.txt", expect=5)["code"] == "changed_on_disk"
    (world.folder / "a.txt").unlink()
    assert world.run("why", "a.txt", expect=5)["code"] == "changed_on_disk"
    (world.folder / "b.txt").write_bytes(b"new")
    assert world.run("why", "b.txt", expect=5)["code"] == "changed_on_disk"


def test_a_node_that_moved_is_found_under_both_its_paths(world: World) -> None:
    node = world.agree("old.txt")
    moved = RemoteNode(**{s: getattr(node, s) for s in node.__slots__} | {"name": "new.txt", "seq": 99})
    world.state.put_remote([moved])
    for path in ("old.txt", "new.txt"):
        told = world.run("why", path, expect=5)
        (step,) = told["actions"]
        assert (step["kind"], step["path"], step["target"]) == ("move_local", "old.txt", "new.txt")
        assert told["remote"]["path"] == "new.txt"


def test_what_comes_after_the_next_plan_is_told_too(world: World) -> None:
    """A new file in a folder that moves: the move is planned alone, the upload comes after it."""
    world.agree("old.txt")
    moved = world.node("new.txt")
    world.state.put_remote([RemoteNode(moved.id, ROOT_ID, "new.txt", Kind.FILE, 9, deleted=True)])
    world.entry("fresh.txt", "2" * 64)
    known = next(iter(world.state.remote.values()))
    world.state.put_remote(
        [RemoteNode(**{s: getattr(known, s) for s in known.__slots__} | {"name": "moved.txt", "seq": 50})]
    )
    assert [s["kind"] for s in world.run("why", "fresh.txt", expect=5)["actions"]] == ["upload"]


def test_what_was_deleted_on_both_sides_is_in_step(world: World) -> None:
    world.node("gone.txt", deleted=True)
    told = world.run("why", "gone.txt")
    assert (told["code"], told["remote"]["deleted"], told["detail"]) == (
        "in_step", True, "It was deleted on both sides",
    )  # fmt: skip


def test_an_ignored_path_is_in_step_by_rule_and_line(world: World) -> None:
    (world.folder / ".lockstepignore").write_text("\n*.log\n")
    (world.folder / "a.log").write_bytes(b"x")
    told = world.run("why", "a.log")
    assert (told["code"], told["ignored"]["line"]) == ("ignored", 2)
    assert world.run("why", ".lockstep/tmp")["code"] == "ignored"


def test_another_spelling_of_a_name_is_the_same_path(world: World) -> None:
    world.agree("caf\u00e9.txt")
    told = world.run("why", "cafe\u0301.txt")
    assert (told["path"], told["remote"]["path"]) == ("caf\u00e9.txt", "caf\u00e9.txt")
    world.entry("caf\u00e9.txt", "2" * 64)
    assert [s["kind"] for s in world.run("why", "cafe\u0301.txt", expect=5)["actions"]] == ["upload"]


def test_names_that_are_no_text_can_be_asked_for(world: World) -> None:
    path = "caf\udce9"
    world.state.put_local(
        [
            LocalEntry(
                path,
                LocalKind.FILE,
                stat_of(world.folder),
                trouble=Trouble("invalid_name", "Not valid Unicode"),
            )
        ]
    )
    assert world.run("why", path, expect=5)["code"] == "invalid_name"


@pytest.mark.parametrize(
    ("path", "code", "exit_code"),
    [("nothing", "unknown_path", 1), ("../x", "outside_folder", 2), ("/etc/passwd", "outside_folder", 2)],
)
def test_a_path_that_nobody_knows_is_an_error(world: World, path: str, code: str, exit_code: int) -> None:
    assert world.run("why", path, expect=exit_code)["code"] == code


def test_before_the_first_sync_there_is_nothing_to_ask(tmp_path: Path) -> None:
    settings = linked_home(tmp_path / "home", None)
    for command in ("why", "ignored"):
        code, _, err = call([command, "x", "--json"], home=settings.home, cwd=tmp_path)
        assert (code, json.loads(err)["code"]) == (2, "no_folder")


def test_asking_changes_nothing(world: World) -> None:
    world.entry("new.txt")
    before = State(world.settings.state_path, copy=True)
    world.run("why", "new.txt", expect=5)
    after = State(world.settings.state_path, copy=True)
    assert (before.local, before.remote, before.synced) == (after.local, after.remote, after.synced)
    assert [path.name for path in world.folder.iterdir()] == ["new.txt"]


def test_why_for_people_names_every_side(world: World) -> None:
    world.agree("a.txt")
    code, out, _ = call(["why", "a.txt"], home=world.settings.home, cwd=world.folder)
    assert code == 0
    assert out.startswith(b"a.txt: in step: Both sides agree, as last seen (in_step)\n")
    assert all(
        f"  {side}: file of 3 bytes at a.txt".encode() in out for side in ("remote", "local", "synced")
    )


# ignored ----------------------------------------------------------------------------------------


def test_a_rule_that_is_not_understood_is_told(world: World) -> None:
    (world.folder / ".lockstepignore").write_text("*.log\n!\nok\n")
    told = world.run("ignored", "a.log")
    assert (told["ignored"], told["rule"]) == (True, ".lockstepignore:1: *.log")
    assert [bad["line"] for bad in told["bad_rules"]] == [2]
    assert world.run("ignored", "a.txt")["ignored"] is False


def test_a_trailing_slash_makes_it_a_folder_and_the_disk_tells_otherwise(world: World) -> None:
    (world.folder / ".lockstepignore").write_text("build/\n")
    assert [world.run("ignored", path)["ignored"] for path in ("build", "build/", "build/x")] == [
        False,
        True,
        True,
    ]
    (world.folder / "build").mkdir()
    assert world.run("ignored", "build")["ignored"] is True


def test_a_missing_folder_cannot_say_what_it_ignores(world: World) -> None:
    world.folder.rename(world.folder.with_name("away"))
    code, _, err = call(["ignored", "x", "--json"], home=world.settings.home, cwd=world.settings.home)
    assert (code, json.loads(err)["code"]) == (1, "folder_unusable")


# status -----------------------------------------------------------------------------------------


def test_status_tells_of_a_running_agent_what_waits_and_what_moves(world: World) -> None:
    progress = {
        "phase": "syncing",
        "items_done": 1,
        "items_total": 2,
        "bytes_done": 1024,
        "bytes_total": 4096,
        "rate": 512,
        "eta_seconds": 6,
    }
    moving = {
        "path": "b",
        "code": "downloading",
        "bytes_done": 21 * GIB,
        "bytes_total": 50 * GIB,
        "rate": 84 * MIB,
        "eta_seconds": 290,
        "resumed_bytes": 1024,
    }
    world.says(
        phase="working",
        to_do=2,
        waiting=[["a", "upload"], ["b", "download"]],
        transfers=[moving],
        progress=progress,
        rate_up=0,
        rate_down=84 * MIB,
        at=time.time(),
    )
    told = world.run("status", expect=5)
    assert (told["phase"], told["pending"], told["progress"]) == ("working", 2, progress)
    assert told["waiting"] == [{"path": "a", "code": "upload"}, {"path": "b", "code": "download"}]
    assert told["transfers"] == [moving]
    assert (told["rate_up"], told["rate_down"]) == (0, 84 * MIB)
    _, out, _ = call(["status"], home=world.settings.home, cwd=world.folder)
    assert b"1.0 KiB of 4.0 KiB moved, 512 B/s, 6 s left" in out
    assert b"\n  b: 42 % of 50.0 GiB, 84 MiB/s, 5 min left\n" in out + b"\n"


def test_rates_that_were_noted_long_ago_are_over(world: World) -> None:
    """While bytes move a note is made every second; an old one means that none have moved since."""
    world.says(
        transfers=[FileProgress("b", "uploading", 10, 100, 5.0, 18.0).as_json()],
        progress=Progress("syncing", 0, 1, 10, 100, 5.0, 18.0).as_json(),
        rate_up=5,
        at=time.time() - 60,
    )
    told = world.run("status", expect=5)
    (moving,) = told["transfers"]
    assert (moving["rate"], moving["eta_seconds"], moving["bytes_done"]) == (0, None, 10)
    assert (told["progress"]["rate"], told["progress"]["eta_seconds"], told["rate_up"]) == (0, None, 0)
    _, out, _ = call(["status"], home=world.settings.home, cwd=world.folder)
    assert b"\n  b: 10 % of 100 B\n" in out + b"\n"


def test_a_paused_device_is_as_its_user_wants_it(world: World) -> None:
    world.says(phase="in_step", to_do=3)
    set_paused(world.settings.state_path, paused=True)
    told = world.run("status")
    assert (told["paused"], told["phase"], told["in_step"]) == (True, "paused", True)
    world.state.put_problem("a", Trouble("locked", "It is locked"), lambda _: 60.0)
    assert world.run("status", expect=5)["in_step"] is False


def test_pausing_without_an_agent_is_remembered(world: World) -> None:
    for _ in range(2):
        assert world.run("pause") == {"paused": True, "running": False, "settled": True}
    assert world.run("sync", str(world.folder))["paused"] is True
    assert world.run("resume") == {"paused": False, "running": False, "settled": True}
    assert world.run("status", expect=5)["paused"] is False


def test_a_memory_that_cannot_be_read_is_an_error_with_a_code(world: World) -> None:
    world.state.close()
    world.settings.state_path.write_bytes(b"no database at all" * 100)
    for command in ("status", "pause", "resume"):
        assert world.run(command, expect=1)["code"] == "state_damaged"
