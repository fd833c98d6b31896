"""What is known after a full listing, and still agreed on when the server came back from a backup."""

from dataclasses import replace
from pathlib import Path

from agent.feed import Feed, Restore, intact_until, rebased
from agent.model import FileStat, Kind, RemoteNode, SyncedNode
from agent.state import State
from libs.contracts.api import SyncPage
from libs.contracts.cursor import Cursor
from libs.contracts.errors import GoneError

OLD, NEW, SEEN = 1, 2, 10
STAT = FileStat(1, 2, 3, 4, 5, 0o644)
AGREED = SyncedNode("n", "root", "file", Kind.FILE, "v5", "5" * 64, stat=STAT, epoch=OLD)
ROW = RemoteNode("n", "root", "file", Kind.FILE, 3, version_id="v2", content_hash="2" * 64, epoch=OLD)
KNOWN = replace(ROW, seq=8, version_id="v5", content_hash="5" * 64)
NEXT = replace(ROW, version_id="v6", content_hash="6" * 64)
LINK = RemoteNode("l", "root", "link", Kind.SYMLINK, 8, symlink_target="new", epoch=OLD)


def after(
    row: RemoteNode | None,
    known: RemoteNode | None = KNOWN,
    *,
    old: SyncedNode = AGREED,
    intact: int = 5,
) -> SyncedNode | None:
    return rebased(old, known, row, Restore(NEW, SEEN, intact))


def test_a_node_that_is_absent_or_deleted_there_is_looked_at_as_new() -> None:
    assert after(None) is None
    assert after(None, intact=SEEN) is None
    assert after(replace(ROW, deleted=True)) is None


def test_the_version_that_both_have_stays_agreed_on_where_the_server_has_it() -> None:
    assert after(replace(KNOWN, seq=3, name="moved")) == replace(AGREED, name="moved")


def test_local_content_goes_on_top_of_an_older_version() -> None:
    """The older version becomes the base, so the disk shows as edited and is sent."""
    base = after(ROW)
    assert base is not None
    assert (base.version_id, base.content_hash, base.stat) == ("v2", "2" * 64, STAT)


def test_a_link_that_was_changed_since_the_backup_is_changed_again() -> None:
    agreed = SyncedNode("l", "root", "link", Kind.SYMLINK, symlink_target="new", stat=STAT, epoch=OLD)
    row = replace(LINK, seq=3, symlink_target="old")
    assert after(row, LINK, old=agreed) == replace(agreed, symlink_target="old")


def test_beside_a_version_of_the_new_epoch_local_content_becomes_a_copy() -> None:
    assert after(replace(ROW, epoch=NEW, seq=11)) is None


def test_beside_an_older_version_that_was_moved_since_local_content_becomes_a_copy() -> None:
    """By its sequence number it could be a newer one: to fetch it would lose the content here."""
    assert after(replace(ROW, name="moved", seq=SEEN + 1)) is None


def test_what_the_backup_holds_as_it_was_known_goes_on_as_ever() -> None:
    """News from before the backup, or from after it, is fetched, followed, or deleted here."""
    news = replace(NEXT, seq=SEEN + 1)
    for row in (news, replace(news, epoch=NEW), replace(KNOWN, seq=11, name="moved"), KNOWN):
        assert after(row, intact=8) == AGREED
    assert after(replace(KNOWN, seq=11, deleted=True), intact=8) == AGREED


def test_a_version_that_was_known_and_not_fetched_yet_is_fetched() -> None:
    """The content here is older than what the server has: it must not go on top of it."""
    unfetched = replace(NEXT, seq=8)
    assert after(unfetched, unfetched) == AGREED
    assert after(replace(unfetched, seq=11, name="moved"), unfetched) == AGREED
    assert after(ROW, unfetched) is None


def test_a_row_as_it_was_known_says_that_all_before_it_is_there() -> None:
    other = replace(ROW, id="m", seq=6)
    assert intact_until({"n": KNOWN, "m": other}, {"n": KNOWN, "m": other}) == 8
    assert intact_until({"n": KNOWN, "m": other}, {"n": ROW, "m": other}) == 6
    assert intact_until({"n": KNOWN, "m": other}, {"m": other}) == 6
    assert intact_until({"n": KNOWN}, {"n": ROW}) == 0


def test_a_change_that_was_made_again_does_not_hide_that_an_earlier_one_is_lost() -> None:
    again = replace(ROW, id="m", seq=9, name="moved")
    assert intact_until({"n": KNOWN, "m": again}, {"n": ROW, "m": again}) == 0


# Listings ------------------------------------------------------------------------------------------


class _Server:
    """Lists nothing; meanwhile a transfer of this device is committed and recorded."""

    def __init__(self, state: State, committed: RemoteNode) -> None:
        self._state = state
        self._committed = committed

    async def sync(self, cursor: str | None) -> SyncPage:
        if cursor is not None:
            raise GoneError("Too old", code="cursor_expired", epoch=OLD)
        self._state.put_remote([self._committed])
        return SyncPage(items=[], cursor=Cursor(OLD, {"root": SEEN}).encode(), has_more=False, epoch=OLD)


async def test_what_was_committed_while_a_listing_was_read_stays_known(tmp_path: Path) -> None:
    """It would look deleted, and leave the disk until the next look at the feed."""
    state = State(tmp_path / "state.db")
    state.put("cursor", Cursor(OLD, {"root": 1}).encode())
    state.put_remote([replace(ROW, id="purged", seq=1)])
    committed = replace(ROW, seq=SEEN + 1)
    await Feed(state, _Server(state, committed), "root").pull()  # type: ignore[arg-type]
    assert state.remote == {"n": committed}
    state.close()
