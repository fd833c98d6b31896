"""One agent per home, and a word to it that nobody else can take for theirs."""

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import pytest

from agent.errors import LocalError
from agent.lock import is_locked, listening, locked, nudge


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    return tmp_path / "nudge"


def test_only_one_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(LocalError, match="already_running"), locked(path):
            pass
        assert is_locked(path), "the one who failed took nothing away"
    assert not is_locked(path)


def test_asking_who_runs_does_not_keep_an_agent_from_starting(tmp_path: Path) -> None:
    """The question holds the lock for an instant: the agent tries again."""
    path = tmp_path / "lock"
    path.touch()
    asked = os.open(path, os.O_RDONLY)
    fcntl.flock(asked, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [asked]).start()
    with locked(path):
        assert is_locked(path)


async def test_a_nudge_reaches_the_one_that_listens(pipe: Path) -> None:
    told = asyncio.Event()
    with listening(pipe, told.set) as heard:
        assert heard
        assert nudge(pipe)
        await asyncio.wait_for(told.wait(), 5)
        told.clear()
        assert nudge(pipe), "it goes on listening"
        await asyncio.wait_for(told.wait(), 5)
    assert not nudge(pipe)
    assert not pipe.exists()


async def test_many_nudges_do_not_wait_for_a_reader(pipe: Path) -> None:
    with listening(pipe, lambda: None):
        assert all(nudge(pipe) for _ in range(70_000)), "a full pipe is one that was told"


def test_what_a_crash_left_hears_nothing(pipe: Path) -> None:
    os.mkfifo(pipe)
    assert not nudge(pipe)


async def test_what_a_crash_left_is_replaced(pipe: Path) -> None:
    pipe.write_text("not a pipe")
    assert not nudge(pipe)
    assert pipe.read_text() == "not a pipe", "a file is not written to"
    told = asyncio.Event()
    with listening(pipe, told.set):
        assert nudge(pipe)
        await asyncio.wait_for(told.wait(), 5)


async def test_without_pipes_it_says_so(tmp_path: Path) -> None:
    with listening(tmp_path / "missing" / "nudge", lambda: None) as heard:
        assert not heard
