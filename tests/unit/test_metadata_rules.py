"""The rules of the tree: what an operation leads to, what refuses it, which events tell of it."""

from dataclasses import replace
from typing import Any

import pytest

from libs.contracts.events import (
    CommitRejected,
    FileCommitted,
    FileDeleted,
    FileMoved,
    FileRestored,
    FileUpdated,
    FolderCreated,
    TreeChanged,
)
from libs.contracts.tree import (
    BaseVersion,
    CreateFolder,
    CreateSymlink,
    Delete,
    ItemResult,
    Kind,
    Move,
    SetAttributes,
)
from services.metadata.domain.model import CondemnObject, Node, RestoreNode, RestoreVersion, Rules
from tests.support.metadata_space import HASH, OTHER_ROOT, ROOT, Space

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def space() -> Space:
    return Space()


def folder(space: Space, name: str, parent_id: str = ROOT) -> Node:
    return space.must(space.one(CreateFolder(parent_id=parent_id, name=name)))


def move(node: Node, parent_id: str, name: str) -> Move:
    return Move(
        node_id=node.id,
        expect_parent_id=node.parent_id,
        expect_name=node.name,
        parent_id=parent_id,
        name=name,
    )


def deletion(node: Node, seen_seq: int = 10_000) -> Delete:
    return Delete(node_id=node.id, version_id=node.version_id, seen_seq=seen_seq)


def codes(results: list[ItemResult]) -> list[str | None]:
    return [result.code for result in results]


# Making ------------------------------------------------------------------------------------


def test_a_batch_can_fill_a_folder_that_it_makes(space: Space) -> None:
    ids = [space.new_id(), space.new_id()]
    ops = (
        CreateFolder(id=ids[0], parent_id=ROOT, name="a"),
        CreateFolder(id=ids[1], parent_id=ids[0], name="b"),
        CreateSymlink(parent_id=ids[1], name="l", target="../x"),
    )
    assert codes(space.do(*ops)) == [None, None, None]
    assert [node.parent_id for node in space.nodes.values()] == [ROOT, *ids]


def test_a_folder_made_again_with_its_id_is_the_same_and_no_change(space: Space) -> None:
    op = CreateFolder(id=space.new_id(), parent_id=ROOT, name=NFC)
    again = CreateFolder(id=op.id, parent_id=ROOT, name=NFD)
    first, second = space.one(op), space.one(again)
    assert first.row == second.row
    assert space.seq == 1


def test_an_id_in_use_for_something_else_is_refused(space: Space) -> None:
    made = folder(space, "a")
    result = space.one(CreateFolder(id=made.id, parent_id=ROOT, name="b"))
    assert (result.code, result.current) == ("id_taken", made.row())
    space.nodes["1" * 24] = Node("1" * 24, OTHER_ROOT, OTHER_ROOT, "secret", Kind.FOLDER)
    foreign = space.one(CreateFolder(id="1" * 24, parent_id=ROOT, name="b"))
    assert (foreign.code, foreign.current) == ("id_taken", None)
    assert space.one(CreateFolder(id=ROOT, parent_id=ROOT, name="b")).code == "id_taken"


def test_a_folder_that_was_deleted_meanwhile_is_not_made_again_by_a_repeat(space: Space) -> None:
    made = folder(space, "a")
    space.one(deletion(made))
    assert space.one(CreateFolder(id=made.id, parent_id=ROOT, name="a")).code == "node_deleted"


def test_a_taken_name_is_refused_with_the_row_in_the_way(space: Space) -> None:
    made = folder(space, NFC)
    result = space.one(CreateFolder(parent_id=ROOT, name=NFD))
    assert (result.code, result.current) == ("name_taken", made.row())


def test_names_that_differ_in_case_are_two(space: Space) -> None:
    assert codes(space.do(*[CreateFolder(parent_id=ROOT, name=name) for name in ("a", "A")])) == [None, None]


def test_the_name_of_a_deleted_node_is_free(space: Space) -> None:
    space.one(deletion(folder(space, "a")))
    assert space.one(CreateFolder(parent_id=ROOT, name="a")).ok


