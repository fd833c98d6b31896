"""A difference is sent where it can be written down; otherwise the file is, and nothing is held up."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LocalError
from agent.transfer import DeltaBase, LargeSource, delta, spool
from agent.transfer.delta import packed
from agent.transfer.spool import Spool
from libs.contracts.errors import UnavailableError
from libs.contracts.recipe import Copy, Literal, Recipe
from libs.delta import package

SIZE = 300_000
RECIPE = Recipe((Literal(100_000), Copy(0, SIZE - 100_000)))
OTHER = Recipe((Literal(90_000), Copy(0, SIZE - 90_000)))


@dataclass
class Scene:
    """A file, and the home with the spool."""

    file: Path
    home: Path
    fd: int
    limit: int = 1 << 20
    made: int = 0
    """How many delta objects were made, not found."""
    is_changed: bool = False

    def source(self, recipe: Recipe = RECIPE, name: str = "a" * 64) -> LargeSource:
        base = DeltaBase("5" * 24, recipe, self.home)
        return LargeSource("big", SIZE, name, self.fd, lambda: not self.is_changed, delta=base)

    @property
    def spool(self) -> Spool:
        return Spool(self.home, self.limit)

    async def packed(self, source: LargeSource | None = None, error: Exception | None = None) -> bytes | None:
        """The delta object that was offered; `error` ends what is done with it."""
        async with packed(source or self.source(), self.spool) as found:
            if found is None:
                return None
            content = os.pread(found.file.fileno(), found.size, 0)
            assert found.offer.sha256 == sha256(content).hexdigest()
            assert found.size == len(content) == found.offer.size < SIZE
            if error is not None:
                raise error
            return content

    @property
    def left(self) -> set[str]:
        return {path.name for path in (self.home / spool.FOLDER).glob("*")}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    home = tmp_path / "home"
    home.mkdir()
    file = tmp_path / "file"
    file.write_bytes(os.urandom(SIZE))
    made = Scene(file, home, os.open(file, os.O_RDONLY))

    def counted(*arguments: Any) -> package.Written:
        made.made += 1
        return package.write(*arguments)

    monkeypatch.setattr(delta, "write", counted)
    yield made
    os.close(made.fd)


@pytest.fixture
def large(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Delta objects of any size are kept."""
    monkeypatch.setattr(delta, "_SOON_MADE", 0)
    return scene


async def test_a_delta_object_holds_the_bytes_that_the_base_lacks(scene: Scene) -> None:
    content = await scene.packed()
    assert content is not None
    reader = package.Reader()
    assert b"".join(reader.feed(content)) == scene.file.read_bytes()[:100_000]
    assert reader.recipe == RECIPE


