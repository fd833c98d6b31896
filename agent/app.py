"""The composition root of the agent: opens the parts of one device and runs the engine."""

import asyncio
import errno
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.disk import Disk
from agent.engine import Engine, HaltedError, Options, Parts
from agent.errors import ExitCode, LocalError, worst
from agent.executor.work import Tally
from agent.push import pushes
from agent.remote import open_api
from agent.settings import Settings
from agent.state import State, StateTooNewError
from agent.transfer import open_transfer
from agent.watcher import Watcher, WatchLimitError
from libs.contracts.errors import LockstepError
from libs.contracts.ids import new_id
from libs.runtime.logs import get_logger

log = get_logger("app")


@dataclass(slots=True)
class SyncReport:
    """How a run ended, as `sync --json` prints it."""

    in_step: bool = False
    uploaded_files: int = 0
    downloaded_files: int = 0
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    api_bytes: int = 0
    conflicts: int = 0
    deleted: int = 0
    moved: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    halted: dict[str, str] | None = None
    error: dict[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields for printing."""
        return asdict(self)


@asynccontextmanager
async def open_parts(settings: Settings, folder: Path, options: Options) -> AsyncIterator[Parts]:
    """Open everything of one device. Raises `LocalError` ("already_running", "state_too_new")."""
    with locked(settings.lock_path):
        async with open_api(settings) as api, open_transfer(settings, api) as transfer:
            credentials = api.credentials
            state = open_state(settings.state_path, credentials.namespace_id)
            disk = Disk(folder, trash_days=settings.trash_days)
            try:
                await asyncio.to_thread(_adopt_root, state, disk, folder)
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


async def run_sync(
    settings: Settings,
    folder: Path,
    *,
    allow_mass_delete: bool = False,
    on_parts: Callable[[Parts], None] = lambda _parts: None,
    options: Options | None = None,
) -> tuple[SyncReport, ExitCode]:
    """One two-way run until in step; returns the report and the exit code."""
    started = time.monotonic()
    options = options or Options()
    options.allow_mass_delete = allow_mass_delete
    async with open_parts(settings, folder, options) as parts:
        on_parts(parts)
        report = SyncReport()
        code = ExitCode.DONE
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            try:
                await engine.run_once()
            except HaltedError as halted:
                report.halted = {"code": halted.halt.code, "detail": halted.halt.detail}
                code = ExitCode.HALTED
            except LockstepError as error:
                report.error = {"code": error.code, "detail": error.detail}
                code = _exit_code(error)
            finally:
                engine.executor.cancel()
        _fill(report, parts, engine.work.tally, engine)
        report.seconds = round(time.monotonic() - started, 3)
        code = worst(code, ExitCode.PROBLEMS) if report.problems else code
        report.in_step = code is ExitCode.DONE
        save_status(parts.state, report)
        return report, code


async def run_agent(
    settings: Settings,
    folder: Path,
    *,
    allow_mass_delete: bool = False,
    on_parts: Callable[[Parts], None] = lambda _parts: None,
    options: Options | None = None,
) -> None:
    """Keep the folder in step until cancelled. Raises `UnauthenticatedError`."""
    options = options or Options()
    options.allow_mass_delete = allow_mass_delete
    async with open_parts(settings, folder, options) as parts:
        on_parts(parts)
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(parts, tasks)
            _report_status(parts, engine)
            hints = [
                tasks.create_task(_watch(parts, engine, folder), name="watch"),
                tasks.create_task(_listen(parts, engine), name="push"),
                tasks.create_task(engine.every(settings.poll_seconds, engine.feed_due), name="poll"),
                tasks.create_task(
                    engine.every(settings.rescan_seconds, lambda: engine.touch(None)), name="rescan"
                ),
            ]
            try:
                await engine.run()
            finally:
                engine.executor.cancel()
                for task in hints:
                    task.cancel()


def _report_status(parts: Parts, engine: Engine) -> None:
    """Keep `status` true while the agent runs."""
    told = parts.options.on_status

    def on_status(state: str, detail: str) -> None:
        report = SyncReport()
        _fill(report, parts, engine.work.tally, engine)
        report.in_step = state == "in_step"
        if state == "halted":
            report.halted = {"code": "halted", "detail": detail}
        save_status(parts.state, report, phase=state)
        told(state, detail)

    parts.options.on_status = on_status


async def _watch(parts: Parts, engine: Engine, folder: Path) -> None:
    """Hand on what the watcher sees; without one, look at everything again and again."""
    try:
        async with Watcher(folder) as watcher:
            engine.touch(None)  # what changed before the watches stood
            while True:
                hint = await watcher.next()
                engine.touch(None if hint.overflow else set(hint.paths))
    except WatchLimitError as error:
        log.warning("polling: the system's limit of watches is reached", detail=str(error))
        await engine.every(parts.settings.unwatched_seconds, lambda: engine.touch(None))


async def _listen(parts: Parts, engine: Engine) -> None:
    async for push in pushes(parts.api, lambda: engine.feed.cursor, parts.settings):
        engine.pushed(push)


def _exit_code(error: LockstepError) -> ExitCode:
    from agent.errors import exit_code_of  # noqa: PLC0415 — kept beside its only use

    return exit_code_of(error)


def _fill(report: SyncReport, parts: Parts, tally: Tally, engine: Engine) -> None:
    report.uploaded_files = tally.uploaded_files
    report.downloaded_files = tally.downloaded_files
    report.conflicts = tally.conflicts
    report.deleted = tally.deleted
    report.moved = tally.moved
    report.uploaded_bytes = parts.transfer.tally.uploaded_bytes
    report.downloaded_bytes = parts.transfer.tally.downloaded_bytes
    report.api_bytes = parts.api.api_bytes
    report.problems = problems_of(parts.state, engine)


def problems_of(state: State, engine: Engine) -> list[dict[str, Any]]:
    """Return every path that is not in step, with its reason."""
    found = {
        path: {"path": _printable(path), "code": trouble.code, "detail": trouble.detail, "retry_at": None}
        for path, trouble in engine.troubles.items()
    }
    for problem in state.problems.values():
        found[problem.path] = {
            "path": _printable(problem.path),
            "code": problem.code,
            "detail": problem.detail,
            "retry_at": problem.retry_at,
        }
    return [found[path] for path in sorted(found)]


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")


def save_status(state: State, report: SyncReport, *, phase: str = "stopped") -> None:
    """Keep the last report where `status` finds it."""
    with suppress(sqlite3.Error):
        state.put(
            "status", json.dumps({**report.as_json(), "phase": phase, "pid": os.getpid(), "at": time.time()})
        )


# Opening --------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the device's state. Raises `LocalError` "already_running"."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise LocalError(code="already_running") from error
            raise
        yield
    finally:
        os.close(fd)


def open_state(path: Path, namespace_id: str) -> State:
    """Open the memory of this account; damaged or of another account, it is set aside and made anew."""
    try:
        state = State(path)
    except StateTooNewError as error:
        raise LocalError(str(error), code="state_too_new") from error
    except sqlite3.DatabaseError:
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


def _adopt_root(state: State, disk: Disk, folder: Path) -> None:
    """Mark a folder that was never synced by this device; one that was must carry its marker."""
    if state.get("root_id") is not None:
        return
    if not folder.exists():
        folder.mkdir(parents=True)
    disk.prepare()
    marker = disk.marker()
    if marker is None:
        marker = new_id()
        disk.write_marker(marker)
    state.put("root_id", marker)
