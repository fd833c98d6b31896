"""The commands that explain, show, pause: on real devices, while an agent runs and while none does."""

import json
import os
import subprocess
import time
from typing import Any

from agent.lock import locked
from agent.settings import Settings
from agent.state import State
from tests.support.command_line import call
from tests.support.devices import LOCKSTEP, Device, converge, copies, tree_of
from tests.support.waiting import wait_until

MIB = 1024 * 1024
Two = tuple[Device, Device]


def run(device: Device, *arguments: str, expect: int | None = 0) -> Any:
    """The object that a command prints, run in this process: no start-up."""
    code, out, err = call([*arguments, "--json"], home=device.home, cwd=device.folder)
    assert expect in {None, code}, (arguments, code, out, err)
    return json.loads((out or err).splitlines()[-1])


def test_a_paused_agent_rests_and_catches_up_when_resumed(two: Two) -> None:
    a, b = two
    a.write("before.txt", "one")
    with a.started():
        assert run(a, "pause") == {"paused": True, "running": True, "settled": True}
        assert run(a, "status", expect=None)["phase"] == "paused"
        a.write("before.txt", "edited while paused")
        b.write("from-b.txt", "sent while A rests")
        b.quick_sync()
        report = run(a, "sync", str(a.folder))
        assert (report["paused"], report["in_step"], report["problems"]) == (True, True, [])
        time.sleep(0.5)
        assert a.names() == {"before.txt"}
        assert b.read("before.txt") == "one"
        assert run(a, "resume")["running"] is True
        wait_until(lambda: a.names() == {"before.txt", "from-b.txt"}, 10, "A caught up with B")
        wait_until(lambda: run(a, "status", expect=None)["phase"] == "in_step", 10, "A is in step")
    assert run(a, "status")["in_step"] is True, "an agent that was stopped leaves what it knew"
    b.quick_sync()
    assert tree_of(a.folder) == tree_of(b.folder)


def test_a_pause_ends_a_large_transfer_and_holds_over_a_restart(two: Two) -> None:
    a, _ = two
    with a.started(LOCKSTEP_AGENT_PART_PARALLEL="1"):
        a.write("big.bin", os.urandom(96 * MIB))
        wait_until(lambda: _parts_done(a) > 0, 20, "a part is there", every=0.01)
        assert run(a, "pause")["settled"] is True
        (held,) = run(a, "uploads")["items"]
        assert held["parts_done"] < held["parts_total"]
    assert run(a, "status")["paused"] is True
    assert run(a, "sync", str(a.folder))["paused"] is True
    again = subprocess.Popen([LOCKSTEP, "start", str(a.folder)], env=a.environment())
    try:
        wait_until(lambda: run(a, "status")["running"], 20, "it runs")
        wait_until(lambda: run(a, "why", "big.bin", expect=5)["code"] == "paused", 10, "it rests")
        assert run(a, "ls")["items"] == []
        assert run(a, "resume") == {"paused": False, "running": True, "settled": True}
        wait_until(lambda: a.ls() != {}, 20, "it is sent")
    finally:
        again.terminate()
        again.wait(20)
    (session,) = a.get("/v1/uploads?state=all")["items"]
    assert (session["id"], session["state"]) == (held["id"], "committed"), "it went on where it stopped"


def test_a_pause_ends_a_sync_in_the_middle_and_is_no_failure(two: Two) -> None:
    a, _ = two
    a.write("big.bin", os.urandom(96 * MIB))
    a.write("small.txt", "small")
    process = subprocess.Popen(
        [LOCKSTEP, "sync", str(a.folder), "--json"],
        env={**a.environment(), "LOCKSTEP_AGENT_PART_PARALLEL": "1"},
        stdout=subprocess.PIPE,
    )
    wait_until(lambda: _parts_done(a) > 0, 20, "a part is there", every=0.01)
    assert run(a, "pause")["settled"] is True
    out, _ = process.communicate(timeout=20)
    report = json.loads(out.splitlines()[-1])
    assert (process.returncode, report["paused"], report["in_step"]) == (0, True, True)
    assert set(a.ls()) == {"small.txt"}


def _parts_done(device: Device) -> int:
    return max((u["parts_done"] for u in device.get("/v1/uploads?state=open")["items"]), default=0)


def untouched(device: Device) -> tuple[object, ...]:
    """What must not change: the folder with the agent's own files, the server, the memory."""
    files = {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in [device.folder, *device.folder.rglob("*")]
    }
    state = State(device.home / "state.db", copy=True)
    memory = (dict(state.remote), dict(state.local), dict(state.synced), state.get("cursor"))
    state.close()
    return files, memory, run(device, "ls")["items"]


