"""What a plan leaves alone, and says of it: ignored, unreadable, folded, failed, held-up things."""

import pytest

from agent import actions as act
from agent.identity import identify
from agent.merge import Trees
from agent.model import Kind, LocalKind, RemoteNode, Trouble
from agent.parking import is_parked, parked_name
from agent.planner import Rules, paths_of, plan
from agent.planning import misnamed
from tests.simulation.device import DAY, Device, Habits
from tests.simulation.disk import DiskKind
from tests.simulation.server import ROOT
from tests.simulation.world import World

FOLDING = (DiskKind(fold=str.casefold), Habits())
PLAIN = (DiskKind(), Habits())
DELETIONS = (act.DeleteRemote, act.RemoveLocal)


def planned(device: Device) -> tuple[act.Action, ...]:
    device.read_feed()
    return device.plan().actions


def synced_pair(*paths: str) -> World:
    """Two devices that have these files, their folders made as needed."""
    world = World((PLAIN, PLAIN))
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            world.users[0].mkdir("/".join(parts[:depth]))
        world.users[0].create(path)
    world.settle()
    return world


# A disk that folds case -----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["a.txt", "A.txt"])
def test_46_on_a_folding_disk_the_second_name_is_reported_and_nothing_deleted(first: str) -> None:
    world = World((PLAIN, FOLDING))
    folding = world.devices[1]
    world.users[0].create(first)
    world.settle()
    second = first.swapcase().replace("TXT", "txt")
    world.users[0].create(second)
    world.settle()
    assert list(folding.disk.entries) == [first]
    assert folding.troubles[second].code == "name_folded"
    assert set(world.tree()) == {"a.txt", "A.txt"}
    assert len(world.devices[0].disk.entries) == 2


def test_46_the_second_name_comes_when_the_first_goes() -> None:
    world = World((PLAIN, FOLDING))
    world.users[0].create("a")
    world.users[0].create("A")
    world.settle()
    (there,) = world.devices[1].disk.entries
    world.users[0].delete(there)
    world.settle()
    assert list(world.devices[1].disk.entries) == [there.swapcase()]
    assert world.devices[1].troubles == {}


def test_46_a_change_of_case_alone_reaches_a_folding_disk() -> None:
    world = World((PLAIN, FOLDING))
    world.users[0].create("readme")
    world.settle()
    world.users[0].move("readme", "README")
    world.settle()
    assert list(world.devices[1].disk.entries) == ["README"]


def test_46_a_move_onto_a_folded_name_is_reported_at_both_its_paths() -> None:
    world = World((PLAIN, FOLDING))
    world.users[0].create("a")
    world.users[0].create("b")
    world.settle()
    world.users[0].move("b", "A")
    world.settle()
    assert set(world.devices[1].disk.entries) == {"a", "b"}
    assert {world.devices[1].troubles[path].code for path in ("A", "b")} == {"name_folded"}


# Trouble ----------------------------------------------------------------------------------------


def test_an_unreadable_file_is_neither_uploaded_nor_deleted_anywhere() -> None:
    world = synced_pair("f", "g")
    world.users[0].edit("f")
    world.users[0].hide("f")
    world.users[0].edit("g")
    world.settle()
    assert world.devices[0].troubles["f"].code == "unreadable"
    assert world.tree() == {"f": "c1", "g": "c4"}
    world.users[0].hide("f")
    world.settle()
    assert world.tree() == {"f": "c3", "g": "c4"}


def test_an_unreadable_file_is_not_replaced_or_removed_by_what_the_server_says() -> None:
    world = synced_pair("f", "d/g")
    world.users[0].hide("f")
    world.users[0].hide("d/g")
    world.users[1].edit("f")
    world.users[1].delete("d")
    world.settle()
    disk = world.devices[0].disk
    assert {disk.entries[path].content for path in ("f", "d/g")} == {"c1", "c2"}
    assert set(world.devices[0].troubles) == {"f", "d", "d/g"}


@pytest.mark.parametrize("in_trouble", [True, False])
def test_what_is_in_a_folder_that_cannot_be_listed_is_not_deleted(in_trouble: bool) -> None:
    world = World((((DiskKind(opaque_in_trouble=in_trouble)), Habits()), PLAIN))
    for verb, path in (("mkdir", "d"), ("mkdir", "d/e"), ("create", "d/e/f"), ("create", "g")):
        getattr(world.users[0], verb)(path)
    world.settle()
    world.users[0].hide("d")
    assert planned(world.devices[0]) == ()
    world.users[0].edit("g")
    world.settle()
    assert set(world.tree()) == {"d", "d/e", "d/e/f", "g"}
    assert world.tree()["g"] == "c3"