def test_parents_must_be_live_folders_of_the_namespace(space: Space) -> None:
    file = space.file("f")
    gone = folder(space, "gone")
    below = folder(space, "below", gone.id)
    space.one(deletion(gone))
    space.nodes["1" * 24] = Node("1" * 24, OTHER_ROOT, OTHER_ROOT, "secret", Kind.FOLDER)
    parents = [file.id, gone.id, below.id, "1" * 24, "2" * 24]
    results = space.do(*[CreateFolder(parent_id=parent, name="x") for parent in parents])
    assert codes(results) == ["not_a_folder", "parent_deleted", "parent_deleted", "not_found", "not_found"]


def test_folders_nest_to_the_depth_that_is_set(space: Space) -> None:
    space.rules = Rules(max_depth=2, max_unseen=10)
    two = folder(space, "2", folder(space, "1").id)
    three = space.must(space.one(CreateFolder(parent_id=two.id, name="3")))
    assert space.one(CreateFolder(parent_id=three.id, name="4")).code == "depth_exceeded"


# Moving -------------------------------------------------------------------------------------


def test_a_folder_cannot_be_moved_into_itself_or_below_itself(space: Space) -> None:
    outer = folder(space, "outer")
    inner = folder(space, "inner", outer.id)
    assert codes(space.do(move(outer, outer.id, "x"), move(outer, inner.id, "x"))) == ["cycle", "cycle"]


def test_two_folders_moved_into_each_other_leave_no_cycle(space: Space) -> None:
    x, y = folder(space, "x"), folder(space, "y")
    assert codes(space.do(move(x, y.id, "x"), move(y, x.id, "y"))) == [None, "cycle"]


def test_a_move_that_is_done_already_is_no_change(space: Space) -> None:
    node = folder(space, "a")
    op = move(node, ROOT, "b")
    assert codes(space.do(op, op)) == [None, None]
    assert space.seq == 2


def test_a_move_from_where_the_node_is_not_is_refused_with_the_row(space: Space) -> None:
    node = folder(space, "a")
    space.one(move(node, ROOT, "b"))
    result = space.one(move(node, ROOT, "c"))
    assert (result.code, result.current) == ("node_moved", space.nodes[node.id].row())


def test_a_rename_to_another_spelling_of_the_same_name_is_a_change(space: Space) -> None:
    node = folder(space, NFC)
    assert space.must(space.one(move(node, ROOT, NFD))).name == NFD


def test_names_can_be_exchanged_through_a_third_in_one_batch(space: Space) -> None:
    a, b = space.file("a"), space.file("b")
    ops = (
        move(a, ROOT, "t"),
        move(b, ROOT, "a"),
        Move(node_id=a.id, expect_parent_id=ROOT, expect_name="t", parent_id=ROOT, name="b"),
    )
    assert codes(space.do(*ops)) == [None, None, None]
    assert (space.nodes[a.id].name, space.nodes[b.id].name) == ("b", "a")


def test_a_node_can_be_saved_out_of_a_deleted_folder(space: Space) -> None:
    gone = folder(space, "gone")
    kept = space.file("kept", gone.id)
    space.one(deletion(gone))
    assert space.must(space.one(move(kept, ROOT, "kept"))).parent_id == ROOT


def test_a_deleted_node_cannot_be_moved_and_nothing_into_a_deleted_folder(space: Space) -> None:
    gone, file = folder(space, "gone"), space.file("f")
    space.one(deletion(gone))
    assert codes(space.do(move(gone, ROOT, "x"), move(file, gone.id, "f"))) == [
        "node_deleted",
        "parent_deleted",
    ]


def test_a_move_onto_a_taken_name_is_refused(space: Space) -> None:
    a, b = folder(space, "a"), folder(space, "b")
    result = space.one(move(a, ROOT, "b"))
    assert (result.code, result.current) == ("name_taken", b.row())


def test_the_root_is_no_node(space: Space) -> None:
    entry = space.entry(node_id=ROOT, base_version_id="1" * 24)
    ops = (
        Move(node_id=ROOT, expect_parent_id=ROOT, expect_name="x", parent_id=ROOT, name="x"),
        Delete(node_id=ROOT, version_id="1" * 24, seen_seq=0),
        SetAttributes(node_id=ROOT, seen_seq=0),
        RestoreNode(ROOT),
    )
    assert codes([*space.do(*ops), *space.complete(entry)]) == ["not_found"] * 5


# Deleting ------------------------------------------------------------------------------------


