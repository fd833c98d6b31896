"""Of which local files a version may be made, in which order, and how one that is gone is stood in for."""

import asyncio
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest

from agent.actions import Download
from agent.executor import Work
from agent.executor.bases import Base, Bases, bridged
from agent.manifests import Manifests
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, VersionRef
from agent.state import State
from libs.contracts.api import DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.recipe import Copy, Literal, Recipe, decode, encode
from libs.delta.chunker import Chunker

SIZE = 400_000
OLD = Random(1).randbytes(SIZE)


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Memory:
    """What a device knows; it is told of versions, and has files."""

    state: State
    manifests: Manifests
    delta: bool = True

    def file(self, path: str, data: bytes) -> LocalEntry:
        """Have a file with these bytes."""
        stat = FileStat(1, len(self.state.local), len(data), 3, 4, 0o600)
        entry = LocalEntry(path, LocalKind.FILE, stat, hash_of(data))
        self.state.put_local([entry])
        return entry

    def agree(self, node_id: str, version_id: str, data: bytes) -> None:
        """Agree on a version with these bytes."""
        self.state.put_synced(
            [SyncedNode(node_id, "root", node_id, Kind.FILE, version_id, hash_of(data), len(data))]
        )

    def tell(self, node_id: str, base: VersionRef | None = None, size: int = SIZE) -> RemoteNode:
        """Be told of a node, and what its content was made of."""
        node = RemoteNode(
            node_id, "root", node_id, Kind.FILE, 1, version_id=f"{node_id}-new", size=size,
            content_hash=hash_of(node_id.encode()), base=base,
        )  # fmt: skip
        self.state.put_remote([node])
        return node

    def read(self, data: bytes) -> None:
        """Know the chunks of these bytes."""
        chunker = Chunker(4096)
        chunker.update(data)
        self.manifests.keep(hash_of(data), chunker.finish())

    def asked(self, *nodes: RemoteNode) -> Bases:
        settings = SimpleNamespace(delta=self.delta)
        work = SimpleNamespace(state=self.state, settings=settings, manifests=self.manifests)
        return Bases(cast("Work", work), nodes)

    def bases(self, node: RemoteNode, expect: LocalEntry | None = None) -> list[Base]:
        """Return all bases of a node; where there are any, it was worth asking."""
        bases, action = self.asked(node), Download(node, node.name, expect)

        async def all_of_them() -> list[Base]:
            async with aclosing(bases.of(action)) as found:
                return [base async for base in found]

        found = asyncio.run(all_of_them())
        assert bases.may_help(action) or not found
        return found


def ref(node_id: str, version: str, data: bytes) -> VersionRef:
    return VersionRef(node_id, version, hash_of(data))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    state = State(tmp_path / "state.db")
    yield Memory(state, Manifests(tmp_path / "manifests"))
    state.close()


def test_the_file_that_is_replaced_comes_first_and_only_once(memory: Memory) -> None:
    entry = memory.file("n", OLD)
    memory.agree("n", "v", OLD)
    node = memory.tell("n", base=ref("n", "v", OLD))
    assert memory.bases(node, entry) == [Base(entry, ref("n", "v", OLD))]


def test_a_file_that_was_edited_since_it_was_agreed_on_is_no_base(memory: Memory) -> None:
    memory.agree("n", "v", OLD)
    assert memory.bases(memory.tell("n"), memory.file("n", OLD + b"edited")) == []


def test_a_new_file_is_made_of_what_has_the_content_it_was_made_from(memory: Memory) -> None:
    entry = memory.file("moved elsewhere", OLD)
    node = memory.tell("copy", base=ref("n", "v", OLD))
    assert memory.bases(node) == [Base(entry, ref("n", "v", OLD))]


def test_it_is_made_of_a_later_version_of_that_file_where_the_earlier_one_is_gone(memory: Memory) -> None:
    later = OLD[1:]
    entry = memory.file("n", later)
    memory.agree("n", "w", later)
    assert memory.bases(memory.tell("copy", base=ref("n", "v", OLD))) == [Base(entry, ref("n", "w", later))]


def test_what_a_base_was_made_of_is_followed_back(memory: Memory) -> None:
    entry = memory.file("n", OLD)
    memory.tell("first copy", base=ref("n", "v", OLD))
    node = memory.tell("second copy", base=ref("first copy", "c", b"not here"))
    assert memory.bases(node) == [Base(entry, ref("n", "v", OLD))]


def test_versions_that_tell_of_each_other_lead_nowhere_for_ever(memory: Memory) -> None:
    memory.tell("a", base=ref("b", "v", b"1"))
    node = memory.tell("b", base=ref("a", "v", b"2"))
    assert memory.bases(node) == []
    assert memory.bases(memory.tell("c", base=ref("c", "v", b"3"))) == []