def test_nothing_is_put_into_a_folder_that_cannot_be_listed() -> None:
    world = World(((DiskKind(opaque_in_trouble=False), Habits()), PLAIN))
    world.users[0].mkdir("d")
    world.users[0].create("d/f")
    world.settle()
    world.users[0].hide("d")
    world.users[1].create("d/new")
    world.users[1].move("d/f", "d/g")
    world.settle()
    assert planned(world.devices[0]) == ()
    assert set(world.devices[0].disk.entries) == {"d", "d/f"}


def test_a_folder_deleted_there_that_cannot_be_listed_here_stays_and_is_reported() -> None:
    world = World(((DiskKind(opaque_in_trouble=False), Habits()), PLAIN))
    world.users[0].mkdir("d")
    world.settle()
    world.users[0].hide("d")
    world.users[1].delete("d")
    world.settle()
    assert list(world.devices[0].disk.entries) == ["d"]
    assert world.devices[0].troubles["d"].code == "folder_not_empty"


def test_a_folder_renamed_to_the_other_spelling_of_a_name_is_reported_and_its_files_stay() -> None:
    world = synced_pair("\u00e9", "d/f")
    world.users[0].move("d", "e\u0301")
    world.settle()
    assert set(world.tree()) == {"\u00e9", "d", "d/f"}
    assert world.devices[0].troubles["e\u0301"].code == "same_name"
    assert world.devices[0].disk.entries["e\u0301/f"].content == "c2"


def test_49_of_two_spellings_in_one_folder_the_second_is_left_untouched() -> None:
    world = World((PLAIN, PLAIN))
    world.users[0].create("\u00e9")
    world.settle()
    world.users[0].create("e\u0301")
    world.users[0].edit("\u00e9")
    world.settle()
    assert world.tree() == {"\u00e9": "c3"}
    assert world.devices[0].disk.entries["e\u0301"].content == "c2"


def test_63_a_special_file_is_reported_and_keeps_what_comes_to_its_name_out() -> None:
    world = World((PLAIN, PLAIN))
    world.users[0].special("f")
    world.users[1].create("f")
    world.settle()
    assert world.devices[0].disk.entries["f"].kind is LocalKind.OTHER
    assert world.devices[0].troubles["f"].code == "special_file"
    assert world.tree() == {"f": "c1"}


def test_a_special_file_in_a_folder_deleted_there_keeps_the_folder_here_alone() -> None:
    world = synced_pair("d/f")
    world.users[0].special("d/pipe")
    world.users[1].delete("d")
    world.settle()
    assert set(world.devices[0].disk.entries) == {"d", "d/pipe"}
    assert world.devices[0].troubles["d"].code == "folder_not_empty"
    assert world.tree() == {}


# Ignored ----------------------------------------------------------------------------------------


def ignoring() -> World:
    """A ignores `ign`, B does not; both had it when the rule came."""
    world = synced_pair("ign/f", "g")
    world.devices[0].habits = Habits(ignored="ign")
    return world


def test_111_a_rule_that_covers_a_synced_folder_deletes_nothing_anywhere() -> None:
    world = ignoring()
    assert planned(world.devices[0]) == ()
    world.settle()
    assert set(world.tree()) == {"ign", "ign/f", "g"}
    assert set(world.devices[0].disk.entries) == {"ign", "ign/f", "g"}


def test_111_what_is_ignored_here_is_not_removed_when_it_is_deleted_there() -> None:
    world = ignoring()
    world.users[1].delete("ign")
    world.settle()
    assert set(world.devices[0].disk.entries) == {"ign", "ign/f", "g"}


def test_111_a_folder_with_something_ignored_in_it_is_not_deleted_there() -> None:
    world = synced_pair("d/ign", "d/g")
    world.devices[0].habits = Habits(ignored="ign")
    world.users[0].delete("d/g")
    world.users[0].disk.remove("d")
    world.settle()
    assert set(world.tree()) == {"d", "d/ign"}


