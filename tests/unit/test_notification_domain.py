"""What is pushed: frames, cursors, the backlog of a slow reader."""

import pytest
from pydantic import SecretStr

from libs.contracts.api import UploadState
from libs.contracts.cursor import Cursor
from libs.contracts.events import (
    TREE_EVENTS,
    DeviceLinked,
    DeviceRevoked,
    FileCommitted,
    FileMoved,
    PartCompleted,
    UploadAborted,
    UploadCompleted,
    UploadExpired,
    UploadStarted,
)
from libs.contracts.ids import new_id
from libs.mongo.views import Views
from libs.web.auth import Caller
from services.notification.consumers import handlers
from services.notification.domain import (
    Backlog,
    Frame,
    Throttle,
    changes_frame,
    changes_of,
    cursor_from,
    encode,
    missed_from,
    progress_of,
)
from services.notification.service import Connection, Hub
from services.notification.settings import Settings
from tests.support.bus_world import committed

NAMESPACE, USER = new_id(), new_id()
HASH = "0" * 64


def settings(**values: object) -> Settings:
    given = {
        "port": 0,
        "mongo_url": SecretStr("mongodb://unused"),
        "amqp_url": SecretStr("amqp://unused"),
        "token_secret": SecretStr("s" * 32),
    }
    return Settings.model_validate({**given, **values})


def connection(**values: object) -> Connection:
    caller = Caller(USER, new_id(), "laptop", NAMESPACE)
    return Connection(caller, settings(**values))


def frame(size: int = 10, replaces: str | None = None) -> Frame:
    return Frame(b"x" * size, replaces=replaces)


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, None),
        (Cursor(7, {NAMESPACE: 90}), 90),
        (Cursor(7, {NAMESPACE: 100}), 100),
        (Cursor(7, {NAMESPACE: 101}), None),
        (Cursor(6, {NAMESPACE: 90}), None),
        (Cursor(7, {NAMESPACE: 49}), None),
        (Cursor(7, {NAMESPACE: 50}), 50),
        (Cursor(7, {}), None),
    ],
    ids=[
        "none",
        "behind",
        "at the head",
        "ahead",
        "other epoch",
        "too far",
        "just near enough",
        "no namespace",
    ],
)
def test_missed_rows_are_sent_only_to_a_cursor_of_this_epoch_not_ahead_and_not_far_behind(
    cursor: Cursor | None, expected: int | None
) -> None:
    assert missed_from(cursor, NAMESPACE, epoch=7, head=100, limit=50) == expected


@pytest.mark.parametrize("text", [None, "", "garbage", "é"])
def test_a_cursor_that_cannot_be_read_counts_as_none(text: str | None) -> None:
    assert cursor_from(text) is None


def test_an_event_is_one_block_of_lines_whatever_its_text_holds() -> None:
    changes = changes_of(committed(5, "line\nbreak\r\n\u2028.txt", NAMESPACE), epoch=3)
    body = changes_frame(changes).body
    assert body.startswith(b"event: changes\ndata: {")
    assert body.endswith(b"}\n\n")
    assert body.count(b"\n") == 3
    assert b"\r" not in body


def test_changes_span_from_the_sequence_number_before_the_first() -> None:
    changes = changes_of(committed(5, namespace_id=NAMESPACE), epoch=3)
    assert (changes.from_seq, changes.to_seq, changes.epoch) == (4, 5, 3)


def test_a_backlog_gives_frames_in_order() -> None:
    backlog = Backlog(max_events=3, max_bytes=1000)
    frames = [frame(n) for n in (1, 2, 3)]
    assert all(backlog.add(one) for one in frames)
    assert [backlog.take() for _ in range(4)] == [*frames, None]


