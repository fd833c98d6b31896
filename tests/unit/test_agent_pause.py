"""A pause ends what is under way where it is; nothing after it in the plan is done."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from agent.actions import DeleteRemote, Plan
from agent.executor import Executor, Work, local
from agent.executor.tree import TreeChanges
from agent.model import Kind, RemoteNode

PLAN = Plan((DeleteRemote(RemoteNode("n", "root", "a", Kind.FILE, 1), "a", 1),))


class _Steps:
    """Stands for the carrying out: each step is noted, one of them never ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hangs: str) -> None:
        self.done: list[str] = []
        self.reached = asyncio.Event()
        self._hangs = hangs
        for name in ("remember", "move", "make_folders", "set_attributes", "remove"):
            monkeypatch.setattr(local, name, self._step(name))
        for name in ("apply", "delete"):
            monkeypatch.setattr(TreeChanges, name, self._step(name))
        for name in ("upload", "download"):
            monkeypatch.setattr(Executor, f"_{name}", self._step(name))

    def _step(self, name: str) -> Callable[..., Any]:
        async def step(*_: object, **__: object) -> None:
            if name == self._hangs:
                self.reached.set()
                await asyncio.sleep(3600)
            self.done.append(name)

        return step


ORDER = [
    "remember",
    "move",
    "apply",
    "make_folders",
    "set_attributes",
    "upload",
    "download",
    "remove",
    "delete",
]


@pytest.mark.parametrize("hangs", ["apply", "upload", "download", "delete"])
async def test_a_pause_ends_the_step_that_waits_for_the_network(
    monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    steps = _Steps(monkeypatch, hangs)
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", None), tasks, lambda: None)
        running = tasks.create_task(executor.run(PLAN, feed_seq=1))
        await asyncio.wait_for(steps.reached.wait(), 5)
        executor.pause()
        executor.pause()
        executor.paused = False  # resumed at once: the plan that was cut short stays so
        await asyncio.wait_for(running, 5)
    assert steps.done == ORDER[: ORDER.index(hangs)]


async def test_the_next_plan_after_a_pause_is_carried_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _Steps(monkeypatch, "nothing")
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", None), tasks, lambda: None)
        executor.pause()
        await executor.run(PLAN, feed_seq=1)
    assert steps.done == ORDER


async def test_a_step_that_times_out_by_itself_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _Steps(monkeypatch, "nothing")

    async def late(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(TreeChanges, "apply", late)
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", None), tasks, lambda: None)
        with pytest.raises(TimeoutError):
            await executor.run(PLAN, feed_seq=1)
    assert steps.done == ["remember", "move"]