def test_112_without_the_rule_all_is_in_step_again() -> None:
    world = ignoring()
    world.users[1].edit("ign/f")
    world.users[1].create("ign/new")
    world.settle()
    assert world.devices[0].disk.entries["ign/f"].content == "c1"
    world.devices[0].habits = Habits()
    world.settle()
    world.check()
    assert world.devices[0].disk.entries["ign/f"].content == "c3"


def test_a_node_that_the_server_moved_to_an_ignored_path_is_left_and_reported() -> None:
    world = synced_pair("f")
    world.devices[0].habits = Habits(ignored="ign")
    world.users[1].move("f", "ign")
    world.settle()
    assert list(world.devices[0].disk.entries) == ["f"]
    assert world.devices[0].troubles["f"].code == "ignored_there"


@pytest.mark.parametrize(
    "name", ["..", "../x", "/x", "a/b", "", ".", "a\0b", ".lockstep", ".LOCKSTEP", "x" * 256, "\u00e9" * 128]
)
def test_53_names_that_no_server_of_ours_gives_out_are_left_and_reported(name: str) -> None:
    """Two of one name even: what cannot be placed is not renamed either."""
    remote = {
        key: RemoteNode(key, parent, given, kind, seq=1, version_id="v", content_hash="h")
        for key, parent, given, kind in (
            ("1", ROOT, name, Kind.FOLDER),
            ("2", ROOT, name, Kind.FILE),
            ("3", "1", "below", Kind.FILE),
            ("4", ROOT, "good", Kind.FILE),
        )
    }
    held = misnamed(remote)
    found = plan(Trees(ROOT, remote, identify({}, {}, ROOT), {}, held), Rules("A", DAY))
    assert [(type(a), getattr(a, "path", None)) for a in found.actions] == [(act.Download, "good")]
    assert found.troubles[name].code == "invalid_name"


def test_53_every_other_name_is_taken() -> None:
    names = ["a", "...", "..a", ".lockstepx", "a\\b", "a\nb", "x" * 255, "\u00e9" * 127]
    assert not misnamed({name: RemoteNode(name, ROOT, name, Kind.FILE, seq=1) for name in names})


# Failed paths -----------------------------------------------------------------------------------


def test_a_suspended_path_does_not_hold_up_the_rest() -> None:
    world = World((PLAIN, PLAIN))
    for name in ("bad", "good"):
        world.users[0].create(name)
    device = world.devices[0]
    device.suspended = frozenset({"bad"})
    device.run()
    assert set(world.tree()) == {"good"}
    device.suspended = frozenset()
    device.run()
    assert set(world.tree()) == {"bad", "good"}


def test_a_suspended_conflict_does_not_hold_up_other_conflicts() -> None:
    world = synced_pair("bad", "good")
    for name in ("bad", "good"):
        for user in world.users:
            user.edit(name)
    world.sync(world.devices[0])
    world.devices[1].suspended = frozenset({"bad"})
    world.devices[1].run()
    assert world.copies() == ["good (conflicted copy, B, 2026-11-23)"]
    assert world.devices[1].disk.entries["bad"].content == "c4"


def test_below_a_suspended_new_folder_nothing_is_sent_and_nothing_refused() -> None:
    world = World((PLAIN, PLAIN))
    device = world.devices[0]
    for verb, path in (("mkdir", "bad"), ("create", "bad/f"), ("create", "g")):
        getattr(world.users[0], verb)(path)
    device.suspended = frozenset({"bad"})
    assert [paths_of(action) for action in planned(device)] == [{"g"}]


def test_a_folder_is_not_removed_while_something_in_it_cannot_be() -> None:
    world = synced_pair("d/bad", "d/good")
    world.users[1].delete("d")
    world.sync(world.devices[1])
    world.devices[0].suspended = frozenset({"d/bad"})
    world.devices[0].run()
    assert set(world.devices[0].disk.entries) == {"d", "d/bad"}


# Deletions --------------------------------------------------------------------------------------


def test_a_deleted_folder_is_one_operation_that_counts_its_files() -> None:
    world = synced_pair("d/a", "d/b", "d/e/c", "f")
    world.users[0].delete("d")
    (deletion,) = planned(world.devices[0])
    assert isinstance(deletion, act.DeleteRemote)
    assert (deletion.path, deletion.files, deletion.instead) == ("d", 3, None)


def test_a_deletion_says_what_has_taken_the_name() -> None:
    world = synced_pair("f")
    world.users[0].turn("f", LocalKind.FOLDER)
    deletion = next(a for a in planned(world.devices[0]) if isinstance(a, act.DeleteRemote))
    assert deletion.instead is not None
    assert deletion.instead.kind is LocalKind.FOLDER


