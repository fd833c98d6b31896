"""The loop: observe, plan, guard, execute, record; again until the plan is empty.

One loop owns the agent's state. Watcher, pushes and timers are hints that wake it; hashing and
large transfers run beside it and hand their results back.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from agent import clock
from agent.actions import Action, Download, Plan, Upload
from agent.disk import Disk, DiskError
from agent.executor import Executor, Work
from agent.feed import Feed
from agent.guard import (
    Deletions,
    Halt,
    deletions_by_node,
    deletions_of,
    emptied_halt,
    fitting,
    mass_deletion_halt,
    root_halt,
)
from agent.leftovers import Expected, drop_unwanted, rescue_leftovers
from agent.manifests import Manifests
from agent.model import Trouble
from agent.observer import Observer
from agent.planning import Planning, synced_files, waiting
from agent.push import Connected, Disconnected, Push, Resync
from agent.remote import Api
from agent.settings import Settings
from agent.stamp import Stamp
from agent.state import PAUSED, State, StateDamagedError, StateUnwritableError
from agent.transfer import Transfer
from libs.contracts.api import PushChanges, PushHeads, PushRevoked
from libs.contracts.errors import RateLimitedError, UnauthenticatedError, UnavailableError
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger

log = get_logger("engine")

_IDLE_ROUNDS = 8
"""Rounds without progress after which the loop waits for a hint instead of planning again."""
_WINDOW_SECONDS = 600.0
_LONGEST_WAIT = 60.0
_OFFLINE = Backoff(0.5, 30.0)


class _Recent:
    """Deletions of the last minutes: one plan's part of a mass deletion may look small.

    A node counts once, however often its deletion was planned: a server that is away, or a file
    in use, has the same plan made again and again.
    """

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, Deletions]] = {}

    def note(self, actions: Iterable[Action]) -> None:
        """Remember what a plan deletes."""
        now = clock.now()
        self._noted.update({key: (now, deleted) for key, deleted in deletions_by_node(actions).items()})

    def besides(self, actions: Iterable[Action]) -> Deletions:
        """Return what other than these was deleted within the window.

        That begins anew when the clock is set back.
        """
        now, planned = clock.now(), deletions_by_node(actions)
        self._noted = {
            key: (min(at, now), item) for key, (at, item) in self._noted.items() if at > now - _WINDOW_SECONDS
        }
        return sum((item for key, (_, item) in self._noted.items() if key not in planned), Deletions())


class HaltedError(Exception):
    """A guard stopped the work."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.detail)
        self.halt = halt


class PausedError(Exception):
    """The user wants this device to rest."""


@dataclass(slots=True)
class Options:
    """What the caller chose."""

    allow_mass_delete: bool = False
    on_plan: Callable[[list[Upload], list[Download]], None] = lambda _u, _d: None
    """Told of the transfers of each plan, for the progress display."""
    on_status: Callable[[str, Halt | None], None] = lambda _phase, _halt: None
    """Told what the agent is doing: "in_step", "working", "offline", "halted", "paused"."""


@dataclass(slots=True)
class Parts:
    """What the engine works with."""

    settings: Settings
    state: State
    disk: Disk
    api: Api
    transfer: Transfer
    namespace_id: str
    device: str
    options: Options = field(default_factory=Options)


