"""What `get` keeps of a file beside its target, and what it never takes for that."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from agent.commands.partial import partial
from agent.errors import LocalError
from agent.ignore import IgnoreRules
from libs.contracts.api import Download

MIB = 1024 * 1024


def item(content: str = "a", size: int = 20 * MIB) -> Download:
    return Download(
        url="http://127.0.0.1/",
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        node_id="0" * 24,
        version_id=content * 24,
        size=size,
        content_hash=content * 64,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def begun(target: Path, content: str, written: bytes) -> Path:
    """Leave a partial file and its journal, as a kill does."""
    with partial(target, item(content)) as file:
        os.pwrite(file.fd, written, 0)
        assert file.journal is not None
        os.pwrite(file.journal, b"notes", 0)
    return file.path


def test_what_has_arrived_is_found_again_by_the_same_command_only(tmp_path: Path) -> None:
    begun(tmp_path / "film", "a", b"arrived")
    with partial(tmp_path / "film", item("a")) as file:
        assert os.pread(file.fd, 100, 0) == b"arrived"
        assert file.journal is not None
        assert os.pread(file.journal, 100, 0) == b"notes"
    rewritten = item("a").model_copy(update={"content_hash": "b" * 64})
    for target, other in (
        (tmp_path / "film", item("b")),
        (tmp_path / "film", rewritten),
        (tmp_path / "other", item("a")),
    ):
        with partial(target, other) as file:
            assert os.fstat(file.fd).st_size == 0


def test_nothing_stays_of_a_try_that_brought_nothing(tmp_path: Path) -> None:
    with pytest.raises(LocalError), partial(tmp_path / "film", item()):
        raise LocalError(code="corrupt_download")
    assert names(tmp_path) == []


def test_the_scanner_leaves_both_files_alone(tmp_path: Path) -> None:
    begun(tmp_path / "film", "a", b"arrived")
    assert len(names(tmp_path)) == 2
    assert all(IgnoreRules().ignores(f"folder/{name}", False) for name in names(tmp_path))


def test_a_small_file_has_no_journal(tmp_path: Path) -> None:
    with partial(tmp_path / "film", item(size=100)) as file:
        assert file.journal is None
        assert len(names(tmp_path)) == 1


def test_a_whole_file_replaces_the_target_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "film"
    target.write_bytes(b"before")
    begun(target, "a", b"another version")
    with partial(target, item("b")) as file:
        os.pwrite(file.fd, b"whole", 0)
        assert target.read_bytes() == b"before"
        file.install()
    assert names(tmp_path) == ["film"]
    assert target.read_bytes() == b"whole"


def test_installing_leaves_what_others_fetch_and_what_belongs_to_other_targets(tmp_path: Path) -> None:
    target = tmp_path / "film"
    other = begun(tmp_path / "other", "a", b"arrived")
    prefix = begun(target, "d", b"arrived").name[: -len("0" * 32)]
    lookalike = tmp_path / f"{prefix}notes.txt"
    lookalike.write_bytes(b"the user's")
    with partial(target, item("c")) as busy, partial(target, item("b")) as file:
        os.pwrite(busy.fd, b"arriving", 0)
        os.pwrite(file.fd, b"whole", 0)
        file.install()
        assert busy.path.exists()
    assert other.exists()
    assert lookalike.exists()


def test_a_stray_journal_of_the_same_target_goes_too(tmp_path: Path) -> None:
    target = tmp_path / "film"
    begun(target, "a", b"arrived").unlink()
    with partial(target, item("b")) as file:
        os.pwrite(file.fd, b"whole", 0)
        file.install()
    assert names(tmp_path) == ["film"]


def test_two_at_once_do_not_write_the_same_file(tmp_path: Path) -> None:
    with partial(tmp_path / "film", item()) as file:
        os.pwrite(file.fd, b"arrived", 0)
        with pytest.raises(LocalError) as refused, partial(tmp_path / "film", item()):
            pass
        assert refused.value.code == "in_use"
        assert os.pread(file.fd, 100, 0) == b"arrived"
    assert file.path.exists()


def test_a_file_that_was_installed_while_its_lock_was_waited_for_is_the_users(tmp_path: Path) -> None:
    """It has been opened under its old name, and is locked once the other has let go."""
    target = tmp_path / "film"
    path = begun(target, "a", b"the user's now")
    flock = fcntl.flock

    def first_installed(fd: int, how: int) -> None:
        if path.exists() and not target.exists():
            path.rename(target)
        flock(fd, how)

    with patch("agent.commands.partial.fcntl.flock", first_installed), partial(target, item()) as file:
        os.pwrite(file.fd, b"x", 0)
    assert target.read_bytes() == b"the user's now"


@pytest.mark.parametrize("kind", ["link", "second name", "folder"])
def test_what_is_no_file_of_ones_own_is_not_written_to(kind: str, tmp_path: Path) -> None:
    path = begun(tmp_path / "film", "a", b"arrived")
    victim = tmp_path / "victim"
    victim.write_bytes(b"the user's")
    path.unlink()
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "second name":
        path.hardlink_to(victim)
    else:
        path.mkdir()
    with pytest.raises((LocalError, OSError)), partial(tmp_path / "film", item()):
        pass
    assert victim.read_bytes() == b"the user's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_has_put_there_is_not_written_to(tmp_path: Path) -> None:
    path = begun(tmp_path / "film", "a", b"theirs")
    os.chown(path, 54321, -1)
    with pytest.raises(LocalError) as refused, partial(tmp_path / "film", item()):
        pass
    assert refused.value.code == "unwritable"
    assert path.read_bytes() == b"theirs"


def test_a_disk_that_says_of_all_files_that_they_are_one_users_is_written_to(tmp_path: Path) -> None:
    begun(tmp_path / "film", "a", b"arrived")
    with (
        patch("agent.commands.partial.os.geteuid", lambda: 54321),
        partial(tmp_path / "film", item()) as file,
    ):
        assert os.pread(file.fd, 100, 0) == b"arrived"


def test_a_file_that_another_has_put_in_its_place_is_not_installed(tmp_path: Path) -> None:
    with partial(tmp_path / "film", item()) as file:
        os.pwrite(file.fd, b"whole", 0)
        file.path.rename(tmp_path / "moved")
        file.path.write_bytes(b"unverified")
        with pytest.raises(LocalError) as refused:
            file.install()
    assert refused.value.code == "changed"
    assert not (tmp_path / "film").exists()