def test_a_plan_of_a_folder_that_was_never_synced_changes_nothing(two: Two) -> None:
    a, b = two
    a.write("d/there.txt", "from A")
    a.quick_sync()
    b.write("new/here.txt", "from B")
    before = set(b.folder.rglob("*")), set(b.home.iterdir())
    planned = run(b, "plan", str(b.folder), expect=5)
    kinds = [(s["kind"], s["path"], s["bytes"]) for s in planned["actions"]]
    assert sorted(kinds) == [
        ("create_folder", "new", 0),
        ("download", "d/there.txt", 6),
        ("make_folder", "d", 0),
        ("upload", "new/here.txt", 6),
    ]
    assert (planned["totals"]["upload_bytes"], planned["totals"]["download_bytes"]) == (6, 6)
    assert planned["whole"] is True
    assert (set(b.folder.rglob("*")), set(b.home.iterdir())) == before
    missing = run(b, "plan", str(b.folder / "missing"), expect=5)
    assert {s["kind"] for s in missing["actions"]} == {"make_folder", "download"}
    assert not b.path("missing").exists()


def test_a_plan_shows_every_round_and_a_sync_does_just_that(two: Two) -> None:
    """Local moves are planned alone; the plan shows what comes after them too."""
    a, b = two
    a.write("moved/one.txt", "one")
    a.write("edited.txt", "one")
    a.write("gone.txt", "one")
    converge(a, b)
    run(b, "mv", "moved", "renamed")
    b.path("gone.txt").unlink()
    b.write("edited.txt", "by B")
    b.quick_sync()
    a.write("edited.txt", "by A")
    a.write("moved/new.txt", "new")
    before = untouched(a)
    with locked(Settings(home=a.home).lock_path):
        planned = run(a, "plan", str(a.folder), expect=5)
    assert untouched(a) == before
    copy = next(iter(copies({s["target"] or "" for s in planned["actions"]}, "edited.txt")))
    assert {(s["kind"], s["path"], s["target"]) for s in planned["actions"]} == {
        ("move_local", "moved", "renamed"),
        ("keep_copy", "edited.txt", copy),
        ("download", "edited.txt", None),
        ("upload", copy, None),
        ("upload", "renamed/new.txt", None),
        ("remove_local", "gone.txt", None),
    }
    a.quick_sync()
    assert a.read("renamed/new.txt") == "new"
    done = run(a, "plan", str(a.folder))
    assert (done["in_step"], done["actions"]) == (True, [])


def test_a_plan_says_which_guard_would_halt(two: Two) -> None:
    a, _ = two
    for number in range(6):
        a.write(f"{number}.txt", "x")
    a.quick_sync()
    for path in a.folder.glob("*.txt"):
        path.unlink()
    planned = run(a, "plan", str(a.folder), expect=3)
    assert [guard["code"] for guard in planned["guards"]] == ["root_emptied"]
    assert planned["in_step"] is False


def test_why_tells_of_every_side_while_an_agent_runs(two: Two) -> None:
    a, b = two
    a.write(".lockstepignore", "*.log\n")
    a.write("d/fine.txt", "fine")
    with a.started():
        os.mkfifo(a.path("pipe"))
        wait_until(lambda: run(a, "why", "pipe", expect=5)["code"] == "special_file", 10, "the pipe is seen")
        fine = run(a, "why", "/d/fine.txt")
        assert (fine["in_step"], fine["code"], fine["running"]) == (True, "in_step", True)
        assert fine["remote"]["version_id"] == fine["synced"]["version_id"]
        assert fine["local"]["content_hash"] == fine["remote"]["content_hash"]
        assert run(a, "why", str(a.path("d/fine.txt")))["path"] == "d/fine.txt"
        assert run(a, "why", "/", expect=5)["code"] == "below"
        run(a, "pause")
        b.quick_sync()
        b.write("d/fine.txt", "edited by B")
        b.quick_sync()
        wait_until(lambda: run(a, "why", "d/fine.txt", expect=None)["code"] == "paused", 10, "the push")
        told = run(a, "why", "d/fine.txt", expect=5)
        assert [(step["kind"], step["path"]) for step in told["actions"]] == [("download", "d/fine.txt")]
    a.write("d/new.txt", "new")
    assert run(a, "why", "d/new.txt", expect=5)["code"] == "changed_on_disk"
    a.write("d/x.log", "left alone")
    log = run(a, "why", "d/x.log")
    assert (log["code"], log["ignored"]["line"]) == ("ignored", 1)
    assert run(a, "why", "nothing.txt", expect=1)["code"] == "unknown_path"
    assert run(a, "why", "../x", expect=2)["code"] == "outside_folder"
    assert run(a, "why", "/etc/hostname", expect=2)["code"] == "outside_folder"


def test_ignored_names_the_rule_and_its_line(two: Two) -> None:
    a, _ = two
    assert run(a, "ignored", "x", expect=2)["code"] == "no_folder"
    a.write(".lockstepignore", "# builds\nbuild/\n*.log\n!keep.log\n")
    a.path("d").mkdir()
    a.quick_sync()
    rule = run(a, "ignored", "build/")
    assert (rule["ignored"], rule["line"], rule["pattern"], rule["kind"]) == (True, 2, "build/", "folder")
    assert run(a, "ignored", "build")["ignored"] is False
    assert run(a, "ignored", str(a.path("build/deep/x")))["line"] == 2
    assert run(a, "ignored", "keep.log")["ignored"] is False
    built_in = run(a, "ignored", "d/~$report.docx")
    assert (built_in["source"], built_in["line"]) == ("built in", None)
    assert run(a, "ignored", ".lockstep/tmp")["ignored"] is True
    assert run(a, "ignored", "d")["kind"] == "folder"
