"""The composition root of the agent: opens the parts of one device and runs the engine."""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import clock
from agent.actions import Download, Upload
from agent.credentials import CredentialStore
from agent.disk import Disk
from agent.engine import Engine, HaltedError, Options, Parts
from agent.errors import LocalError
from agent.guard import Halt
from agent.progress import OnProgress, PlanProgress, ignore
from agent.push import pushes
from agent.remote import open_api
from agent.settings import Settings, read_choices
from agent.state import Problem, State, StateDamagedError, StateTooNewError, Summary, read_summary
from agent.status import AgentStatus, PathProblem, SyncReport
from agent.transfer import open_transfer
from agent.watcher import Watcher, WatchLimitError, WatchLostError
from libs.contracts.errors import LockstepError, UnauthenticatedError
from libs.contracts.ids import new_id
from libs.runtime.logs import get_logger

log = get_logger("app")

_THREADS: Final = 32
"""Threads for the disk: flushes that wait side by side are one commit of its journal."""


async def run_sync(
    settings: Settings, folder: Path, *, allow_mass_delete: bool = False, on_progress: OnProgress = ignore
) -> SyncReport:
    """One two-way run until folder and server are in step; how it ended is in the report.

    Raises `LocalError` when it cannot begin ("already_running", "not_signed_in", …).
    """
    started = time.monotonic()
    options = Options(allow_mass_delete=allow_mass_delete)
    async with open_parts(settings, folder, options) as parts:
        _show_progress(parts, on_progress)
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            halt, failure = await _outcome(engine)
            engine.stop()
        report = _report(parts, engine, started, halt, failure)
        if report.in_step:
            parts.state.put("synced_at", str(clock.now()))
        _save_phase(parts.state, engine, "stopped", halt)
        return report


async def _outcome(engine: Engine) -> tuple[Halt | None, LockstepError | None]:
    """Run once and return what stopped it: a guard, or an error."""
    try:
        await engine.run_once()
    except HaltedError as error:
        return error.halt, None
    except LockstepError as error:
        return None, error
    else:
        return None, None


async def run_agent(
    settings: Settings, folder: Path, *, allow_mass_delete: bool = False, on_progress: OnProgress = ignore
) -> SyncReport:
    """Keep folder and server in step until cancelled, or until the device is no longer linked.

    Raises `LocalError` as `run_sync`.
    """
    started = time.monotonic()
    options = Options(allow_mass_delete=allow_mass_delete)
    async with open_parts(settings, folder, options) as parts:
        _show_progress(parts, on_progress)
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            options.on_status = lambda phase, halt: _save_phase(parts.state, engine, phase, halt)
            _save_phase(parts.state, engine, "working", None)
            hints = [
                tasks.create_task(_watch(parts, engine, folder), name="watch"),
                tasks.create_task(_listen(parts, engine), name="push"),
                tasks.create_task(engine.every(settings.poll_seconds, engine.feed_due), name="poll"),
                tasks.create_task(engine.every(settings.rescan_seconds, engine.touch_all), name="rescan"),
            ]
            try:
                failure = await engine.run()
            finally:
                engine.stop()
                for task in hints:
                    task.cancel()
                _save_phase(parts.state, engine, "stopped", None)
        return _report(parts, engine, started, None, failure)


async def _watch(parts: Parts, engine: Engine, folder: Path) -> None:
    """Hand on what the watcher sees; without one, look at everything again and again."""
    try:
        while True:
            with suppress(WatchLostError):
                await _follow(engine, folder)
            log.warning("the synced folder went away; it is watched again when it is back")
            while not await asyncio.to_thread(folder.is_dir):
                engine.touch_all()
                await asyncio.sleep(parts.settings.unwatched_seconds)
    except WatchLimitError as error:
        log.warning("polling: the system's limit of watches is reached", detail=str(error))
        await engine.every(parts.settings.unwatched_seconds, engine.touch_all)


async def _follow(engine: Engine, folder: Path) -> None:
    """Hand on hints until the folder goes away. Raises `WatchLostError`, `WatchLimitError`."""
    async with Watcher(folder) as watcher:
        engine.touch_all()  # what changed before the watches stood
        while True:
            hint = await watcher.next()
            engine.touch(None if hint.overflow else set(hint.paths))


async def _listen(parts: Parts, engine: Engine) -> None:
    """Hand on pushes; a device that is no longer let in shows at the next call of the engine."""
    while True:
        with suppress(UnauthenticatedError):
            async for push in pushes(parts.api, parts.settings, lambda: engine.feed.cursor):
                engine.pushed(push)
        engine.feed_due()
        await asyncio.sleep(parts.settings.push_retry_cap)