def test_a_file_is_deleted_only_in_the_version_that_was_seen(space: Space) -> None:
    file = space.file("f")
    space.complete(space.entry(node_id=file.id, base_version_id=file.version_id))
    result = space.one(deletion(file))
    assert (result.code, result.current) == ("version_conflict", space.nodes[file.id].row())
    assert space.one(Delete(node_id=file.id, seen_seq=100)).code == "invalid_target"


def test_a_move_does_not_refuse_the_deletion_of_a_file(space: Space) -> None:
    file = space.file("f")
    space.one(move(file, ROOT, "g"))
    assert space.one(deletion(file)).ok


def test_deleting_what_is_deleted_is_no_change(space: Space) -> None:
    file = space.file("f")
    space.one(deletion(file))
    head = space.seq
    assert space.one(deletion(file)).ok
    assert space.seq == head


def test_a_folder_with_something_newer_inside_is_not_deleted(space: Space) -> None:
    outer = folder(space, "outer")
    inner = folder(space, "inner", outer.id)
    seen = space.seq
    file = space.file("new", inner.id)
    result = space.one(deletion(outer, seen))
    assert (result.code, result.current) == ("subtree_changed", file.row())
    assert space.one(deletion(outer, space.seq)).ok


def test_what_happens_elsewhere_or_to_the_folder_itself_does_not_refuse_its_deletion(space: Space) -> None:
    outer = folder(space, "outer")
    space.file("inside", outer.id)
    seen = space.seq
    space.file("elsewhere")
    space.one(move(outer, ROOT, "renamed"))
    assert space.one(deletion(outer, seen)).ok


def test_what_was_deleted_inside_since_does_not_refuse_the_deletion_of_a_folder(space: Space) -> None:
    outer = folder(space, "outer")
    inner = folder(space, "inner", outer.id)
    file = space.file("inside", inner.id)
    seen = space.seq
    late = space.file("late", inner.id)
    space.do(deletion(file), deletion(inner, space.seq))
    assert space.nodes[late.id].seq > seen
    assert space.one(deletion(outer, seen)).ok


def test_a_caller_far_behind_must_read_the_feed_before_deleting_a_folder(space: Space) -> None:
    space.rules = Rules(max_depth=128, max_unseen=3)
    outer = folder(space, "outer")
    for name in "abcd":
        folder(space, name)
    assert space.one(deletion(outer, outer.seq)).code == "subtree_changed"


def test_deleting_a_folder_changes_one_row_and_hides_what_is_below(space: Space) -> None:
    outer = folder(space, "outer")
    file = space.file("f", outer.id)
    space.one(deletion(outer))
    assert space.nodes[file.id] == file
    change = space.complete(space.entry(node_id=file.id, base_version_id=file.version_id))
    assert codes(change) == ["parent_deleted"]


def test_a_file_deleted_below_a_deleted_folder_stays_deleted_when_the_folder_comes_back(space: Space) -> None:
    outer = folder(space, "outer")
    file = space.file("f", outer.id)
    space.do(deletion(outer), deletion(file), RestoreNode(outer.id))
    assert space.nodes[file.id].deleted
    assert not space.nodes[outer.id].deleted


# Attributes ----------------------------------------------------------------------------------


def test_attributes_change_the_row_and_make_no_version(space: Space) -> None:
    file = space.file("f")
    op = SetAttributes(node_id=file.id, version_id=file.version_id, mtime_ns=-5, executable=True)
    node = space.must(space.one(op))
    assert (node.mtime_ns, node.executable, node.version_id, node.seq) == (-5, True, file.version_id, 2)
    space.one(op)
    assert (space.seq, len(space.versions)) == (2, 1)


@pytest.mark.parametrize(
    ("kind", "changed", "code"),
    [
        ("file", {"symlink_target": "x"}, "invalid_target"),
        ("file", {"version_id": None}, "invalid_target"),
        ("file", {"version_id": "9" * 24}, "version_conflict"),
        ("link", {"executable": True}, "invalid_target"),
        ("link", {"seen_seq": None, "mtime_ns": 3}, "invalid_target"),
        ("link", {"seen_seq": 0, "mtime_ns": 3}, "version_conflict"),
        ("folder", {}, "invalid_target"),
    ],
)
def test_attributes_must_fit_what_the_caller_saw(
    space: Space, kind: str, changed: dict[str, Any], code: str
) -> None:
    nodes = {
        "file": space.file("file"),
        "link": space.must(space.one(CreateSymlink(parent_id=ROOT, name="link", target="t"))),
        "folder": folder(space, "folder"),
    }
    node = nodes[kind]
    fields = {"node_id": node.id, "version_id": node.version_id, "seen_seq": node.seq, **changed}
    assert space.one(SetAttributes(**fields)).code == code


