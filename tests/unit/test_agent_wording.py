"""Every action has a stable name, a path, and what it moves."""

import pytest

from agent import actions as act
from agent.actions import Action
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode
from agent.wording import TEXTS, Paths, Step, steps_of

STAT = FileStat(1, 2, 30, 4, 5, 0o644)
ENTRY = LocalEntry("d/here.txt", LocalKind.FILE, STAT, "1" * 64)
NODE = RemoteNode("n", "f", "there.txt", Kind.FILE, 1, size=50, mtime_ns=4)
OLDER = RemoteNode("n", "f", "there.txt", Kind.FILE, 1, size=50, mtime_ns=99)
FOLDER = RemoteNode("f", "root", "far", Kind.FOLDER, 2)
SYNCED = SyncedNode("n", "f", "there.txt", Kind.FILE)
MOVE_HERE = act.MoveLocal(NODE, ENTRY, "d/new.txt")
MOVE_THERE = act.MoveRemote(NODE, "+d/fresh", "new.txt")
PATHS = Paths({"root": "", "f": "far", "n": "far/there.txt"})


@pytest.mark.parametrize(
    ("action", "steps"),
    [
        (act.Bind(NODE, ENTRY), [Step("remember", "d/here.txt", node_id="n")]),
        (act.Bind(OLDER, ENTRY), [Step("set_local", "d/here.txt", node_id="n")]),
        (act.Forget("n"), [Step("forget", "far/there.txt", node_id="n")]),
        (act.SettlePlace(NODE), [Step("remember", "far/there.txt", node_id="n")]),
        (act.KeepCopy(ENTRY, "d/copy", "n"), [Step("keep_copy", "d/here.txt", "d/copy", node_id="n")]),
        (act.KeepCopy(ENTRY, "d/x", None, parked=True), [Step("make_way", "d/here.txt", "d/x")]),
        (MOVE_HERE, [Step("move_local", "d/here.txt", "d/new.txt", node_id="n")]),
        (
            act.RotateLocal((MOVE_HERE, MOVE_HERE)),
            [Step("move_local", "d/here.txt", "d/new.txt", node_id="n")] * 2,
        ),
        (act.MakeFolder(FOLDER, "far"), [Step("make_folder", "far", node_id="f")]),
        (act.Download(NODE, "d/here.txt"), [Step("download", "d/here.txt", bytes=50, node_id="n")]),
        (act.SetLocal(NODE, ENTRY), [Step("set_local", "d/here.txt", node_id="n")]),
        (act.RemoveLocal(SYNCED, ENTRY), [Step("remove_local", "d/here.txt", files=1, node_id="n")]),
        (act.CreateFolder(ENTRY, "f", "x"), [Step("create_folder", "d/here.txt", "far/x")]),
        (act.CreateSymlink(ENTRY, "+d", "here.txt"), [Step("create_symlink", "d/here.txt")]),
        (MOVE_THERE, [Step("move_remote", "far/there.txt", "d/fresh/new.txt", node_id="n")]),
        (
            act.RotateRemote((MOVE_THERE, MOVE_THERE)),
            [Step("move_remote", "far/there.txt", "d/fresh/new.txt", node_id="n")] * 2,
        ),
        (act.SetRemote(NODE, ENTRY), [Step("set_remote", "d/here.txt", node_id="n")]),
        (act.Upload(ENTRY, NODE), [Step("upload", "d/here.txt", bytes=30, node_id="n")]),
        (act.Upload(ENTRY, None, "root", "x.txt"), [Step("upload", "d/here.txt", "x.txt", 30)]),
        (act.DeleteRemote(FOLDER, "far", 7), [Step("delete_remote", "far", files=7, node_id="f")]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_an_action_in_words(action: Action, steps: list[Step]) -> None:
    assert steps_of([action], PATHS) == steps
    assert all(step.as_text().endswith(TEXTS[step.kind]) for step in steps)
