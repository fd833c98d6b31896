"""The pure parts of upload sessions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.errors import InvalidRequestError, QuotaError
from libs.contracts.keys import key_of, prefix_of
from libs.contracts.limits import BASE_PART_BYTES, GIB, MAX_FILE_BYTES, MAX_PARTS, MIB, TIB
from libs.contracts.parts import part_count
from libs.contracts.tree import BaseVersion, CommitTarget, ItemResult, Kind, NodeRow
from services.upload.domain import paging
from services.upload.domain.completion import missing_error, plan, same_request, with_targets
from services.upload.domain.modes import (
    Announced,
    Offer,
    Sizes,
    StoredCopy,
    by_bytes,
    by_delta,
    entry_of,
    is_in_the_way,
    is_offered,
    mode_of,
    part_size_of,
    rewished,
)
from services.upload.domain.outcome import CURABLE, Refill, settled
from services.upload.domain.session import Device, Entry, Lease, Session
from services.upload.service import announce
from services.upload.store.documents import difference, to_document, to_session

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMESPACE, USER, DEVICE = "a" * 24, "b" * 24, "c" * 24
SIZES = Sizes(single_put=BASE_PART_BYTES, part=BASE_PART_BYTES)
REFILL = Refill(lambda: "f" * 24, SIZES)
TARGET = CommitTarget(parent_id=NAMESPACE, name="a")
BASE = BaseVersion(node_id="4" * 24, version_id="5" * 24, content_hash="6" * 64)


def row(name: str = "a") -> NodeRow:
    return NodeRow(
        id="d" * 24,
        namespace_id=NAMESPACE,
        parent_id=NAMESPACE,
        name=name,
        kind=Kind.FILE,
        seq=1,
        changed_at=NOW,
    )


def entry(index: int = 0, mode: UploadMode = UploadMode.PUT, size: int = 1, **more: object) -> Entry:
    base = Entry(index, mode, "e" * 64, size, "p", object_id="1" * 24, key=f"t/x-{index}", sealed=True)
    return replace(base, **more)  # type: ignore[arg-type]


def session(*entries: Entry, **more: object) -> Session:
    chosen = entries or (entry(),)
    base = Session(
        id="9" * 24, user_id=USER, namespace_id=NAMESPACE, batch=len(chosen) > 1,
        state=UploadState.OPEN, attempt=0, entries=chosen, size=sum(one.size for one in chosen),
        key_prefix="t/x", device=Device(DEVICE, "d"), devices=(DEVICE,),
        created_at=NOW, updated_at=NOW, expires_at=NOW,
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def committing(*entries: Entry) -> Session:
    before = session(*entries)
    return replace(
        with_targets(before, {one.index: TARGET for one in before.entries}), state=UploadState.COMMITTING
    )


# Modes and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mode"),
    [(0, UploadMode.PUT), (BASE_PART_BYTES, UploadMode.PUT), (BASE_PART_BYTES + 1, UploadMode.MULTIPART)],
)
def test_files_up_to_the_limit_travel_in_one_put(size: int, mode: UploadMode) -> None:
    assert mode_of(size, SIZES) is mode


@given(st.integers(0, MAX_FILE_BYTES), st.none() | st.integers(0, 10 * GIB))
def test_parts_are_never_too_many_nor_below_the_base(size: int, throughput: int | None) -> None:
    part = part_size_of(size, SIZES, throughput)
    assert part_count(size, part) <= MAX_PARTS
    assert part >= BASE_PART_BYTES
    assert part % MIB == 0


@pytest.mark.parametrize(
    ("size", "throughput", "part"),
    [
        (50 * GIB, None, 10 * MIB),
        (50 * GIB, 1 * MIB, 10 * MIB),
        (50 * GIB, 30 * MIB + 5, 30 * MIB),
        (50 * GIB, 900 * MIB, 64 * MIB),
        (100 * MIB, 900 * MIB, 10 * MIB),
        (TIB, None, 111 * MIB),
    ],
)
def test_a_fast_client_gets_larger_parts_within_bounds(size: int, throughput: int | None, part: int) -> None:
    assert part_size_of(size, SIZES, throughput) == part


def test_a_file_beyond_s3_is_refused() -> None:
    with pytest.raises(QuotaError):
        part_size_of(MAX_FILE_BYTES + 1, SIZES, None)


def test_a_session_goes_on_by_delta_while_nothing_was_sent_in_parts_and_whole_without_the_base() -> None:
    offer = Offer("t/base", 9, 3, "d" * 64)
    whole = session(entry(size=BASE_PART_BYTES + 1, mode=UploadMode.MULTIPART))
    composed = rewished(whole, offer, SIZES)
    assert (composed.composed, composed.part_size) == (True, None)
    assert rewished(composed, offer, SIZES) is composed
    assert rewished(whole, None, SIZES) is whole
    assert rewished(composed, replace(offer, sha256="c" * 64), SIZES) is not composed
    back = rewished(composed, None, SIZES)
    assert (back.multipart, back.part_size, back.entries[0].delta) == (True, BASE_PART_BYTES, None)
    begun = replace(whole, parts_done=1)
    assert rewished(begun, offer, SIZES) is begun
    stored = session(entry(mode=UploadMode.STORED))
    assert rewished(stored, offer, SIZES) is stored


LARGE_OFFER = Offer("t/base", 9, 25 * MIB, "d" * 64)


def large_delta(**more: object) -> Session:
    """A session of a delta object in parts, of which one was sent."""
    composed = by_delta(session(entry(size=GIB)), LARGE_OFFER, SIZES)
    return replace(composed, **{"parts_done": 1, "delta_upload_id": "u", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "throughput", "part_size", "parts"),
    [
        (BASE_PART_BYTES, None, None, 0),
        (BASE_PART_BYTES + 1, None, BASE_PART_BYTES, 2),
        (2 * GIB, 30 * MIB, 30 * MIB, 69),
        (64 * GIB, None, BASE_PART_BYTES, 6554),
    ],
)
def test_a_delta_object_travels_as_a_file_of_its_size(
    size: int, throughput: int | None, part_size: int | None, parts: int
) -> None:
    whole = replace(session(entry(size=TIB)), digests_enforced=True)
    composed = by_delta(whole, replace(LARGE_OFFER, size=size), SIZES, throughput)
    assert (composed.part_size, composed.parts_total) == (part_size, parts)
    assert composed.entries[0].needs_put() is (part_size is None)
    assert composed.size == TIB, "what is reserved"
    assert not composed.digests_enforced
    travelling = composed.in_parts
    if part_size is not None:
        assert travelling is not None
        assert (travelling.key, travelling.size, travelling.delta) == (
            "t/x-0.dddddddddddddddd.delta",
            size,
            "d" * 64,
        )
    else:
        assert travelling is None


def test_the_same_delta_object_keeps_its_parts_wherever_its_base_is_found() -> None:
    begun = large_delta()
    assert rewished(begun, LARGE_OFFER, SIZES) is begun
    moved = rewished(begun, replace(LARGE_OFFER, base_key="t/other", base=BASE), SIZES)
    delta = moved.entries[0].delta
    assert delta is not None
    assert (delta.base_key, delta.base) == ("t/other", BASE)
    assert (moved.parts_done, moved.delta_upload_id, moved.part_size) == (1, "u", begun.part_size)


@pytest.mark.parametrize("offer", [None, replace(LARGE_OFFER, sha256="c" * 64), replace(LARGE_OFFER, size=5)])
def test_another_way_begins_with_nothing_of_the_one_before(offer: Offer | None) -> None:
    other = rewished(large_delta(s3_upload_id="half made"), offer, SIZES)
    assert (other.parts_done, other.delta_upload_id, other.s3_upload_id) == (0, None, None)
    assert is_offered(other, offer) is (offer is not None)
    assert (other.part_size is None) is (offer is not None and offer.size == 5)


OTHER_DEVICE = "5" * 24
QUIET = NOW - timedelta(minutes=15)


@pytest.mark.parametrize(
    ("before", "device", "offer", "waits"),
    [
        (large_delta(), OTHER_DEVICE, None, True),
        (large_delta(parts_done=0), OTHER_DEVICE, None, True),
        (large_delta(), OTHER_DEVICE, replace(LARGE_OFFER, sha256="c" * 64), True),
        (large_delta(), OTHER_DEVICE, LARGE_OFFER, False),
        (large_delta(), DEVICE, None, False),
        (large_delta(updated_at=QUIET), OTHER_DEVICE, None, False),
        (by_delta(session(entry(size=GIB)), replace(LARGE_OFFER, size=5), SIZES), OTHER_DEVICE, None, False),
        (session(entry(mode=UploadMode.MULTIPART, size=GIB)), OTHER_DEVICE, LARGE_OFFER, False),
    ],
    ids=[
        "bytes",
        "nothing told yet",
        "other delta",
        "the same",
        "itself",
        "quiet",
        "one request",
        "bytes sent",
    ],
)
def test_who_cannot_help_with_a_delta_in_parts_waits_while_its_sender_is_heard_of(
    before: Session, device: str, offer: Offer | None, waits: bool
) -> None:
    assert is_in_the_way(before, device, offer, QUIET) is waits


def test_a_session_of_a_delta_in_parts_survives_the_store() -> None:
    begun = large_delta()
    assert to_session(to_document(begun)) == begun
    assert difference(begun, begun.with_upload(None)) == {"$set": {"delta_upload_id": None}}
    old = to_document(begun)
    del old["delta_upload_id"]
    assert to_session(old) == begun.with_upload(None), "of a release that knew none"


def test_a_stored_copy_is_used_only_when_its_size_is_the_announced_one() -> None:
    copy = StoredCopy("2" * 24, "t/y", 5)
    ids = ("3" * 24, UploadMode.PUT)
    same = entry_of(0, Announced("e" * 64, 5), copy, "t/x", ids)
    other = entry_of(0, Announced("e" * 64, 6), copy, "t/x", ids)
    assert (same.mode, same.object_id, same.key, same.sealed) == (UploadMode.STORED, "2" * 24, "t/y", True)
    assert (other.mode, other.object_id, other.key, other.sealed) == (
        UploadMode.PUT,
        "3" * 24,
        "t/x-0",
        False,
    )


@given(st.integers(0, 499))
def test_the_prefix_of_a_key_is_found_again(index: int) -> None:
    assert prefix_of(key_of("t/ns/random", index)) == "t/ns/random"


# Completing --------------------------------------------------------------------------------


def test_an_index_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        plan(session(), {1: TARGET})


def test_what_is_committed_is_answered_again_at_its_target_and_refused_elsewhere() -> None:
    done = session(entry(target=TARGET, attempt=1, result=ItemResult(index=0, row=row())), attempt=1)
    assert plan(done, {0: TARGET}).answered[0].ok
    other = plan(done, {0: CommitTarget(parent_id=NAMESPACE, name="b")})
    assert (other.answered[0].code, other.asked) == ("committed_elsewhere", {})


def test_another_device_with_the_same_file_at_the_same_place_gets_the_same_answer() -> None:
    """The two files differ in their times; the bytes are committed once."""
    done = session(entry(target=TARGET, attempt=1, result=ItemResult(index=0, row=row())), attempt=1)
    theirs = TARGET.model_copy(update={"mtime_ns": 7, "executable": True})
    assert plan(done, {0: theirs}).answered[0].ok
    assert same_request(done, {0: theirs})
    based = CommitTarget(node_id=NAMESPACE, base_version_id=NAMESPACE)
    assert not same_request(done, {0: based})


VERSION_TARGET = CommitTarget(node_id="d" * 24, base_version_id="5" * 24)


@pytest.mark.parametrize(
    ("target", "change"),
    [
        (VERSION_TARGET, {"node_id": "6" * 24}),
        (VERSION_TARGET, {"base_version_id": "6" * 24}),
        (VERSION_TARGET, {"undelete": True}),
        (TARGET, {"parent_id": "6" * 24}),
        (TARGET, {"name": "b"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_commit_to_a_place_that_differs_in_one_thing_is_never_answered_for_another(
    target: CommitTarget, change: dict[str, object]
) -> None:
    """Who has edited a later version would take the answer for its own and lose what it wrote."""
    done = session(entry(target=target, attempt=1, result=ItemResult(index=0, row=row())), attempt=1)
    elsewhere = target.model_copy(update=change)
    assert plan(done, {0: target}).answered[0].ok
    assert plan(done, {0: elsewhere}).answered[0].code == "committed_elsewhere"
    assert not same_request(done, {0: elsewhere})


@pytest.mark.parametrize("code", sorted(CURABLE))
def test_what_was_refused_curably_is_asked_again(code: str) -> None:
    refused = session(entry(target=TARGET, attempt=1, result=ItemResult(index=0, code=code)), attempt=1)
    assert plan(refused, {0: TARGET}).asked == {0: TARGET}


def test_each_completion_is_one_attempt_further_and_knows_what_it_asked() -> None:
    first = with_targets(session(entry(0), entry(1), entry(2)), {0: TARGET, 2: TARGET})
    second = with_targets(first, {1: TARGET})
    assert [one.index for one in first.asked()] == [0, 2]
    assert ([one.index for one in second.asked()], second.attempt) == ([1], 2)
    assert same_request(first, {0: TARGET})
    assert not same_request(first, {1: TARGET})
    assert not same_request(first, {0: CommitTarget(parent_id=NAMESPACE, name="b")})


def test_a_session_that_was_never_completed_has_asked_for_nothing() -> None:
    assert session().asked() == ()


def test_at_most_a_hundred_missing_ones_are_named() -> None:
    assert missing_error("parts_missing", list(range(500))).extra["missing"] == list(range(100))


# Outcomes ----------------------------------------------------------------------------------

OK = ItemResult(index=0, row=row())


@pytest.mark.parametrize(
    ("codes", "state"),
    [
        ((None,), "committed"),
        (("version_conflict",), "open"),
        (("object_gone",), "failed"),
        (("internal",), "failed"),
        ((None, None), "committed"),
        ((None, "name_taken"), "open"),
        ((None, "object_gone"), "committed"),
        (("object_gone", "object_gone"), "failed"),
        (("object_gone", "name_taken"), "open"),
    ],
)
def test_the_answers_decide_the_state(codes: tuple[str | None, ...], state: str) -> None:
    pending = committing(*(entry(i) for i in range(len(codes))))
    results = [ItemResult(index=i, code=code, row=None if code else row()) for i, code in enumerate(codes)]
    after = settled(pending, results, REFILL)
    assert after.state == state
    assert after.code == next((code for code in codes if code), None)


def test_an_entry_without_an_answer_waits_for_another_completion() -> None:
    after = settled(committing(entry()), [], REFILL)
    assert (after.state, after.code) == ("open", None)


@pytest.mark.parametrize(("size", "mode"), [(1, UploadMode.PUT), (20 * MIB, UploadMode.MULTIPART)])
def test_a_stored_copy_that_vanished_is_asked_for_anew(size: int, mode: UploadMode) -> None:
    pending = committing(entry(mode=UploadMode.STORED, size=size, verified=True))
    after = settled(pending, [ItemResult(index=0, code="object_gone")], REFILL)
    only = after.entries[0]
    assert (after.state, only.mode, only.sealed, only.verified) == ("open", mode, False, False)
    assert (only.object_id, only.key) == ("f" * 24, "t/x-0")
    assert after.parts_total == (2 if mode is UploadMode.MULTIPART else 0)


def test_answers_about_entries_nobody_asked_for_change_nothing() -> None:
    pending = replace(with_targets(session(entry(0), entry(1)), {0: TARGET}), state=UploadState.COMMITTING)
    after = settled(pending, [OK, ItemResult(index=1, code="object_gone")], REFILL)
    assert (after.state, after.entries[1].result) == ("open", None)


# Documents and cursors ---------------------------------------------------------------------


def test_a_session_survives_the_way_through_its_document() -> None:
    full = committing(entry(0, result=OK), entry(1, mode=UploadMode.STORED))
    full = replace(full, lease=Lease("me", NOW), s3_upload_id="u", missing=(1, 2), code="parts_missing")
    assert to_session(to_document(full)) == full


def test_a_session_of_a_delta_survives_it_also_one_of_before_its_base_version_was_noted() -> None:
    for base in (BASE, None):
        composed = by_delta(session(entry()), Offer("t/base", 9, 3, "d" * 64, base), SIZES)
        document = to_document(composed)
        assert to_session(document) == composed
        assert document["entries"][0]["delta"].keys() == {"base_key", "base_size", "key", "size", "sha256"}


@pytest.mark.parametrize(("namespace", "told"), [("1" * 24, True), ("2" * 24, False)])
def test_what_a_content_is_put_together_from_is_told_where_all_members_may_know_it(
    namespace: str, *, told: bool
) -> None:
    offer = Offer(f"t/{namespace}/base-0", 9, 3, "d" * 64, BASE)
    asked = with_targets(
        by_delta(replace(session(entry()), namespace_id="1" * 24), offer, SIZES), {0: TARGET}
    )
    (uploaded,) = announce.completed(asked).entries
    assert uploaded.base == (BASE if told else None)


def test_of_a_content_that_came_whole_no_base_is_told() -> None:
    composed = by_delta(session(entry()), Offer(f"t/{NAMESPACE}/base-0", 9, 3, "d" * 64, BASE), SIZES)
    asked = with_targets(by_bytes(composed, SIZES), {0: TARGET})
    (uploaded,) = announce.completed(asked).entries
    assert uploaded.base is None


def test_a_single_session_has_its_key_only_while_it_is_live() -> None:
    live = session()
    assert "dedupe_key" in to_document(live)
    assert "dedupe_key" not in to_document(session(entry(0), entry(1)))
    update = difference(live, replace(live, state=UploadState.ABORTED))
    assert update == {"$set": {"state": "aborted"}, "$unset": {"dedupe_key": ""}}
    assert difference(live, live) == {}


@given(st.integers(0, 10**14 - 1), st.from_regex(r"\A[0-9a-f]{24}\Z"))
def test_a_cursor_is_read_as_it_was_written(milliseconds: int, session_id: str) -> None:
    try:
        position = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds), session_id)
    except OverflowError:
        return
    assert paging.decode(paging.encode(position)) == position


@given(st.text())
def test_any_other_cursor_is_refused(text: str) -> None:
    try:
        paging.decode(text)
    except InvalidRequestError:
        return
    assert paging.encode(paging.decode(text))
