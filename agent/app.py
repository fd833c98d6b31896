"""The composition root of the agent: opens the parts of one device and runs the engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.actions import Download, Upload
from agent.board import Board, problems_of, read_status
from agent.disk import Disk, DiskError
from agent.engine import Engine, HaltedError, Options, Parts, PausedError
from agent.errors import LocalError
from agent.guard import Halt
from agent.lock import listening, locked
from agent.model import Trouble
from agent.progress import OnProgress, PlanProgress, ignore
from agent.push import pushes
from agent.remote import open_api
from agent.settings import Choices, Settings, read_choices, save_choices
from agent.state import PAUSED, State, StateDamagedError, StateTooNewError, read_meta
from agent.status import SyncReport
from agent.transfer import open_transfer
from agent.transfer.spool import Spool
from agent.watching import Watching
from libs.contracts.errors import LockstepError, UnauthenticatedError
from libs.contracts.ids import new_id
from libs.runtime.logs import get_logger

__all__ = ["is_paused", "read_status", "run_agent", "run_sync"]

log = get_logger("app")

_PART_NOTES_SECONDS: Final = 8 * 24 * 3600.0
"""How long digests of parts are kept: a day more than an untouched session lives at the server."""
_STAMP_SECONDS: Final = 900.0
"""An older copy of the state, put back, is known as such when it is older than this."""
_THREADS: Final = 32
"""Threads for the disk: flushes that wait side by side are one commit of its journal."""
_UNHEARD_SECONDS: Final = 5.0
"""Between looks at whether the user paused, where nobody can tell."""


@dataclass(frozen=True, slots=True)
class _End:
    """What stopped a run: a guard, an error, the user; nothing when it is done."""

    halt: Halt | None = None
    failure: LockstepError | None = None
    paused: bool = False


async def run_sync(
    settings: Settings, folder: Path, *, allow_mass_delete: bool = False, on_progress: OnProgress = ignore
) -> SyncReport:
    """One two-way run until folder and server are in step; how it ended is in the report.

    Raises `LocalError` when it cannot begin ("already_running", "not_signed_in", …).
    """
    return await _with_a_sound_memory(
        settings,
        lambda: _run_sync(settings, folder, allow_mass_delete=allow_mass_delete, on_progress=on_progress),
    )


async def _with_a_sound_memory(settings: Settings, run: Callable[[], Awaitable[SyncReport]]) -> SyncReport:
    """Return what a run returns; when it meets damage in the memory, that is set aside and it runs anew."""
    try:
        return await run()
    except* StateDamagedError:
        log.exception("the state is damaged and set aside: everything is observed anew")
    with locked(settings.lock_path):
        set_aside(settings.state_path, "damaged")
    return await run()


async def _run_sync(
    settings: Settings, folder: Path, *, allow_mass_delete: bool, on_progress: OnProgress
) -> SyncReport:
    started = time.monotonic()
    if is_paused(settings):
        return SyncReport(paused=True)
    async with open_parts(settings, folder, Options(allow_mass_delete=allow_mass_delete)) as parts:
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            board = _connect_displays(parts, engine, on_progress)
            with listening(settings.nudge_path, engine.pause_changed):
                end = await _outcome(engine)
            engine.stop()
        report = _report(parts, engine, started, end)
        if report.in_step and not end.paused:
            board.tell("in_step")
        board.tell("stopped", end.halt)
        return report


async def _outcome(engine: Engine) -> _End:
    """Run once and return what stopped it."""
    try:
        await engine.run_once()
    except HaltedError as error:
        return _End(halt=error.halt)
    except PausedError:
        return _End(paused=True)
    except LockstepError as error:
        return _End(failure=error)
    else:
        return _End()


async def run_agent(
    settings: Settings, folder: Path, *, allow_mass_delete: bool = False, on_progress: OnProgress = ignore
) -> SyncReport:
    """Keep folder and server in step until cancelled, or until the device is no longer linked.

    Raises `LocalError` as `run_sync`.
    """
    return await _with_a_sound_memory(
        settings,
        lambda: _run_agent(settings, folder, allow_mass_delete=allow_mass_delete, on_progress=on_progress),
    )


async def _run_agent(
    settings: Settings, folder: Path, *, allow_mass_delete: bool, on_progress: OnProgress
) -> SyncReport:
    started = time.monotonic()
    async with open_parts(settings, folder, Options(allow_mass_delete=allow_mass_delete)) as parts:
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            board = _connect_displays(parts, engine, on_progress)
            with listening(settings.nudge_path, engine.pause_changed) as heard:
                hints = [
                    tasks.create_task(_watch(parts, engine, board, folder), name="watch"),
                    tasks.create_task(_listen(parts, engine), name="push"),
                    tasks.create_task(engine.every(settings.poll_seconds, engine.feed_due), name="poll"),
                    tasks.create_task(engine.every(settings.rescan_seconds, engine.touch_all), name="rescan"),
                    tasks.create_task(engine.every(_STAMP_SECONDS, engine.renew_stamp), name="stamp"),
                ]
                if not heard:
                    hints.append(tasks.create_task(engine.every(_UNHEARD_SECONDS, engine.pause_changed)))
                try:
                    failure = await engine.run()
                finally:
                    engine.stop()
                    for task in hints:
                        task.cancel()
                    board.stopped()
        return _report(parts, engine, started, _End(failure=failure))


def is_paused(settings: Settings) -> bool:
    """Whether the user wants this device to rest; a memory that cannot be read says no."""
    with suppress(StateDamagedError, StateTooNewError, OSError):
        return read_meta(settings.state_path, PAUSED) is not None
    return False


async def _watch(parts: Parts, engine: Engine, board: Board, folder: Path) -> None:
    """Hand on what changes on the disk; what keeps it from being watched shows in `status`."""

    def warn(trouble: Trouble | None) -> None:
        engine.warnings = {} if trouble is None else {trouble.code: trouble}
        board.tick()

    settings = parts.settings
    watching = Watching(
        folder,
        engine.touch,
        warn,
        poll_seconds=settings.unwatched_seconds,
        again_seconds=settings.rewatch_seconds,
    )
    await watching.run()


async def _listen(parts: Parts, engine: Engine) -> None:
    """Hand on pushes; a device that is no longer let in shows at the next call of the engine."""
    while True:
        with suppress(UnauthenticatedError):
            async for push in pushes(parts.api, parts.settings, lambda: engine.feed.cursor):
                engine.pushed(push)
        engine.feed_due()
        await asyncio.sleep(parts.settings.push_retry_cap)


def _connect_displays(parts: Parts, engine: Engine, on_progress: OnProgress) -> Board:
    """Keep `status` and the progress display told of what is done, is to travel and has travelled."""
    tally = parts.transfer.tally
    progress = PlanProgress(tally)
    board = Board(parts.state, engine, progress.now)

    def planned(uploads: list[Upload], downloads: list[Download]) -> None:
        progress.announce((u.entry.path, u.entry.content_hash, u.entry.stat.size) for u in uploads)
        progress.announce((d.path, d.node.content_hash, d.node.size) for d in downloads)
        on_progress(progress.now())

    def moved(_count: int) -> None:
        on_progress(progress.now())
        board.tick()

    parts.options.on_plan, parts.options.on_status, tally.on_change = planned, board.tell, moved
    board.tell("working")
    return board


def _report(parts: Parts, engine: Engine, started: float, end: _End) -> SyncReport:
    tally = engine.work.tally
    return SyncReport(
        uploaded_files=tally.uploaded_files,
        downloaded_files=tally.downloaded_files,
        uploaded_bytes=parts.transfer.tally.uploaded_bytes,
        downloaded_bytes=parts.transfer.tally.downloaded_bytes,
        api_bytes=parts.api.api_bytes,
        conflicts=tally.conflicts,
        deleted=tally.deleted,
        moved=tally.moved,
        problems=problems_of(parts.state, engine),
        seconds=time.monotonic() - started,
        halted=None if end.halt is None else end.halt.detail,
        halt_code=None if end.halt is None else end.halt.code,
        failure=end.failure,
        paused=end.paused,
    )


# Opening --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_parts(settings: Settings, folder: Path, options: Options) -> AsyncIterator[Parts]:
    """Open everything of one device. Raises `LocalError` ("already_running", "state_too_new")."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "lockstep"))
    with locked(settings.lock_path):
        async with open_api(settings) as api, open_transfer(settings, api) as transfer:
            credentials = api.credentials
            state = open_state(settings.state_path, credentials.namespace_id)
            state.parts.forget_older(_PART_NOTES_SECONDS)
            tidy_spool(settings, state)
            disk = Disk(folder, trash_days=settings.trash_days)
            try:
                if adopt_root(state, disk, folder) or read_choices(settings).folder is None:
                    save_choices(settings, Choices(server=credentials.server, folder=str(folder)))
                yield Parts(
                    settings=settings,
                    state=state,
                    disk=disk,
                    api=api,
                    transfer=transfer,
                    namespace_id=credentials.namespace_id,
                    device=credentials.device_name,
                    options=options,
                )
            finally:
                state.close()


