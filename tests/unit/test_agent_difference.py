"""When an edited file is sent as a difference, and what becomes of a base that the server has refused."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from agent.actions import Upload
from agent.executor.difference import Differences
from agent.manifests import Manifests
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode
from agent.state import State
from libs.delta.chunker import Chunker

SIZE = 400_000
OLD = Random(1).randbytes(SIZE)


@dataclass
class Edits:
    """Edits of a file that the server has as `OLD`."""

    found: Differences

    def keep(self, data: bytes, average: int = 4096) -> str:
        chunker = Chunker(average)
        chunker.update(data)
        content_hash = hashlib.sha256(data).hexdigest()
        self.found.manifests.keep(content_hash, chunker.finish())
        return content_hash

    def to(self, data: bytes) -> Upload:
        base, target = hashlib.sha256(OLD).hexdigest(), self.keep(data)
        entry = LocalEntry("f", LocalKind.FILE, FileStat(1, 2, len(data), 3, 4, 0o600), target)
        node = RemoteNode("n", "root", "f", Kind.FILE, 1, version_id="v", content_hash=base, size=SIZE)
        return Upload(entry, parent_key="root", name="f", node=node)


@pytest.fixture
def edits(tmp_path: Path) -> Iterator[Edits]:
    state = State(tmp_path / "state.db")
    yield Edits(Differences(Manifests(tmp_path / "manifests"), state, tmp_path))
    state.close()


def test_a_base_that_the_server_has_refused_is_not_offered_again(edits: Edits) -> None:
    """Otherwise the same difference would be sent for ever."""
    edits.keep(OLD)
    edit = edits.to(OLD[:1000] + b"edited" + OLD[1000:])
    base = edits.found.base_of(edit)
    assert base is not None
    assert base.version_id == "v"

    base.refused()

    assert edits.found.base_of(edit) is None


@pytest.mark.parametrize(("kept", "differs"), [(0.8, True), (0.2, False)])
def test_what_is_mostly_new_is_sent_whole(edits: Edits, kept: float, *, differs: bool) -> None:
    edits.keep(OLD)
    share = int(SIZE * kept)
    base = edits.found.base_of(edits.to(OLD[:share] + Random(2).randbytes(SIZE - share)))
    assert (base is not None) is differs


def test_a_base_in_chunks_of_another_size_yields_to_a_file_that_is_alike(edits: Edits) -> None:
    edits.keep(OLD, average=16384)
    alike = edits.keep(OLD[:-1])
    node = RemoteNode("m", "root", "g", Kind.FILE, 1, version_id="w", content_hash=alike, size=SIZE - 1)
    edits.found.state.put_remote([node])

    base = edits.found.base_of(edits.to(OLD + b"more"))

    assert base is not None
    assert base.version_id == "w"
