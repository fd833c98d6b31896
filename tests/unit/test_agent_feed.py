"""What is still agreed on after the server came back from a backup."""

from dataclasses import replace

from agent.feed import rebased
from agent.model import FileStat, Kind, RemoteNode, SyncedNode

OLD, NEW, SEEN = 1, 2, 10
STAT = FileStat(1, 2, 3, 4, 5, 0o644)
AGREED = SyncedNode("n", "root", "file", Kind.FILE, "v5", "5" * 64, stat=STAT, epoch=OLD)
ROW = RemoteNode("n", "root", "file", Kind.FILE, 3, version_id="v2", content_hash="2" * 64, epoch=OLD)


def test_a_node_that_is_absent_or_deleted_there_is_looked_at_as_new() -> None:
    assert rebased(AGREED, None, NEW, SEEN) is None
    assert rebased(AGREED, replace(ROW, deleted=True), NEW, SEEN) is None


def test_the_version_that_both_have_stays_agreed_on_where_the_server_has_it() -> None:
    row = replace(ROW, version_id="v5", content_hash="5" * 64, name="moved")
    assert rebased(AGREED, row, NEW, SEEN) == replace(AGREED, name="moved")


def test_local_content_goes_on_top_of_an_older_version() -> None:
    """The older version becomes the base, so the disk shows as edited and is sent."""
    base = rebased(AGREED, ROW, NEW, SEEN)
    assert base is not None
    assert (base.version_id, base.content_hash, base.stat) == ("v2", "2" * 64, STAT)


def test_beside_a_version_of_the_new_epoch_local_content_becomes_a_copy() -> None:
    assert rebased(AGREED, replace(ROW, epoch=NEW, seq=11), NEW, SEEN) is None


def test_a_version_from_before_the_backup_that_was_not_fetched_yet_is_fetched() -> None:
    row = replace(ROW, seq=SEEN + 1, version_id="v6", content_hash="6" * 64)
    assert rebased(AGREED, row, NEW, SEEN) == AGREED