def _show_progress(parts: Parts, on_progress: OnProgress) -> None:
    """Tell `on_progress` what is to travel, from each plan, and what has travelled."""
    progress = PlanProgress(parts.transfer.tally)

    def planned(uploads: list[Upload], downloads: list[Download]) -> None:
        progress.announce((u.entry.path, u.entry.content_hash, u.entry.stat.size) for u in uploads)
        progress.announce((d.path, d.node.content_hash, d.node.size) for d in downloads)
        on_progress(progress.now())

    parts.options.on_plan = planned
    parts.transfer.tally.on_change = lambda *_: on_progress(progress.now())


def _report(
    parts: Parts, engine: Engine, started: float, halt: Halt | None, failure: LockstepError | None
) -> SyncReport:
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
        halted=None if halt is None else halt.detail,
        failure=failure,
    )


def problems_of(state: State, engine: Engine) -> tuple[PathProblem, ...]:
    """Return every path that is not in step, with its reason."""
    found = {
        path: PathProblem(_printable(path), trouble.code, trouble.detail)
        for path, trouble in engine.troubles.items()
    }
    for problem in state.problems.values():
        found[problem.path] = _path_problem(problem)
    return tuple(found[path] for path in sorted(found))


def _path_problem(problem: Problem) -> PathProblem:
    return PathProblem(_printable(problem.path), problem.code, problem.detail, problem.retry_at)


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")


# What `status` shows --------------------------------------------------------------------------


def _save_phase(state: State, engine: Engine, phase: str, halt: Halt | None) -> None:
    """Keep where `status` finds it what the engine is doing, and what the last plan left alone."""
    said = {
        "phase": phase,
        "at": clock.now(),
        "halted": None if halt is None else halt.detail,
        "to_do": engine.to_do,
        "troubles": [[_printable(p), t.code, t.detail] for p, t in sorted(engine.troubles.items())],
    }
    state.put("phase", json.dumps(said))


def read_status(settings: Settings) -> AgentStatus:
    """Return what this device knows, without asking the server and while an agent may run."""
    credentials = CredentialStore(settings).load()
    folder = read_choices(settings).folder
    if credentials is None:
        return AgentStatus(folder=folder)
    linked = AgentStatus(
        server=credentials.server,
        device=credentials.device_name,
        device_id=credentials.device_id,
        folder=folder,
        running=is_locked(settings.lock_path),
    )
    summary = read_summary(settings.state_path)
    return linked if summary is None else _with_summary(linked, summary)


def _with_summary(linked: AgentStatus, summary: Summary) -> AgentStatus:
    said = json.loads(summary.phase or "{}")
    problems = {path: PathProblem(path, code, detail) for path, code, detail in said.get("troubles", [])}
    problems.update({_printable(p.path): _path_problem(p) for p in summary.problems})
    return replace(
        linked,
        files=summary.files,
        pending=int(said.get("to_do", 0)),
        problems=tuple(problems[path] for path in sorted(problems)),
        synced=summary.synced_at is not None or said.get("phase") == "in_step",
        phase=said.get("phase", "working"),
        halted=said.get("halted"),
    )


def is_locked(path: Path) -> bool:
    """Say whether an agent of this device runs."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


# Opening --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_parts(settings: Settings, folder: Path, options: Options) -> AsyncIterator[Parts]:
    """Open everything of one device. Raises `LocalError` ("already_running", "state_too_new")."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "lockstep"))
    with locked(settings.lock_path):
        async with open_api(settings) as api, open_transfer(settings, api) as transfer:
            credentials = api.credentials
            state = open_state(settings.state_path, credentials.namespace_id)
            disk = Disk(folder, trash_days=settings.trash_days)
            try:
                adopt_root(state, disk, folder)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the device's state. Raises `LocalError` "already_running"."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LocalError(code="already_running") from error


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


def adopt_root(state: State, disk: Disk, folder: Path) -> None:
    """Mark a folder that this device never synced; one that it did must carry its marker."""
    expected = state.get("root_id")
    if expected is not None:
        if disk.root_state().marker == expected:
            disk.prepare()
        return
    folder.mkdir(parents=True, exist_ok=True)
    disk.prepare()
    marker = disk.marker()
    if marker is None:
        marker = new_id()
        disk.write_marker(marker)
    state.put("root_id", marker)