class Engine:
    """Keeps one folder in step."""

    def __init__(self, parts: Parts, tasks: asyncio.TaskGroup) -> None:
        self._parts = parts
        self._state = parts.state
        self._wake = asyncio.Event()
        manifests = Manifests(parts.settings.folder / "manifests")
        self.work = Work(
            parts.state, parts.disk, parts.api, parts.transfer, parts.settings, parts.device, manifests
        )
        self.executor = Executor(self.work, tasks, self._wake.set)
        self.feed = Feed(parts.state, parts.api, parts.namespace_id)
        self.observer = Observer(parts.state, parts.disk, parts.settings, manifests)
        self._planning = Planning(parts.state, self.observer, parts.disk, parts.namespace_id, parts.device)
        self._stamp = Stamp(parts.state, parts.disk, f"{parts.namespace_id}.{parts.device}")
        self.troubles: dict[str, Trouble] = {}
        """Why paths are not in step, as the last plan said."""
        self.warnings: dict[str, Trouble] = {}
        """What is wrong with the agent's surroundings, by code; no path is out of step for it."""
        self.planned: tuple[Action, ...] = ()
        """Actions of the last plan."""
        self._feed_due = True
        self._allow_mass_delete = parts.options.allow_mass_delete
        self._revoked = False
        self._unswept = True
        self._unprepared = True
        self._recent = _Recent()
        self._looks = 0
        """How often one run still looks again at files that were just written."""

    def stop(self) -> None:
        """End large transfers and long reads soon."""
        self.executor.cancel()
        self._parts.disk.stop()
        self.renew_stamp()

    def renew_stamp(self) -> None:
        """Make copies of the memory that were taken until now older ones."""
        if not self._unswept:
            # Neither may hide how the run ended: the old value is still good.
            with suppress(DiskError, StateUnwritableError):
                self._stamp.renew()

    # Hints --------------------------------------------------------------------------------

    def touch(self, paths: set[str] | None) -> None:
        """Something may have changed at these paths (None: anywhere)."""
        if paths is None:
            self.observer.full = True
        else:
            self.observer.dirty |= paths
        self._wake.set()

    def touch_all(self) -> None:
        """Anything may have changed."""
        self.touch(None)

    def feed_due(self) -> None:
        """The feed may have news."""
        self._feed_due = True
        self._wake.set()

    def pushed(self, push: Push) -> None:
        """Take a push: apply what continues the cursor, otherwise have the feed read."""
        match push:
            case PushChanges():
                self._feed_due = not self.feed.apply(push) or self._feed_due
            case PushHeads():
                self._feed_due = self.feed.is_behind(push) or self._feed_due
            case Connected() | Resync():
                self._feed_due = True
            case PushRevoked():
                self._revoked = True
            case Disconnected():
                log.info("push channel is away", detail=push.detail)
                return
            case _:
                return
        self._wake.set()

    def pause_changed(self) -> None:
        """The user paused or resumed: transfers end at once, or everything goes on."""
        self.is_paused()
        self._wake.set()

    def is_paused(self) -> bool:
        """Whether the user wants this device to rest, as the memory says now.

        Transfers under way are ended where they are; the next plans go on from there. What was cut
        short may have changed the disk unrecorded, so everything is looked at then.
        """
        paused = self._state.get(PAUSED) is not None
        if paused and not self.executor.paused:
            self.observer.full = self._feed_due = True
            self.executor.pause()
        elif not paused:
            self.executor.paused = False
        return paused

    def _check_wanted(self) -> None:
        """Raise `UnauthenticatedError` or `PausedError` when nothing may be done any more."""
        if self._revoked:
            raise UnauthenticatedError(code="device_revoked")
        if self.is_paused():
            raise PausedError

    # The loop -----------------------------------------------------------------------------

    async def converge(self) -> None:
        """Work until there is nothing to do now.

        Raises `HaltedError`, `PausedError`, `UnavailableError`, `UnauthenticatedError`.
        """
        self._check_wanted()
        if self._unswept:
            await self._sweep()
        idle = 0
        while True:
            await self._observe()
            self._forget_absent_in_doubt()
            found = self._with_room(self._planning.plan(self.suspended()))
            self.troubles, self.planned = found.troubles, found.actions
            if not found.actions:
                self._drop_settled()
                return
            self._guard(found)
            self._check_wanted()
            self._tell("working")
            self._announce(found.actions)
            self.work.progressed = False
            await self.executor.run(found, feed_seq=self.feed.seq)
            self._collect_hints()
            idle = 0 if self.work.progressed else idle + 1
            if idle and self._only_transfers_run():
                return
            if idle >= _IDLE_ROUNDS:
                log.warning("no progress", actions=len(found.actions))
                return

    def _only_transfers_run(self) -> bool:
        """Whether everything waits for a large transfer beside the loop; its end wakes the loop."""
        news = self.observer.full or self.observer.dirty or self._feed_due
        return bool(self.executor.in_flight) and not news

    async def _sweep(self) -> None:
        """Look at what the last run left in the agent's own folder; once, on a known root."""
        self._check_root()
        with self._about_root():
            expected = Expected.by(self._parts.state)
            rescued = await asyncio.to_thread(
                rescue_leftovers, self._parts.disk, expected, self.work.keep_name
            )
            self.observer.dirty |= set(rescued)
            await asyncio.to_thread(self._parts.disk.sweep_trash, clock.now())
        with suppress(DiskError):  # a full or read-only disk: the old value is still good
            self._stamp.check()
        self._unswept = False

    def _forget_absent_in_doubt(self) -> None:
        """An older memory than the folder's says of nothing that the user deleted it."""
        if self._stamp.in_doubt:
            absent = self._planning.forget_absent()
            self._stamp.settle()
            log.warning("the state is older than the folder, or the other way round", absent=absent)

    def _drop_settled(self) -> None:
        """Forget problems that no plan has anything to do about any more."""
        due = [problem.path for problem in self._state.problems.values() if problem.wait == 0]
        if due:
            self._state.drop_problems(due)

    def _collect_hints(self) -> None:
        """Take what executing found out to be different."""
        self.observer.dirty |= self.work.dirty
        self.work.dirty.clear()
        self._feed_due = self._feed_due or self.work.feed_stale
        self.work.feed_stale = False

    async def _observe(self) -> None:
        self.executor.check()
        self._collect_hints()
        self._check_wanted()
        if self._feed_due:
            self._feed_due = False
            try:
                await self._pull()
            except BaseException:
                self._feed_due = True
                raise
        await self._scan()

    async def _pull(self) -> None:
        """Read the feed to its end. A pause ends the wait for a server that is asked too often."""
        whole = False

        async def pull() -> None:
            nonlocal whole
            await self.feed.pull()
            whole = True

        while not whole:
            self._check_wanted()
            await self.executor.unless_paused(pull)

    async def _scan(self) -> None:
        self._check_root()
        with self._about_root():
            while (scan := self.observer.begin()) is not None:
                self.observer.record(await asyncio.to_thread(scan))
                self._check_root()
        self._check_emptied()

    @contextmanager
    def _about_root(self) -> Iterator[None]:
        """What the disk refuses here concerns the folder as a whole: the work halts, nothing was learnt."""
        try:
            yield
        except DiskError as error:
            self.observer.full = self._unprepared = True
            raise HaltedError(Halt(error.code, f"The sync folder: {error.detail}")) from error

    def _check_root(self) -> None:
        found = self._parts.disk.root_state()
        expected = self._state.get("root_id") or ""
        halt = root_halt(found.kind.value, marker=found.marker, expected=expected)
        if halt is not None:
            self.observer.full = self._unprepared = True
            raise HaltedError(halt)
        if self._unprepared:
            with self._about_root():
                self._parts.disk.prepare()
            self._unprepared = False

    def _check_emptied(self) -> None:
        halt = emptied_halt(
            len(self._state.local), synced_files(self._state), allowed=self._allow_mass_delete
        )
        if halt is not None:
            self.observer.full = True
            raise HaltedError(halt)

    def suspended(self) -> frozenset[str]:
        """Return the paths to leave alone for now."""
        return waiting(self._state) | self.executor.in_flight

    def _guard(self, found: Plan) -> None:
        halt = mass_deletion_halt(
            deletions_of(found.actions),
            recent=self._recent.besides(found.actions),
            files=synced_files(self._state),
            allowed=self._allow_mass_delete,
        )
        if halt is not None:
            raise HaltedError(halt)
        if not self._allow_mass_delete:
            self._recent.note(found.actions)

    def _with_room(self, found: Plan) -> Plan:
        """Leave out what does not fit on the disk; each plan asks anew, so it comes once there is room."""
        fits = self._fitting(found)
        if fits is found:
            return fits
        with self._about_root():
            dropped = drop_unwanted(self._parts.disk, Expected.by(self._parts.state))
        return self._fitting(found) if dropped else fits

    def _fitting(self, found: Plan) -> Plan:
        if not any(isinstance(action, Download) for action in found.actions):
            return found
        with self._about_root():
            held = {temp.name: temp.held for temp in self._parts.disk.leftover_temps()}
            free_bytes = self._parts.disk.free_bytes()

        def arrived(action: Download) -> int:
            return held.get(f"{action.node.id}.{action.node.version_id}", 0)

        under_way = sum(max(0, a.node.size - arrived(a)) for a in self.executor.fetching)
        return fitting(found, free_bytes=free_bytes - under_way, arrived=arrived)

    def _announce(self, actions: tuple[Action, ...]) -> None:
        uploads = [a for a in actions if isinstance(a, Upload)]
        downloads = [a for a in actions if isinstance(a, Download)]
        if uploads or downloads:
            self._parts.options.on_plan(uploads, downloads)

    # One run, or for ever -----------------------------------------------------------------

    async def run_once(self) -> None:
        """Work until folder and server are in step, as far as they can be."""
        self._state.drop_problems(list(self._state.problems))
        self._looks = self._parts.settings.changing_looks
        while True:
            await self.converge()
            if self.executor.in_flight:
                await self.executor.wait()
                continue
            if not await self._is_news():
                self._allow_mass_delete = False
                return

    async def _is_news(self) -> bool:
        """Look once more at what was just written, and at the feed.

        A file that is being written to is given a while to come to rest.
        """
        recheck_in = self.observer.recheck_in
        if recheck_in is not None and self._looks > 0:
            self._looks -= 1
            if self._is_changing():
                await asyncio.sleep(max(0.05, recheck_in))
            self.observer.recheck()
        self.observer.read_rules()  # new ones may have come from the server
        return self.observer.full or bool(self.observer.dirty) or await self.feed.pull()

    def _is_changing(self) -> bool:
        return any(trouble.code == "changing" for trouble in self.troubles.values())

    async def run(self) -> UnauthenticatedError:
        """Keep the folder in step until cancelled, or return why the device is not let in any more."""
        failures = 0
        if not self.is_paused():
            self._state.drop_problems(list(self._state.problems))
        while True:
            self._wake.clear()
            try:
                failed = await self._round()
            except UnauthenticatedError as error:
                return error
            failures = failures + 1 if failed else 0
            pause = _OFFLINE.delay(failures) if failed else self._until_next()
            with suppress(TimeoutError):
                # Not `wait_for`: cancelled in the instant in which it is woken, that goes on.
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._on_timer()

    async def _round(self) -> bool:
        """Work until there is nothing to do now; return whether to try again after a pause.

        Whatever goes wrong, the agent goes on, but for a device that is no longer let in and a
        damaged memory.
        """
        try:
            await self.converge()
        except (UnauthenticatedError, StateDamagedError):
            raise
        except HaltedError as error:
            log.error("halted", code=error.halt.code, detail=error.halt.detail)  # noqa: TRY400 - no failure
            self._tell("halted", error.halt)
        except PausedError:
            self._tell("paused")
            return False
        except (UnavailableError, RateLimitedError) as error:
            log.info("offline", detail=error.detail)
            self._tell("offline")
        except Exception:
            log.exception("a round failed")
            self.observer.full = True
            self._tell("working")
        else:
            self._in_step()
            return False
        self._feed_due = True
        return True

    def _tell(self, phase: str, halt: Halt | None = None) -> None:
        self._parts.options.on_status(phase, halt)

    def _in_step(self) -> None:
        self._allow_mass_delete = False
        busy = self.executor.in_flight or self.troubles or self._state.problems
        self._tell("working" if busy else "in_step")

    def _until_next(self) -> float:
        """Return the seconds until something is to be looked at without a hint.

        What is due already was looked at just now; it may have to wait for a large transfer, whose
        end is a hint.
        """
        if self.executor.paused:
            return _LONGEST_WAIT
        waits = [problem.wait for problem in self._state.problems.values()]
        if self.executor.in_flight:
            waits = [wait for wait in waits if wait != 0]
        due = [wait for wait in (self.observer.recheck_in, *waits) if wait is not None]
        return max(0.05, min(due, default=_LONGEST_WAIT))

    def _on_timer(self) -> None:
        if self.observer.recheck_in == 0:
            self.observer.recheck()

    async def every(self, seconds: float, hint: Callable[[], None]) -> None:
        """Give a hint again and again."""
        while True:
            await asyncio.sleep(seconds)
            hint()