def test_a_new_target_of_a_link_is_of_the_current_epoch(space: Space) -> None:
    link = space.must(space.one(CreateSymlink(parent_id=ROOT, name="l", target="a")))
    space.epoch = 9
    op = SetAttributes(node_id=link.id, seen_seq=link.seq, symlink_target="b")
    node = space.must(space.one(op))
    assert (node.symlink_target, node.epoch) == ("b", 9)
    renamed = space.must(space.one(move(node, ROOT, "m")))
    assert renamed.epoch == 9


# Commits -------------------------------------------------------------------------------------


def test_a_commit_writes_object_version_and_row_together(space: Space) -> None:
    file = space.file("f")
    version = space.versions[file.version_id or ""]
    assert (file.size, file.content_hash, file.epoch, file.seq) == (10, HASH, 7, 1)
    assert (version.node_id, version.parent_version_id, version.seq) == (file.id, None, 1)
    assert version.created_us == file.changed_us
    assert version.object_id in space.objects
    assert (space.used_bytes, space.files) == (10, 1)


def test_a_commit_on_another_version_than_the_current_is_refused_with_the_row(space: Space) -> None:
    file = space.file("f")
    second = space.must(space.complete(space.entry(node_id=file.id, base_version_id=file.version_id))[0])
    result = space.complete(space.entry(node_id=file.id, base_version_id=file.version_id))[0]
    assert (result.code, result.current) == ("version_conflict", second.row())
    assert space.versions[second.version_id or ""].parent_version_id == file.version_id


def test_a_commit_on_a_deleted_file_revives_it_only_when_asked_and_in_the_seen_version(space: Space) -> None:
    file = space.file("f")
    space.one(deletion(file))
    target: dict[str, Any] = {"node_id": file.id, "base_version_id": file.version_id}
    assert codes(space.complete(space.entry(**target))) == ["node_deleted"]
    stale = {**target, "base_version_id": "9" * 24, "undelete": True}
    assert codes(space.complete(space.entry(**stale))) == ["version_conflict"]
    revived = space.must(space.complete(space.entry(**target, undelete=True))[0])
    assert (revived.id, revived.deleted, revived.name) == (file.id, False, "f")


def test_a_file_whose_name_was_given_to_another_is_not_revived(space: Space) -> None:
    file = space.file("f")
    space.one(deletion(file))
    other = space.file("f")
    entry = space.entry(node_id=file.id, base_version_id=file.version_id, undelete=True)
    result = space.complete(entry)[0]
    assert (result.code, result.current) == ("name_taken", other.row())


def test_entries_are_judged_one_by_one(space: Space) -> None:
    taken, parent = space.file("taken"), folder(space, "d")
    results = space.complete(
        space.entry(4, parent_id=ROOT, name="new"),
        space.entry(5, parent_id=ROOT, name="taken"),
        space.entry(6, node_id=parent.id, base_version_id="1" * 24),
        space.entry(7, node_id="9" * 24, base_version_id="1" * 24),
        space.entry(8, parent_id=ROOT, name="new"),
        space.entry(9, parent_id=ROOT, name="gone", object_id="8" * 24),
    )
    assert [result.index for result in results] == [4, 5, 6, 7, 8, 9]
    assert codes(results) == [None, "name_taken", "not_a_file", "not_found", "name_taken", "object_gone"]
    assert results[1].current == taken.row()
    event = space.events[-1]
    assert isinstance(event, FileCommitted)
    assert (event.first_seq, event.last_seq, len(event.changes), len(event.objects)) == (3, 3, 1, 1)


@pytest.mark.parametrize("flaw", ["doomed", "corrupt", "foreign", "other content"])
def test_an_object_that_cannot_be_referred_to_is_gone(space: Space, flaw: str) -> None:
    file = space.file("f")
    stored = space.objects[space.versions[file.version_id or ""].object_id]
    flaws: dict[str, dict[str, Any]] = {
        "doomed": {"live": False},
        "corrupt": {"corrupt": True},
        "foreign": {"namespace_id": OTHER_ROOT},
        "other content": {"content_hash": "b" * 64},
    }
    space.objects[stored.id] = replace(stored, **flaws[flaw])
    assert codes(space.complete(space.entry(parent_id=ROOT, name="g", object_id=stored.id))) == [
        "object_gone"
    ]


