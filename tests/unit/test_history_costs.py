"""What history costs and which versions are kept: pure rules."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.contracts.api import VersionKeep
from libs.contracts.tree import Kind
from libs.mongo.walks import cut_window
from services.metadata.domain.costs import Kept, Ledger
from services.metadata.domain.model import Node, Version, to_micros
from services.metadata.domain.retention import Retention

ROOT = "f" * 24
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def node(
    name: str, kind: Kind, parent: str = ROOT, *, deleted: bool = False, version: str | None = None
) -> Node:
    return Node(name, ROOT, parent, name, kind, version_id=version, deleted=deleted)


def test_an_object_counts_once_for_the_best_reason_whatever_the_order_of_its_versions() -> None:
    kept = [
        Kept("v1", "shown", "object", 10),
        Kept("v2", "gone", "object", 10),
        Kept("v3", "shown", "old", 3),
        Kept("v4", "buried", "deep", 7),
        Kept("v5", "buried", "old", 3),
    ]
    for seed in range(10):
        ledger = Ledger()
        nodes = [
            node("shown", Kind.FILE, version="v1"), node("gone", Kind.FILE, deleted=True, version="v2"),
            node("top", Kind.FOLDER, deleted=True), node("sub", Kind.FOLDER, "top"),
            node("buried", Kind.FILE, "sub", version="v4"), node("link", Kind.SYMLINK),
        ]  # fmt: skip
        chance = random.Random(seed)
        chance.shuffle(nodes)
        chance.shuffle(kept)
        for one in nodes:
            ledger.add_node(one)
        ledger.add_versions(kept)
        costs = ledger.costs()
        assert (costs.current_bytes, costs.older_bytes, costs.deleted_bytes) == (10, 3, 7)
        assert (costs.versions, costs.objects) == (5, 3)


def version(number: int, days: float) -> Version:
    return Version(
        id=f"v{number}", node_id="n", namespace_id=ROOT, object_id="o", size=1, content_hash="h", mtime_ns=0,
        executable=False, parent_version_id=None, user_id=None, device_id=None, device=None, upload_id=None,
        entry=None, epoch=0, seq=number, created_us=to_micros(NOW - timedelta(days=days)),
    )  # fmt: skip


RETENTION = Retention(2, timedelta(days=180))


@pytest.mark.parametrize(
    ("position", "days", "current", "keep"),
    [
        (0, 500, "other", VersionKeep.RECENT),
        (1, 500, "other", VersionKeep.RECENT),
        (2, 500, "v1", VersionKeep.CURRENT),
        (2, 179.9, "other", VersionKeep.AGE),
        (2, 180, "other", VersionKeep.OVER),
        (2, 500, None, VersionKeep.OVER),
    ],
)
def test_a_version_is_kept_while_current_or_among_the_newest_or_young(
    position: int, days: float, current: str | None, keep: VersionKeep
) -> None:
    assert RETENTION.why(position, version(1, days), current, NOW) is keep


def test_the_oldest_go_first_and_what_is_kept_is_never_among_them() -> None:
    history = [version(number, days=600 - number) for number in range(9, 0, -1)]
    over = RETENTION.over(history, "v3", NOW)
    assert [one.id for one in over] == ["v1", "v2", "v4", "v5", "v6", "v7"]
    young = [replace(one, created_us=to_micros(NOW)) for one in history]
    assert RETENTION.over(young, None, NOW) == []


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 12_345, 10**9])
def test_windows_of_a_walk_cover_all_ids_without_a_gap(count: int) -> None:
    place: str | None = None
    highs: list[str] = []
    for _ in range(200):
        window = cut_window(place, min(count, 100_000), 1000)
        assert window.low == (highs[-1] if highs else "0" * 24)
        if window.high is None:
            break
        assert window.high > window.low
        highs.append(window.high)
        place = window.high
    else:
        raise AssertionError("the walk has no end")
    assert len(highs) <= max(1, min(count, 100_000) // 1000)