def test_a_folder_whose_new_file_is_not_known_here_is_not_deleted_on_the_server() -> None:
    world = synced_pair("d/f")
    deleting, adding = world.devices
    world.users[0].delete("d")
    found = planned(deleting)
    world.users[1].create("d/new")
    adding.run()
    for _ in deleting.execute(act.Plan(found)):
        pass
    assert set(world.tree()) == {"d", "d/f", "d/new"}
    world.settle()
    assert set(world.tree()) == {"d", "d/new"}


def test_what_is_removed_here_lies_in_the_trash() -> None:
    world = synced_pair("d/f")
    world.users[0].delete("d")
    world.settle()
    assert world.devices[1].memory.trash == ["c1"]


def test_rows_below_an_unknown_folder_are_kept_and_not_planned() -> None:
    rows = {"b" * 24: RemoteNode("b" * 24, "a" * 24, "f", Kind.FILE, 1, version_id="v", content_hash="x")}
    trees = Trees(ROOT, rows, identify({}, {}, ROOT), {})
    assert plan(trees, Rules("A", DAY)).actions == ()


# Moves ------------------------------------------------------------------------------------------


def test_a_content_that_comes_before_its_move_does_not_undo_the_move() -> None:
    """What is remembered of a download is content; the place is remembered by moves alone."""
    world = synced_pair("f")
    world.users[1].edit("f")
    world.users[1].move("f", "g")
    world.sync(world.devices[1])
    world.devices[0].read_feed()
    node = next(iter(world.server.rows.values()))
    entry = world.devices[0].disk.look("f")
    for _ in world.devices[0].execute(world.devices[0].plan()):
        pass
    world.settle()
    assert world.tree() == {"g": "c2"}
    assert entry.stat.ino != world.devices[0].disk.look("g").stat.ino
    assert world.server.rows[node.id].name == "g"


def test_local_moves_are_planned_alone() -> None:
    world = synced_pair("f", "g", "h")
    world.users[1].move("f", "d")
    world.users[1].edit("g")
    world.sync(world.devices[1])
    world.users[0].edit("h")
    assert [type(action) for action in planned(world.devices[0])] == [act.MoveLocal]


@pytest.mark.parametrize("count", [2, 3])
def test_35_36_names_that_change_places_are_one_exchange_on_either_side(count: int) -> None:
    names = ("x", "y", "z")[:count]
    world = synced_pair(*names)
    world.users[1].rotate(names)
    world.sync(world.devices[1])
    assert [type(action) for action in world.devices[1].done[-1:]] == [act.RotateRemote]
    (exchange,) = planned(world.devices[0])
    assert isinstance(exchange, act.RotateLocal)
    assert len(exchange.moves) == count


def test_a_new_folder_and_what_is_in_it_are_one_plan() -> None:
    world = World((PLAIN, PLAIN))
    for verb, path in (("mkdir", "d"), ("mkdir", "d/e"), ("create", "d/e/f")):
        getattr(world.users[0], verb)(path)
    found = planned(world.devices[0])
    assert [paths_of(action) for action in found] == [{"d"}, {"d/e"}, {"d/e/f"}]


def test_a_folder_whose_name_is_taken_while_it_moves_is_parked_and_says_so() -> None:
    world = synced_pair("p/d/f")
    for path, to in (("p/d", "x"), ("p", "x/d"), ("x", "p")):
        world.users[1].move(path, to)
    world.sync(world.devices[1])
    (parked,) = planned(world.devices[0])
    assert isinstance(parked, act.KeepCopy)
    assert parked.parked
    assert parked.node_id is None
    world.settle()
    assert world.copies() == []


def test_every_reason_is_a_code_and_a_sentence() -> None:
    world = World((PLAIN, FOLDING))
    world.users[0].create("a")
    world.users[0].create("A")
    world.settle()
    (trouble,) = world.devices[1].troubles.values()
    assert isinstance(trouble, Trouble)
    assert trouble.detail


def test_only_the_whole_name_of_a_waiting_node_is_one_that_nobody_chose() -> None:
    """A name that merely has it in it was given by somebody, and yields to none."""
    waiting = parked_name("0123456789abcdef01234567")
    assert is_parked(waiting)
    assert not any(map(is_parked, (waiting + ".txt", "copy of " + waiting, waiting[1:], waiting.upper())))
