"""A memory that was put back from a backup is told from the one that the folder was last kept with."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from agent.disk import Disk, DiskError
from agent.stamp import Stamp
from agent.state import State


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "root").mkdir()
    made = Disk(tmp_path / "root")
    made.prepare()
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def stamped(disk: Disk, path: Path, *, ends: bool = True) -> bool:
    """A run of the agent: whether it finds itself in doubt."""
    state = State(path)
    try:
        stamp = Stamp(state, disk, "device")
        stamp.check()
        doubt = stamp.in_doubt
        stamp.settle()
        if ends:
            stamp.renew()
        return doubt
    finally:
        state.close()


def test_run_after_run_is_without_doubt(disk: Disk, path: Path) -> None:
    assert [stamped(disk, path, ends=ends) for ends in (True, False, False, True)] == [False] * 4


@pytest.mark.parametrize("ends", [True, False])
def test_an_older_memory_is_in_doubt_once(disk: Disk, path: Path, *, ends: bool) -> None:
    stamped(disk, path)
    shutil.copy(path, path.with_name("backup"))
    stamped(disk, path, ends=ends)
    shutil.copy(path.with_name("backup"), path)
    assert [stamped(disk, path), stamped(disk, path)] == [True, False]


def test_a_new_memory_beside_a_known_folder_is_in_doubt_and_has_nothing_to_forget(
    disk: Disk, path: Path
) -> None:
    stamped(disk, path)
    path.unlink()
    assert stamped(disk, path)


def test_doubt_outlives_a_crash_before_it_is_settled(disk: Disk, path: Path) -> None:
    stamped(disk, path)
    path.unlink()
    state = State(path)
    Stamp(state, disk, "device").check()
    state.close()
    assert stamped(disk, path)


def test_a_folder_that_cannot_be_written_causes_no_doubt_later(disk: Disk, path: Path) -> None:
    stamped(disk, path)
    with patch.object(Disk, "write_note", side_effect=DiskError("full")):
        for _ in range(3):
            with pytest.raises(DiskError):
                stamped(disk, path)
    assert not stamped(disk, path)


def test_a_crash_after_the_folder_was_written_causes_no_doubt(disk: Disk, path: Path) -> None:
    stamped(disk, path)
    state = State(path)
    state.put("stamp_next", "value")
    disk.write_note("stamp.device", "value")
    state.close()
    assert not stamped(disk, path)


def test_two_devices_in_one_folder_do_not_disturb_each_other(disk: Disk, path: Path) -> None:
    for _ in range(2):
        for name in ("one", "other"):
            state = State(path.with_name(name))
            stamp = Stamp(state, disk, name)
            stamp.check()
            assert not stamp.in_doubt
            state.close()