async def test_no_delta_is_sent_when_the_disk_is_full(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk has not taken is in a buffer, and a file that is closed tries to write it."""

    def full(**_: Any) -> Any:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert await scene.packed() is None


async def test_no_delta_is_sent_when_no_file_can_be_made_for_it(scene: Scene) -> None:
    base = DeltaBase("5" * 24, RECIPE, scene.home / "missing")
    assert await scene.packed(replace(scene.source(), delta=base)) is None


@pytest.mark.parametrize("kept", [False, True])
async def test_a_delta_that_is_too_long_is_not_written_to_its_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    monkeypatch.setattr(delta, "_SOON_MADE", 0 if kept else SIZE)
    scene.limit = 50_000
    assert await scene.packed() is None
    assert scene.left == set()


@pytest.mark.parametrize("kept", [False, True])
async def test_a_delta_leaves_room_for_what_else_is_written_to_the_disk(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    monkeypatch.setattr(delta, "_SOON_MADE", 0 if kept else SIZE)
    assert await scene.packed() is not None
    scene.spool.remove("a" * 64)
    monkeypatch.setattr(spool, "KEPT_FREE", 1 << 60)
    assert await scene.packed() is None


async def test_a_small_delta_object_is_gone_when_it_is_sent(scene: Scene) -> None:
    assert await scene.packed() is not None
    assert list(scene.home.iterdir()) == []


# Kept ones ------------------------------------------------------------------------------------


async def test_the_next_run_goes_on_with_a_large_delta_object(large: Scene) -> None:
    with pytest.raises(UnavailableError):
        await large.packed(error=UnavailableError())
    first = large.made

    again = await large.packed()

    assert (first, large.made) == (1, 1)
    assert large.left == {"a" * 64}
    assert (large.home / "spool").stat().st_mode & 0o777 == 0o700
    assert (large.home / "spool" / ("a" * 64)).stat().st_mode & 0o777 == 0o600
    large.spool.remove("a" * 64)
    assert await large.packed() == again, "made again it is the same, byte for byte"


@pytest.mark.parametrize("what", ["mtime", "inode", "recipe"])
async def test_a_delta_object_made_of_something_else_is_made_anew(large: Scene, what: str) -> None:
    await large.packed()
    source = large.source(OTHER if what == "recipe" else RECIPE)
    if what == "mtime":
        os.utime(large.file, ns=(1, 1))
    if what == "inode":
        copy = large.file.with_name("copy")
        copy.write_bytes(large.file.read_bytes())
        stat = large.file.stat()
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with copy.open("rb") as opened:
            os.dup2(opened.fileno(), large.fd)

    assert await large.packed(source) is not None

    assert large.made == 2


@pytest.mark.parametrize("damage", ["byte", "cut", "longer", "empty", "trailer"])
async def test_a_damaged_kept_delta_object_is_made_anew(large: Scene, damage: str) -> None:
    right = await large.packed()
    path = large.home / "spool" / ("a" * 64)
    held = bytearray(path.read_bytes())
    at = {"byte": 1000, "trailer": len(held) - 5}.get(damage)
    if at is not None:
        held[at] ^= 1
    path.write_bytes(bytes({"cut": held[:-1000], "longer": held + b"x", "empty": b""}.get(damage, held)))

    assert await large.packed() == right

    assert large.made == 2
    assert await large.packed() == right
    assert large.made == 2


async def test_a_delta_object_of_a_file_that_changed_meanwhile_is_not_kept(large: Scene) -> None:
    large.is_changed = True
    with pytest.raises(LocalError, match="changed"):
        await large.packed()
    assert large.left == set()


async def test_a_delta_object_whose_file_turns_out_to_be_another_is_dropped(large: Scene) -> None:
    with pytest.raises(LocalError):
        await large.packed(error=LocalError(code="changed"))
    assert large.left == set()


async def test_the_disk_fills_up_while_a_delta_object_is_kept(
    large: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: spool.Kept, written: package.Written) -> None:
        del self, written
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.Kept, "seal", full)
    assert await large.packed() is None
    assert large.left == set()


async def test_the_oldest_give_way_to_a_new_one(large: Scene) -> None:
    for age, name in enumerate(("new", "old", "older")):
        await large.packed(large.source(name=name))
        past = (large.home / "spool" / name).stat().st_mtime - age * 100
        os.utime(large.home / "spool" / name, (past, past))
    large.limit = 250_000

    await large.packed(large.source(name="newest"))

    assert large.left == {"new", "newest"}


async def test_what_is_in_use_does_not_give_way(large: Scene) -> None:
    large.limit = 150_000
    shared = large.spool
    async with packed(large.source(name="one"), shared) as one:
        assert one is not None
        async with packed(large.source(name="two"), shared) as two:
            assert two is None, "both together would take more than is allowed"
        async with packed(large.source(name="one"), shared) as same:
            assert same is not None, "it is made once more, and not kept"
    assert large.left == {"one"}
    assert large.made == 2


async def test_what_nobody_will_go_on_with_goes(large: Scene) -> None:
    for name in ("wanted", "unwanted", "old", "cut", "headless"):
        await large.packed(large.source(name=name))
    folder = large.home / "spool"
    os.utime(folder / "old", (1, 1))
    os.truncate(folder / "cut", 1000)
    (folder / "headless").write_bytes((folder / "headless").read_bytes()[1:])

    large.spool.tidy({"wanted", "old", "cut", "headless"})

    assert large.left == {"wanted"}


def test_without_a_spool_there_is_nothing_to_tidy(scene: Scene) -> None:
    scene.spool.tidy(set())
    assert list(scene.home.iterdir()) == []


async def test_a_cancelled_run_leaves_no_half_made_delta_object(
    large: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(delta, "write", broken)
    with suppress(RuntimeError):
        await large.packed()
    assert large.left == set()