@pytest.mark.parametrize(("events", "size"), [(3, 10), (100, 400)], ids=["too many", "too large"])
def test_a_full_backlog_drops_everything_and_says_so_once(events: int, size: int) -> None:
    backlog = Backlog(max_events=events, max_bytes=1000)
    results = [backlog.add(frame(size)) for _ in range(events + 1)]
    assert results.count(False) == 1
    assert backlog.take() is None
    assert backlog.take_overflow()
    assert not backlog.take_overflow()
    assert backlog.add(frame())
    assert backlog.take() is not None


def test_the_latest_progress_takes_the_place_of_the_one_that_still_waits() -> None:
    backlog = Backlog(max_events=2, max_bytes=1000)
    for size in (1, 2, 3):
        backlog.add(frame(size, replaces="upload 1"))
    backlog.add(frame(4, replaces="upload 2"))
    assert [len(one.body) for one in iter(backlog.take, None)] == [3, 4]


def test_a_throttle_lets_one_report_per_key_through_in_an_interval() -> None:
    now = [0.0]
    throttle = Throttle(1.0, lambda: now[0])
    assert throttle.allows("a")
    assert throttle.allows("b")
    assert not throttle.allows("a")
    now[0] = 1.0
    assert throttle.allows("a")


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (UploadStarted(namespace_id=NAMESPACE, upload_id=new_id(), size=5), UploadState.OPEN),
        (
            PartCompleted(
                namespace_id=NAMESPACE, upload_id=new_id(), number=1, size=5, digest=HASH,
                parts_done=1, parts_total=2, total_size=10,
            ),
            UploadState.OPEN,
        ),
        (
            UploadCompleted(
                namespace_id=NAMESPACE, upload_id=new_id(), attempt=1, device_name="d", entries=[]
            ),
            UploadState.COMMITTING,
        ),
        (UploadAborted(namespace_id=NAMESPACE, upload_id=new_id()), UploadState.ABORTED),
        (UploadExpired(namespace_id=NAMESPACE, upload_id=new_id()), UploadState.EXPIRED),
        (
            FileCommitted(namespace_id=NAMESPACE, upload_id=new_id(), first_seq=1, last_seq=1, changes=[]),
            UploadState.COMMITTED,
        ),
    ],
)  # fmt: skip
def test_events_of_sessions_say_where_the_session_stands(event: UploadStarted, state: UploadState) -> None:
    progress = progress_of(event)
    assert progress is not None
    assert (progress.upload_id, progress.state) == (event.upload_id, state)


def test_events_that_are_about_no_session_give_no_progress() -> None:
    assert progress_of(FileMoved(namespace_id=NAMESPACE, first_seq=1, last_seq=1, changes=[])) is None
    assert progress_of(DeviceLinked(namespace_id=NAMESPACE, device_name="d")) is None
    assert progress_of(committed()) is None


def test_an_id_moves_only_over_changes_without_a_gap() -> None:
    reader = connection()
    reader.cursor = Cursor(1, {NAMESPACE: 4})

    def sent(first: int, last: int) -> bytes:
        return reader.bytes_of(Frame(b"body", span=(first - 1, last)))

    assert sent(5, 5) == b"id: " + Cursor(1, {NAMESPACE: 5}).encode().encode() + b"\nbody"
    assert sent(7, 8) == b"body"
    assert sent(6, 6).startswith(b"id: " + Cursor(1, {NAMESPACE: 6}).encode().encode())
    assert reader.bytes_of(Frame(b"late", span=(1, 3))).startswith(b"id: ")
    assert reader.cursor.seqs == {NAMESPACE: 6}


def test_every_event_that_concerns_a_device_has_a_handler() -> None:
    hub = Hub(settings(), views=Views.__new__(Views))
    assert set(TREE_EVENTS) | {DeviceRevoked, UploadStarted, PartCompleted, UploadAborted} <= set(
        handlers(hub)
    )


def test_events_are_encoded_as_the_stream_needs_them() -> None:
    changes = changes_of(committed(1), epoch=0)
    assert encode("x", changes).startswith(b"event: x\ndata: ")
