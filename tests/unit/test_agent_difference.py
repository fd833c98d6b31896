"""When an edited file is sent as a difference, and what becomes of a base that the server has refused."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from agent.actions import Upload
from agent.disk import Disk
from agent.executor.difference import Differences
from agent.manifests import Manifests
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, VersionRef
from agent.observer import Observer
from agent.settings import Settings
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


COPY = "f (conflicted copy, laptop, 2026-11-23)"


def lost(edits: Edits, data: bytes, name: str = COPY) -> Upload:
    """An edit of `OLD`, on which both sides agreed, that has become a file of its own."""
    agreed = SyncedNode("n", "root", "f", Kind.FILE, version_id="v", content_hash=edits.keep(OLD), size=SIZE)
    edits.found.state.put_synced([agreed])
    edits.found.state.drop_synced(["n"])
    return replace(edits.to(data), node=None, entry=edits.to(data).entry.at(name), name=name)


@pytest.mark.parametrize("name", [COPY, "saved under another name"])
def test_an_edit_whose_base_is_agreed_on_no_more_is_a_difference_to_that(edits: Edits, name: str) -> None:
    base = edits.found.base_of(lost(edits, OLD[:1000] + b"edited" + OLD[1000:], name))
    assert base is not None
    assert base.version_id == "v"
    assert base.recipe.literal_bytes < SIZE / 4


def test_a_content_that_is_current_again_is_that_of_the_current_version(edits: Edits) -> None:
    action = lost(edits, OLD + b"more")
    content = hashlib.sha256(OLD).hexdigest()
    node = RemoteNode("m", "root", "g", Kind.FILE, 1, version_id="w", content_hash=content, size=SIZE)
    edits.found.state.put_remote([node])
    base = edits.found.base_of(action)
    assert base is not None
    assert base.version_id == "w"


def test_with_its_memory_lost_a_device_knows_the_version_that_the_other_edit_was_made_from(
    edits: Edits,
) -> None:
    content = edits.keep(OLD)
    node = RemoteNode(
        "n", "root", "f", Kind.FILE, 1, version_id="w", content_hash="e" * 64, size=SIZE,
        base=VersionRef("n", "v", content),
    )  # fmt: skip
    edits.found.state.put_remote([node])
    edit = edits.to(OLD + b"more")
    base = edits.found.base_of(replace(edit, node=None, entry=edit.entry.at(COPY), name=COPY))
    assert base is not None
    assert base.version_id == "v"


def test_of_new_files_that_fit_into_a_batch_only_conflicted_copies_may_travel_alone(edits: Edits) -> None:
    """To look for a base of each new file would cost more than it saves."""
    new = replace(edits.to(OLD + b"x"), node=None, entry=edits.to(OLD + b"x").entry.at(COPY))
    assert not edits.found.may_save(new), "nothing was ever agreed on"
    assert edits.found.may_save(lost(edits, OLD + b"x"))
    assert not edits.found.may_save(lost(edits, OLD + b"x", "f"))
    edits.found.manifests.forget(hashlib.sha256(OLD + b"x").hexdigest())
    assert not edits.found.may_save(new)
    small = replace(new, entry=replace(new.entry, stat=replace(new.entry.stat, size=100_000)))
    assert not edits.found.may_save(small)


def test_the_chunks_of_former_versions_are_kept_as_long_as_those_are_known(
    edits: Edits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.manifests._BETWEEN_PRUNINGS", 0)
    (tmp_path / "root").mkdir()
    lost(edits, OLD + b"x")
    unknown = edits.keep(OLD[1:])
    later = Edits(replace(edits.found, manifests=Manifests(edits.found.folder / "manifests")))
    later.keep(OLD[2:])
    observer = Observer(
        edits.found.state, Disk(tmp_path / "root"), Settings(home=tmp_path), later.found.manifests
    )

    look = observer.begin()
    assert look is not None
    look()

    assert later.found.manifests.has(hashlib.sha256(OLD).hexdigest())
    assert not later.found.manifests.has(unknown)
