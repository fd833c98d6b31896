"""Carrying out a plan and recording each result: `Executor`.

Small transfers are done in slices, so that the loop looks around between them; a large one runs
beside the loop, and the paths it is about are left alone by the plans made meanwhile.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from agent.actions import (
    Action,
    Bind,
    DeleteRemote,
    Download,
    Forget,
    KeepCopy,
    MakeFolder,
    MoveLocal,
    Plan,
    RemoteChange,
    RemoveLocal,
    RotateLocal,
    SetLocal,
    SettlePlace,
    Upload,
)
from agent.executor import local
from agent.executor.bases import Bases
from agent.executor.downloads import Downloads
from agent.executor.downloads import is_large as is_large_download
from agent.executor.tree import TreeChanges
from agent.executor.uploads import Uploads
from agent.executor.uploads import is_large as is_large_upload
from agent.executor.work import Tally, Work, log
from agent.scanner.absence import ancestors
from agent.transfer import Direction
from libs.contracts.errors import LockstepError

__all__ = ["Executor", "Tally", "Work"]

T = TypeVar("T")

_SLICE: Final = 2000
"""Small transfers of one round, in each direction."""
_LARGE: Final = 2
"""Large transfers at once; as many edited files of which the difference is sent do not wait for them."""
_MOST: Final = 16
"""With those that wait for the server to verify what it has, which move nothing and keep no other waiting."""

_TRIES_WAITED_FOR: Final = 3
"""Of one large download, after which no other, nor the removal of what it is made of, waits for it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A large transfer beside the loop."""

    path: str
    key: str
    """The node that is fetched or the content that is sent: one transfer of each at a time."""
    large: bool
    task: "asyncio.Task[None]"
    bases: frozenset[str] = frozenset()
    """Hashes of contents that it may be made of: their files are not removed while it is fetched."""


class Executor:
    """Carries out plans with the parts of `work`."""

    def __init__(self, work: Work, tasks: asyncio.TaskGroup, wake: Callable[[], None]) -> None:
        self._work = work
        self._tasks = tasks
        self._wake = wake
        self._running: dict[str, Running] = {}
        self._fetching: dict[str, Download] = {}
        self._failures: dict[str, int] = {}
        """Tries of large transfers that an error ended, one after the other, by path."""
        self._errors: list[LockstepError] = []
        self._changed = asyncio.Event()
        """Set when one begins to wait: another may start."""
        self.paused = False
        self._cut = False
        """Whether the plan under way is left where it is."""
        self._limit: asyncio.Timeout | None = None

    @property
    def in_flight(self) -> frozenset[str]:
        """Paths of large transfers under way."""
        return frozenset(self._running)

    @property
    def fetching(self) -> tuple[Download, ...]:
        """The downloads among them."""
        return tuple(self._fetching.values())

    async def wait(self) -> None:
        """Return when a large transfer has ended, or another may start (at once when none runs).

        Raises as `run`.
        """
        tasks: list[asyncio.Task[Any]] = [running.task for running in self._running.values()]
        if tasks:
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait([*tasks, changed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            self._changed.clear()
        self.check()

    def check(self) -> None:
        """Raise what ended a large transfer since the last look."""
        if self._errors:
            raise self._errors.pop(0)

    def cancel(self) -> None:
        """Stop the large transfers; what they sent or fetched is where the next run goes on."""
        for running in self._running.values():
            running.task.cancel()

    def pause(self) -> None:
        """End what is under way soon, as a crash would: what was done shows at the next look."""
        self.paused = self._cut = True
        self.cancel()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)

    async def run(self, plan: Plan, *, feed_seq: int) -> None:
        """Carry out a plan and record each result, or as much of it as is done until a pause.

        Raises `UnavailableError` and `UnauthenticatedError`; what was done until then is recorded.
        `feed_seq` is the sequence number up to which the plan's remote tree is complete.
        """
        self._cut = False
        actions, work = plan.actions, self._work
        tree = TreeChanges(work)
        changes = [action for action in actions if isinstance(action, RemoteChange)]
        steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            partial(local.remember, work, _of(actions, Bind, Forget, SettlePlace)),
            partial(local.move, work, _of(actions, KeepCopy, MoveLocal, RotateLocal)),
            partial(self.unless_paused, partial(tree.apply, changes)),
            partial(local.make_folders, work, _of(actions, MakeFolder)),
            partial(local.set_attributes, work, _of(actions, SetLocal)),
            partial(self.unless_paused, partial(self._upload, tree, _of(actions, Upload))),
            partial(self.unless_paused, partial(self._download, _of(actions, Download))),
            partial(self._remove, _of(actions, RemoveLocal)),
            partial(self.unless_paused, partial(tree.delete, _of(actions, DeleteRemote), seen_seq=feed_seq)),
        )
        for step in steps:
            if not self._cut:
                await step()

    async def unless_paused(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry out what waits for the network; a pause ends it wherever it is, and `paused` says so."""
        self._limit = limit = asyncio.timeout(None)
        try:
            async with limit:
                await step()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._limit = None

    async def _upload(self, tree: TreeChanges, actions: Sequence[Upload]) -> None:
        uploads = Uploads(self._work, tree)
        await uploads.forget_others(actions, under_way={running.key for running in self._running.values()})
        alone = uploads.alone(actions)
        small = [action for action in actions if action.entry.path not in alone]
        await uploads.send_small(small[:_SLICE])
        for action in actions:
            if action.entry.path in alone:
                key = action.entry.content_hash or action.entry.path
                moving = self._moving(action.entry.path, "uploading", action.entry.stat.size)
                job = partial(uploads.send_large, action)
                self._beside(action.entry.path, key, moving, job, large=is_large_upload(action))

    async def _download(self, actions: Sequence[Download]) -> None:
        small = [action for action in actions if not is_large_download(action)]
        await Downloads(self._work).fetch(small[:_SLICE])
        large = [action for action in actions if is_large_download(action)]
        self._forget_failures(self.in_flight.union(action.path for action in large))
        if large:
            self._fetch_large(large)

    def _fetch_large(self, large: Sequence[Download]) -> None:
        bases = Bases(self._work, [action.node for action in large])
        coming = [action for action in self._fetching.values() if self._is_waited_for(action.path)]
        for action in sorted(bases.sources_first(large), key=lambda one: not self._is_waited_for(one.path)):
            waits = bases.comes_with(action, coming)
            starts = not waits and self._fetch_beside(action, bases.contents(action.node))
            if waits or (starts and self._is_waited_for(action.path)):
                coming.append(action)

    def _forget_failures(self, wanted: AbstractSet[str]) -> None:
        """Forget those of what no plan fetches any more."""
        self._failures = {path: count for path, count in self._failures.items() if path in wanted}

    def _is_waited_for(self, path: str) -> bool:
        """Whether others wait for a download: the store may never give one object, and give the others."""
        return self._failures.get(path, 0) < _TRIES_WAITED_FOR

    def _fetch_beside(self, action: Download, bases: AbstractSet[str]) -> bool:
        moving = self._moving(action.path, "downloading", action.node.size)
        job = partial(Downloads(self._work).fetch, [action])
        starts = self._beside(action.path, action.node.id, moving, job, large=True, bases=bases)
        if starts:
            self._fetching[action.path] = action
        return starts

    async def _remove(self, actions: Sequence[RemoveLocal]) -> None:
        """Remove what nothing is made of now; the next plan proposes the rest again."""
        waited_for = (running for running in self._running.values() if self._is_waited_for(running.path))
        bases = frozenset().union(*(running.bases for running in waited_for))
        kept = {action.entry.path for action in actions if action.entry.content_hash in bases}
        kept |= {parent for path in kept for parent in ancestors(path)}
        await local.remove(self._work, [action for action in actions if action.entry.path not in kept])

    def _moving(self, path: str, code: Direction, size: int) -> AbstractContextManager[None]:
        return self._work.transfer.tally.moving(path, code, size)

    def _beside(
        self,
        path: str,
        key: str,
        moving: AbstractContextManager[None],
        job: Callable[[], Coroutine[Any, Any, None]],
        *,
        large: bool,
        bases: AbstractSet[str] = frozenset(),
    ) -> bool:
        """Start a transfer beside the loop unless enough run; the next plan proposes the rest again.

        A node that was renamed while it is fetched is not fetched twice at once. Returns whether it starts.
        """
        busy = path in self._running or any(running.key == key for running in self._running.values())
        if busy or len(self._running) >= _MOST or self._moving_now(large=large) >= _LARGE:
            return False
        self._work.transfer.tally.on_wait = self._waits
        task = self._tasks.create_task(self._run_beside(path, moving, job), name=f"transfer {path}")
        self._running[path] = Running(path, key, large, task, frozenset(bases))
        return True

    def _moving_now(self, *, large: bool) -> int:
        waiting = {moving.path for moving in self._work.transfer.tally.under_way if moving.waiting}
        return sum(one.large is large and one.path not in waiting for one in self._running.values())

    def _waits(self) -> None:
        self._changed.set()
        self._wake()

    async def _run_beside(
        self,
        path: str,
        moving: AbstractContextManager[None],
        job: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        try:
            with moving:
                await job()
        except LockstepError as error:
            self._failures[path] = self._failures.get(path, 0) + 1
            self._errors.append(error)
        except Exception as error:  # noqa: BLE001 - one transfer must not end the agent
            log.exception("a large transfer failed", path=path)
            self._work.problem(path, "internal", f"{type(error).__name__}: {error}")
        else:
            self._failures.pop(path, None)
        finally:
            self._running.pop(path, None)
            self._fetching.pop(path, None)
            self._wake()


def _of(actions: Sequence[Action], *kinds: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kinds)]