def tidy_spool(settings: Settings, state: State) -> None:
    """Drop delta objects that no run will go on with."""
    wanted = {entry.content_hash for entry in state.local.values() if entry.content_hash is not None}
    Spool(settings.folder, settings.spool_bytes).tidy(wanted)


def open_state(path: Path, namespace_id: str) -> State:
    """Open the memory of this account.

    One that is damaged, or another account's, is set aside, and a new one is made: everything is
    observed anew. Raises `LocalError` "state_too_new".
    """
    try:
        state = State(path)
    except StateTooNewError as error:
        raise LocalError(str(error), code="state_too_new") from error
    except StateDamagedError:
        log.exception("the state is damaged and set aside: everything is observed anew")
        set_aside(path, "damaged")
        state = State(path)
    known = state.get("namespace_id")
    if known not in {None, namespace_id}:
        state.close()
        set_aside(path, f"account-{known}")
        state = State(path)
    state.put("namespace_id", namespace_id)
    return state


def set_aside(path: Path, label: str) -> None:
    """Rename the state's files, so that nothing of them is used or lost."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.{label}-{stamp}{suffix}"))


def adopt_root(state: State, disk: Disk, folder: Path) -> bool:
    """Mark a folder that this device never synced; one that it did must carry its marker.

    Returns whether it is this device's folder now.
    """
    expected = state.get("root_id")
    if expected is not None:
        return disk.root_state().marker == expected
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"{folder} cannot be used: {error.strerror}", code="folder_unusable") from error
    try:
        marker = _marked(disk)
    except DiskError as error:
        raise LocalError(f"{folder} cannot be used: {error.detail}", code="folder_unusable") from error
    state.put("root_id", marker)
    return True


def _marked(disk: Disk) -> str:
    """Make the agent's own folder in the root, and the marker; return what the marker says."""
    disk.prepare()
    marker = disk.marker()
    if marker is None:
        marker = new_id()
        disk.write_marker(marker)
    return marker