def test_two_files_with_one_content_share_an_object_and_count_once(space: Space) -> None:
    first = space.entry(0, parent_id=ROOT, name="a")
    second = first.model_copy(update={"index": 1, "target": first.target.model_copy(update={"name": "b"})})
    assert codes(space.complete(first, second)) == [None, None]
    assert (len(space.objects), space.used_bytes, space.files) == (1, 10, 2)


def test_the_quota_lets_in_what_fits(space: Space) -> None:
    space.rules = Rules(max_depth=9, max_unseen=9, quota_bytes=25)
    entries = [space.entry(i, parent_id=ROOT, name=f"f{i}") for i in range(3)]
    assert codes(space.complete(*entries)) == [None, None, "quota_exceeded"]


def test_a_completion_told_again_changes_nothing_and_repeats_its_results(space: Space) -> None:
    entry = space.entry(parent_id=ROOT, name="f")
    first = space.complete(entry, upload_id="7" * 24)
    second = space.complete(entry, upload_id="7" * 24)
    assert first == second
    assert (space.seq, len(space.versions)) == (1, 1)
    again = space.events[-1]
    assert isinstance(again, FileCommitted)
    assert (again.first_seq, again.last_seq, again.changes) == (0, 0, [])


def test_a_refused_completion_told_again_stays_refused_also_when_nothing_is_in_the_way_any_more(
    space: Space,
) -> None:
    taken = space.file("f")
    entry = space.entry(parent_id=ROOT, name="f")
    first = space.complete(entry, upload_id="7" * 24)
    space.one(deletion(taken))
    assert space.complete(entry, upload_id="7" * 24) == first
    assert isinstance(space.events[-1], CommitRejected)


def test_an_older_attempt_gets_the_outcome_of_the_newer_one(space: Space) -> None:
    space.file("f")
    refused = space.entry(parent_id=ROOT, name="f")
    assert codes(space.complete(refused, upload_id="7" * 24)) == ["name_taken"]
    elsewhere = refused.model_copy(update={"target": refused.target.model_copy(update={"name": "g"})})
    assert codes(space.complete(elsewhere, upload_id="7" * 24, attempt=2)) == [None]
    assert codes(space.complete(refused, upload_id="7" * 24)) == [None]
    assert getattr(space.events[-1], "attempt", None) == 2


def test_an_entry_commits_once_even_when_its_outcome_is_forgotten(space: Space) -> None:
    entry = space.entry(parent_id=ROOT, name="f")
    first = space.complete(entry, upload_id="7" * 24)[0]
    space.recorded.clear()
    assert space.complete(entry, upload_id="7" * 24)[0].row == first.row
    assert (space.seq, len(space.versions)) == (1, 1)


def test_a_completion_with_nothing_committed_is_a_rejection(space: Space) -> None:
    space.complete(space.entry(parent_id="9" * 24, name="f"))
    assert isinstance(space.events[-1], CommitRejected)
    assert space.seq == 0
    assert not space.objects


def test_a_row_tells_what_its_content_was_put_together_from_while_it_shows_that_content(space: Space) -> None:
    file = space.file("f")
    base = BaseVersion(node_id=file.id, version_id=file.version_id or "", content_hash=HASH)

    def commit(before: Node, base: BaseVersion | None) -> Node:
        entry = space.entry(node_id=before.id, base_version_id=before.version_id)
        return space.must(space.complete(entry.model_copy(update={"base": base}))[0])

    composed = commit(file, base)
    assert composed.row().base == space.versions[composed.version_id or ""].base == base
    renamed = space.must(space.one(move(composed, ROOT, "g")))
    assert renamed.base == base
    whole = commit(renamed, None)
    assert whole.row().base is None
    restored = space.must(space.one(RestoreVersion(file.id, composed.version_id or "", None)))
    assert restored.base == base
    bad = space.must(space.one(RestoreVersion(file.id, whole.version_id or "", None)))
    space.one(CondemnObject(space.versions[bad.version_id or ""].object_id))
    assert space.nodes[file.id].base == base, "it went back to the one that was put together"


