"""Carrying out a plan and recording each result: `Executor`.

Small transfers are done in slices, so that the loop looks around between them; a large one runs
beside the loop, and the paths it is about are left alone by the plans made meanwhile.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from agent.actions import (
    Action,
    Bind,
    CreateFolder,
    CreateSymlink,
    DeleteRemote,
    Download,
    Forget,
    KeepCopy,
    MakeFolder,
    MoveLocal,
    MoveRemote,
    Plan,
    RemoveLocal,
    RotateLocal,
    RotateRemote,
    SetLocal,
    SetRemote,
    SettlePlace,
    Upload,
)
from agent.executor import local
from agent.executor.downloads import Downloads
from agent.executor.downloads import is_large as is_large_download
from agent.executor.tree import TreeChanges
from agent.executor.uploads import Uploads
from agent.executor.uploads import is_large as is_large_upload
from agent.executor.work import Tally, Work, log
from libs.contracts.errors import LockstepError

__all__ = ["Executor", "Tally", "Work"]

T = TypeVar("T")

_SLICE: Final = 2000
"""Small transfers of one round, in each direction."""
_LARGE: Final = 2
"""Large transfers at once."""


@dataclass(frozen=True, slots=True)
class Running:
    """A large transfer beside the loop."""

    path: str
    key: str
    """The node that is fetched or the content that is sent: one transfer of each at a time."""
    task: "asyncio.Task[None]"


class Executor:
    """Carries out plans with the parts of `work`."""

    def __init__(self, work: Work, tasks: asyncio.TaskGroup, wake: Callable[[], None]) -> None:
        self._work = work
        self._tasks = tasks
        self._wake = wake
        self._running: dict[str, Running] = {}
        self._errors: list[LockstepError] = []

    @property
    def in_flight(self) -> frozenset[str]:
        """Paths of large transfers under way."""
        return frozenset(self._running)

    async def wait(self) -> None:
        """Return when a large transfer has ended (at once when none runs). Raises as `run`."""
        tasks = [running.task for running in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    def check(self) -> None:
        """Raise what ended a large transfer since the last look."""
        if self._errors:
            raise self._errors.pop(0)

    def cancel(self) -> None:
        """Stop the large transfers; what they sent or fetched is where the next run goes on."""
        for running in self._running.values():
            running.task.cancel()

    async def run(self, plan: Plan, *, feed_seq: int) -> None:
        """Carry out a plan and record each result.

        Raises `UnavailableError` and `UnauthenticatedError`; what was done until then is recorded.
        `feed_seq` is the sequence number up to which the plan's remote tree is complete.
        """
        actions = plan.actions
        await local.remember(self._work, _of(actions, Bind, Forget, SettlePlace))
        await local.move(self._work, _of(actions, KeepCopy, MoveLocal, RotateLocal))
        tree = TreeChanges(self._work)
        await tree.apply(_of(actions, CreateFolder, CreateSymlink, MoveRemote, RotateRemote, SetRemote))
        await local.make_folders(self._work, _of(actions, MakeFolder))
        await local.set_attributes(self._work, _of(actions, SetLocal))
        await self._upload(tree, _of(actions, Upload))
        await self._download(_of(actions, Download))
        await local.remove(self._work, _of(actions, RemoveLocal))
        await tree.delete(_of(actions, DeleteRemote), seen_seq=feed_seq)

    async def _upload(self, tree: TreeChanges, actions: Sequence[Upload]) -> None:
        uploads = Uploads(self._work, tree)
        small = [action for action in actions if not is_large_upload(action)]
        await uploads.send_small(small[:_SLICE])
        for action in actions:
            if is_large_upload(action):
                key = action.entry.content_hash or action.entry.path
                self._beside(action.entry.path, key, partial(uploads.send_large, action))

    async def _download(self, actions: Sequence[Download]) -> None:
        small = [action for action in actions if not is_large_download(action)]
        await Downloads(self._work).fetch(small[:_SLICE])
        for action in actions:
            if is_large_download(action):
                self._beside(action.path, action.node.id, partial(Downloads(self._work).fetch, [action]))

    def _beside(self, path: str, key: str, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a large transfer unless enough run; the next plan proposes the rest again.

        A node that was renamed while it is fetched is not fetched twice at once.
        """
        busy = path in self._running or any(running.key == key for running in self._running.values())
        if busy or len(self._running) >= _LARGE:
            return
        task = self._tasks.create_task(self._run_beside(path, job), name=f"transfer {path}")
        self._running[path] = Running(path, key, task)

    async def _run_beside(self, path: str, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await job()
        except LockstepError as error:
            self._errors.append(error)
        except Exception as error:  # noqa: BLE001 - one transfer must not end the agent
            log.exception("a large transfer failed", path=path)
            self._work.problem(path, "internal", f"{type(error).__name__}: {error}")
        finally:
            self._running.pop(path, None)
            self._wake()


def _of(actions: Sequence[Action], *kinds: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kinds)]
