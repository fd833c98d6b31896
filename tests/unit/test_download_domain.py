"""Which bytes a request for a file means."""

from typing import Any

import pytest

from libs.contracts.errors import ConflictError, LockstepError, NotFoundError
from services.download.domain import Page, Wanted, parts_known, readable, version_wanted

NODE = {"_id": "n", "kind": "file", "version_id": "v2", "name": "a"}
VERSION = {"_id": "v2", "node_id": "n", "size": 1, "content_hash": "h", "object_id": "o"}
OBJECT = {"_id": "o", "key": "k", "state": "live"}


@pytest.mark.parametrize(
    ("node", "version_id", "hidden", "expected"),
    [
        (NODE, None, False, "v2"),
        (NODE, "v1", False, "v1"),
        (NODE, "v1", True, "v1"),
        (NODE, None, True, NotFoundError),
        (None, None, False, NotFoundError),
        (None, "v1", True, NotFoundError),
        ({**NODE, "kind": "folder", "version_id": None}, None, False, ConflictError),
        ({**NODE, "kind": "symlink", "version_id": None}, "v1", False, ConflictError),
        ({**NODE, "kind": "folder", "version_id": None}, None, True, NotFoundError),
    ],
)
def test_the_version_to_read(
    node: dict[str, Any] | None, version_id: str | None, hidden: bool, expected: str | type[LockstepError]
) -> None:
    if isinstance(expected, str):
        assert version_wanted(Wanted("n", version_id), node, hidden=hidden) == expected
    else:
        with pytest.raises(expected):
            version_wanted(Wanted("n", version_id), node, hidden=hidden)


def test_a_live_object_of_a_version_of_the_node_can_be_read() -> None:
    assert readable(NODE, VERSION, OBJECT).key == "k"


@pytest.mark.parametrize(
    ("version", "stored", "code"),
    [
        (None, OBJECT, "not_found"),
        ({**VERSION, "node_id": "other"}, OBJECT, "not_found"),
        ({**VERSION, "corrupt": True}, OBJECT, "object_gone"),
        (VERSION, None, "object_gone"),
        (VERSION, {**OBJECT, "state": "doomed"}, "object_gone"),
        (VERSION, {**OBJECT, "corrupt": True}, "object_gone"),
    ],
)
def test_nothing_else_can(version: dict[str, Any] | None, stored: dict[str, Any] | None, code: str) -> None:
    with pytest.raises(LockstepError) as caught:
        readable(NODE, version, stored)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("page", "total", "numbers"),
    [
        (Page(1, 1000), 3, [1, 2, 3]),
        (Page(2, 1), 3, [2]),
        (Page(3, 5), 3, [3]),
        (Page(4, 5), 3, []),
    ],
)
def test_a_page_of_parts_goes_by_number_and_ends_with_the_last(
    page: Page, total: int, numbers: list[int]
) -> None:
    assert list(page.numbers(total)) == numbers


JOINED = {"digests_enforced": True, "entries": [{"key": "k", "sealed": True}]}


@pytest.mark.parametrize(
    ("session", "known"),
    [
        (JOINED, True),
        (None, False),
        ({**JOINED, "digests_enforced": False}, False),
        ({"entries": JOINED["entries"]}, False),
        ({**JOINED, "entries": [{"key": "k", "sealed": False}]}, False),
        ({**JOINED, "entries": [{"key": "other", "sealed": True}]}, False),
    ],
)
def test_digests_of_parts_are_known_only_when_s3_has_checked_what_was_joined(
    session: dict[str, Any] | None, known: bool
) -> None:
    assert parts_known(session, "k") is known