# Versions, trash, corruption ------------------------------------------------------------------


def test_restoring_a_version_makes_a_new_one_on_the_same_object(space: Space) -> None:
    file = space.file("f")
    second = space.must(
        space.complete(space.entry(node_id=file.id, base_version_id=file.version_id, size=20))[0]
    )
    node = space.must(space.one(RestoreVersion(file.id, file.version_id or "", second.version_id)))
    version = space.versions[node.version_id or ""]
    assert node.version_id not in {file.version_id, second.version_id}
    assert (node.size, version.object_id) == (10, space.versions[file.version_id or ""].object_id)
    assert version.parent_version_id == second.version_id
    event = space.events[-1]
    assert isinstance(event, FileCommitted)
    assert event.upload_id is None


def test_a_version_of_another_file_or_on_a_stale_base_is_not_restored(space: Space) -> None:
    file, other = space.file("f"), space.file("g")
    space.complete(space.entry(node_id=file.id, base_version_id=file.version_id))
    ops = (
        RestoreVersion(file.id, other.version_id or "", None),
        RestoreVersion(file.id, file.version_id or "", file.version_id),
        RestoreVersion(folder(space, "d").id, file.version_id or "", None),
    )
    assert codes(space.do(*ops)) == ["not_found", "version_conflict", "not_a_file"]


def test_a_restored_node_takes_another_name_when_its_own_is_taken(space: Space) -> None:
    first = space.file("a.txt")
    space.one(deletion(first))
    space.file("a.txt")
    second = space.must(space.one(RestoreNode(first.id)))
    assert second.name == "a (restored).txt"
    assert isinstance(space.events[-1], FileRestored)
    again = space.file("b")
    space.one(deletion(again))
    assert space.must(space.one(RestoreNode(again.id))).name == "b"


def test_restoring_what_is_not_deleted_is_no_change_and_below_a_deleted_folder_it_is_refused(
    space: Space,
) -> None:
    outer = folder(space, "outer")
    file = space.file("f", outer.id)
    assert space.one(RestoreNode(file.id)).row == file.row()
    space.do(deletion(file), deletion(outer))
    assert space.one(RestoreNode(file.id)).code == "parent_deleted"


def test_a_corrupt_object_takes_its_files_back_to_their_last_good_version(space: Space) -> None:
    file = space.file("f")
    bad = space.must(
        space.complete(space.entry(node_id=file.id, base_version_id=file.version_id, size=20))[0]
    )
    only = space.entry(
        0, parent_id=ROOT, name="only", object_id=space.versions[bad.version_id or ""].object_id
    )
    space.complete(only)
    space.one(CondemnObject(space.versions[bad.version_id or ""].object_id))
    assert (space.nodes[file.id].version_id, space.nodes[file.id].size) == (file.version_id, 10)
    assert space.nodes[file.id].seq > bad.seq
    lost = next(node for node in space.nodes.values() if node.name == "only")
    assert lost.deleted
    assert {type(event) for event in space.events[-2:]} == {FileUpdated, FileDeleted}
    assert space.versions[bad.version_id or ""].corrupt


# Sequence and events --------------------------------------------------------------------------


def test_changes_of_one_type_in_a_row_are_one_event_without_gaps(space: Space) -> None:
    a = folder(space, "a")
    start = len(space.events)
    space.do(
        CreateFolder(parent_id=ROOT, name="b"),
        CreateFolder(parent_id=ROOT, name="c"),
        CreateFolder(parent_id=ROOT, name="c"),
        move(a, ROOT, "z"),
        CreateFolder(parent_id=ROOT, name="d"),
    )
    told = [event for event in space.events[start:] if isinstance(event, TreeChanged)]
    assert [type(event) for event in told] == [FolderCreated, FileMoved, FolderCreated]
    assert [(event.first_seq, event.last_seq) for event in told] == [(2, 3), (4, 4), (5, 5)]


def test_times_rise_with_sequence_numbers_also_when_the_clock_stands_or_goes_back(space: Space) -> None:
    names = iter("abcdef")
    for now in (1000, 1000, 500, 2000):
        space.now_us = now
        folder(space, next(names))
    ordered = sorted(space.nodes.values(), key=lambda node: node.seq)
    assert [node.changed_us for node in ordered] == [1000, 1001, 1002, 2000]