def test_what_has_a_base_here_does_not_wait_for_a_better_one(memory: Memory) -> None:
    source, node = memory.tell("n"), memory.tell("copy", base=ref("n", "v", OLD))
    coming, action = [Download(source, "n")], Download(node, "copy")
    assert memory.asked(node).comes_with(action, coming)
    memory.file("n", OLD)
    assert not memory.asked(node).comes_with(action, coming)
    memory.delta = False
    assert not memory.asked(node).comes_with(action, coming)


def test_what_is_small_or_not_to_travel_as_a_difference_has_no_base(memory: Memory) -> None:
    memory.file("n", OLD)
    base = ref("n", "v", OLD)
    assert memory.bases(memory.tell("copy", base, size=100_000)) == []
    memory.delta = False
    assert memory.bases(memory.tell("copy", base)) == []
    memory.delta = True
    memory.file("small", OLD[:1000])
    assert memory.bases(memory.tell("other", base=ref("n", "v", OLD[:1000]))) == []


def test_an_edit_that_lost_stands_in_for_the_version_that_it_was_made_from(memory: Memory) -> None:
    edit = OLD[:1000] + b"edited" + OLD[1000:]
    for data in (OLD, edit):
        memory.read(data)
    memory.agree("n", "v", OLD)
    memory.state.drop_synced(["n"])
    entry = memory.file("conflicted copy", edit)

    (base,) = memory.bases(memory.tell("n"))

    assert (base.entry, base.version) == (entry, ref("n", "v", OLD))
    assert base.bridge is not None
    assert base.bridge.size == SIZE
    assert 0 < base.bridge.literal_bytes < SIZE / 4
    made = b"".join(
        edit[op.offset : op.offset + op.length] if isinstance(op, Copy) else OLD[at : at + op.length]
        for at, op in base.bridge.placed()
    )
    assert made == OLD


@pytest.mark.parametrize("kept", [0, SIZE * 9 // 20], ids=["nothing in common", "less than half"])
def test_a_file_that_has_little_of_it_does_not_stand_in(memory: Memory, kept: int) -> None:
    other = OLD[:kept] + Random(2).randbytes(SIZE - kept)
    for data in (OLD, other):
        memory.read(data)
    memory.file("other", other)
    assert memory.bases(memory.tell("copy", base=ref("n", "v", OLD))) == []


def test_without_the_chunks_of_the_version_nothing_stands_in(memory: Memory) -> None:
    memory.read(OLD + b"edited")
    memory.file("other", OLD + b"edited")
    assert memory.bases(memory.tell("copy", base=ref("n", "v", OLD))) == []


# The difference to a stand-in ----------------------------------------------------------------------

BRIDGE = Recipe((Copy(50, 600), Literal(100), Copy(650, 300)))
"""How a version of 1,000 bytes is made of the file that stands in for it."""


def delta(*ops: Copy | Literal, size: int) -> DownloadDelta:
    recipe = b64encode(encode(Recipe(ops))).decode("ascii")
    return DownloadDelta(
        node_id="1" * 24, version_id="2" * 24, url="http://127.0.0.1/", expires_at=datetime.now(UTC),
        size=size, content_hash="5" * 64, from_version_id="3" * 24, recipe=recipe,
    )  # fmt: skip


def test_a_difference_to_the_version_becomes_one_to_its_stand_in() -> None:
    asked = delta(Copy(0, 650), Literal(20), Copy(700, 300), size=970)
    found = bridged(asked, BRIDGE)
    assert found is not None
    recipe = decode(b64decode(found.recipe))
    assert recipe.ops == (Copy(50, 600), Literal(70), Copy(650, 300))
    assert found.model_copy(update={"recipe": asked.recipe}) == asked


def test_a_difference_that_would_save_less_than_half_is_none() -> None:
    assert bridged(delta(Copy(550, 150), Literal(10), size=160), BRIDGE) is None


@pytest.mark.parametrize(
    "wrong",
    [
        delta(Copy(0, 1001), size=1001),
        delta(Copy(0, 500), size=501),
        delta(size=0).model_copy(update={"recipe": "no base64"}),
        delta(size=0).model_copy(update={"recipe": "bm9uc2Vuc2U="}),
    ],
    ids=["beyond the version", "of another size", "no text", "no recipe"],
)
def test_a_recipe_that_cannot_be_carried_out_is_told(wrong: DownloadDelta) -> None:
    with pytest.raises(MalformedError):
        bridged(wrong, BRIDGE)
