"""Contents whose bytes the server has lost: what its row says, and what a device that has them does."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.damaged import spare
from agent.model import FileStat, Kind, RemoteNode, SyncedNode
from agent.state import State
from libs.contracts.events import UploadedEntry, UploadedObject
from libs.contracts.ids import new_id
from libs.contracts.tree import CommitTarget, Delete, NodeRow
from services.metadata.domain.model import CondemnObject, Node
from tests.support.metadata_space import ROOT, Space

GOOD, LOST, LATER = ("1" * 64, "2" * 64, "3" * 64)


# What the server says --------------------------------------------------------------------------


def entry(space: Space, content_hash: str, **target: str | None) -> UploadedEntry:
    stored = UploadedObject(id=space.new_id(), key="t/x/y", size=3, content_hash=content_hash, verified=True)
    return UploadedEntry(index=0, object=stored, target=CommitTarget.model_validate(target))


def commit(space: Space, content_hash: str, node: Node | None = None) -> Node:
    target: dict[str, str | None] = {"parent_id": ROOT, "name": "f"}
    if node is not None:
        target = {"node_id": node.id, "base_version_id": node.version_id}
    return space.must(space.complete(entry(space, content_hash, **target))[0])


def condemn(space: Space, content_hash: str) -> None:
    (version,) = [one for one in space.versions.values() if one.content_hash == content_hash]
    space.one(CondemnObject(version.object_id))


def test_a_file_that_goes_back_names_every_content_that_it_went_back_from() -> None:
    space = Space()
    node = commit(space, GOOD)
    for content in (LOST, LATER):
        node = commit(space, content, node)
    condemn(space, LATER)
    assert space.nodes[node.id].row().damaged == [LATER]
    condemn(space, LOST)
    shown = space.nodes[node.id].row()
    assert (shown.content_hash, set(shown.damaged)) == (GOOD, {LOST, LATER})


def test_a_content_lost_before_the_one_that_is_shown_is_named_with_it() -> None:
    space = Space()
    node = commit(space, GOOD)
    for content in (LOST, LATER):
        node = commit(space, content, node)
    condemn(space, LOST)
    assert space.nodes[node.id].row().damaged == []
    condemn(space, LATER)
    assert space.nodes[node.id].row().damaged == [LOST, LATER]


def test_a_file_that_is_deleted_for_want_of_a_good_version_names_what_it_was() -> None:
    space = Space()
    node = commit(space, LOST)
    condemn(space, LOST)
    shown = space.nodes[node.id].row()
    assert (shown.deleted, shown.damaged) == (True, [LOST])


def test_a_new_version_or_a_deletion_by_somebody_ends_it() -> None:
    space = Space()
    node = commit(space, LOST, commit(space, GOOD))
    condemn(space, LOST)
    back = space.nodes[node.id]
    assert commit(space, LATER, back).damaged == ()
    shown = space.nodes[node.id]
    condemn(space, LATER)
    back = space.nodes[node.id]
    assert back.damaged
    space.must(space.one(Delete(node_id=node.id, version_id=back.version_id)))
    assert space.nodes[node.id].damaged == ()
    assert shown.version_id != back.version_id


# What a device does ----------------------------------------------------------------------------

STAT = FileStat(1, 2, 3, 4, 5, 0o644)
AGREED = SyncedNode(new_id(), new_id(), "f", Kind.FILE, "v2", LOST, size=3, stat=STAT)
ROW = NodeRow(
    id=AGREED.id, namespace_id=AGREED.parent_id, parent_id=AGREED.parent_id, name="f", kind=Kind.FILE,
    version_id=new_id(), content_hash=GOOD, size=7, seq=5, changed_at=datetime(2026, 1, 1, tzinfo=UTC),
    damaged=[LOST],
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state.db")
    state.put_synced([AGREED])
    return state


def test_what_the_server_lost_is_an_edit_on_top_of_what_it_went_back_to(state: State) -> None:
    spare(state, [ROW])
    agreed = state.synced[AGREED.id]
    assert (agreed.version_id, agreed.content_hash, agreed.size) == (ROW.version_id, GOOD, 7)
    assert agreed.stat == AGREED.stat


def test_what_the_server_lost_and_deleted_is_a_new_file(state: State) -> None:
    spare(state, [ROW.model_copy(update={"deleted": True})])
    assert AGREED.id not in state.synced


def test_a_device_that_has_another_content_takes_the_row_for_news(state: State) -> None:
    other = replace(AGREED, content_hash=LATER)
    state.put_synced([other])
    spare(state, [ROW])
    assert state.synced[AGREED.id] == other


def test_an_old_row_does_not_undo_what_was_sent_again_since(state: State) -> None:
    sent = RemoteNode(AGREED.id, AGREED.parent_id, "f", Kind.FILE, 6, version_id="v3", content_hash=LOST)
    state.put_remote([sent])
    spare(state, [ROW])
    assert state.synced[AGREED.id] == AGREED
