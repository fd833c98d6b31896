"""What `sync` and `status` say, and the exit code that it means. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.errors import ExitCode, exit_code_of, worst
from agent.progress import FileProgress
from agent.rates import left_text, rate_text, scaled
from libs.contracts.errors import LockstepError


@dataclass(frozen=True, slots=True)
class PathProblem:
    """Why a path is not in step. `retry_at` in seconds since 1970; None: when it changes."""

    path: str
    code: str
    detail: str
    retry_at: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {
            "path": self.path,
            "code": self.code,
            "detail": self.detail,
            "retry_at": moment(self.retry_at),
        }


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How one run went. `halted` is the sentence of a guard that stopped it.

    `failure` is what ended the run early: the server away, the device not signed in any more.
    `paused`: the user wants this device to rest, so nothing more was done.
    """

    uploaded_files: int = 0
    downloaded_files: int = 0
    uploaded_bytes: int = 0
    """Payload to S3; `downloaded_bytes` from it."""
    downloaded_bytes: int = 0
    api_bytes: int = 0
    """Bodies of requests to the server and of its answers."""
    conflicts: int = 0
    deleted: int = 0
    moved: int = 0
    problems: tuple[PathProblem, ...] = ()
    seconds: float = 0.0
    halted: str | None = None
    halt_code: str | None = None
    failure: LockstepError | None = None
    paused: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """The code to exit with."""
        codes = [ExitCode.PROBLEMS] if self.problems else []
        if self.halted is not None:
            codes.append(ExitCode.HALTED)
        if self.failure is not None:
            codes.append(exit_code_of(self.failure))
        return worst(*codes)

    @property
    def in_step(self) -> bool:
        """Whether disk and server agree, but for what is ignored."""
        return self.exit_code is ExitCode.DONE

    def as_json(self) -> dict[str, Any]:
        """Return the report as the command line's contract has it."""
        return {
            "in_step": self.in_step,
            "uploaded_files": self.uploaded_files,
            "downloaded_files": self.downloaded_files,
            "uploaded_bytes": self.uploaded_bytes,
            "downloaded_bytes": self.downloaded_bytes,
            "api_bytes": self.api_bytes,
            "conflicts": self.conflicts,
            "deleted": self.deleted,
            "moved": self.moved,
            "problems": [problem.as_json() for problem in self.problems],
            "seconds": round(self.seconds, 3),
            "halted": self.halted,
            "halt_code": self.halt_code,
            "paused": self.paused,
            "error": error_json(self.failure),
        }

    def as_text(self) -> str:
        """Return the report as a person reads it: one line, then a line for each problem."""
        return "\n".join([self._headline(), *_lines(self.problems)])

    def _headline(self) -> str:
        if self.halted is not None:
            return f"Halted: {self.halted}"
        if self.paused:
            return "Paused: nothing is synced until `lockstep resume`."
        done = [text for count, text in self._counts() if count]
        state = "In step" if self.in_step else "Not in step"
        return f"{state} after {self.seconds:.1f} s: {', '.join(done) or 'nothing to do'}."

    def _counts(self) -> list[tuple[int, str]]:
        sent, received = human_size(self.uploaded_bytes), human_size(self.downloaded_bytes)
        return [
            (self.uploaded_files, f"{self.uploaded_files:,} sent ({sent})"),
            (self.downloaded_files, f"{self.downloaded_files:,} received ({received})"),
            (self.moved, f"{self.moved:,} moved"),
            (self.deleted, f"{self.deleted:,} deleted"),
            (self.conflicts, f"{self.conflicts:,} kept as conflicted copies"),
            (len(self.problems), f"{len(self.problems):,} not synced"),
        ]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What this device knows without asking the server."""

    server: str | None = None
    device: str | None = None
    device_id: str | None = None
    folder: str | None = None
    running: bool = False
    """Whether a `sync` or `start` runs now."""
    files: int = 0
    """Files that disk and server last agreed on."""
    pending: int = 0
    """Things seen to differ and not settled yet."""
    problems: tuple[PathProblem, ...] = field(default=())
    synced: bool = False
    """Whether a sync was ever done here."""
    halted: str | None = None
    """The sentence of the guard that stopped the last run."""
    halt_code: str | None = None
    phase: str = "stopped"
    """What a running agent does: "in_step", "working", "offline", "halted", "paused"."""
    paused: bool = False
    """Whether the user wants this device to rest."""
    waiting: tuple[tuple[str, str], ...] = ()
    """Path and action of the first of what is pending."""
    transfers: tuple[FileProgress, ...] = ()
    """Large files under way."""
    rate_up: int = 0
    """Bytes a second that travel to the store; `rate_down` from it."""
    rate_down: int = 0
    warnings: tuple[tuple[str, str], ...] = ()
    """Code and sentence of what is wrong around the running agent; it goes on all the same."""
    progress: Mapping[str, Any] | None = None
    """What the running agent has moved since it started: items and bytes, done and in total."""

    @property
    def exit_code(self) -> ExitCode:
        """4 not linked, 3 halted by a guard, 5 something differs or nothing is known, else 0.

        What waits because the user paused is as the user wants it; a problem stays a problem.
        """
        if self.device_id is None:
            return ExitCode.NOT_SIGNED_IN
        if self.halted is not None:
            return ExitCode.HALTED
        settled = (self.paused or (self.synced and not self.pending)) and not self.problems
        return ExitCode.DONE if settled else ExitCode.PROBLEMS

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {
            "linked": self.device_id is not None,
            "server": self.server,
            "device": self.device,
            "device_id": self.device_id,
            "folder": self.folder,
            "running": self.running,
            "paused": self.paused,
            "phase": self.phase if self.running else "stopped",
            "in_step": self.exit_code is ExitCode.DONE,
            "files": self.files,
            "pending": self.pending,
            "waiting": [{"path": path, "code": kind} for path, kind in self.waiting],
            "transfers": [file.as_json() for file in self.transfers],
            "progress": self.progress,
            "rate_up": self.rate_up,
            "rate_down": self.rate_down,
            "warnings": [{"code": code, "detail": detail} for code, detail in self.warnings],
            "problems": [problem.as_json() for problem in self.problems],
            "halted": self.halted,
            "halt_code": self.halt_code,
        }

    def as_text(self) -> str:
        """Return it as a person reads it."""
        if self.device_id is None:
            return "Not linked to an account: use `lockstep login`."
        lines = [f"{self.device} at {self.server}", f"folder: {self.folder or 'none yet'}", self._state()]
        lines += [f"  {_file_line(file)}" for file in self.transfers]
        lines += [f"warning: {detail} ({code})" for code, detail in self.warnings]
        return "\n".join([*lines, *_lines(self.problems)])

    def _state(self) -> str:
        if self.halted is not None:
            return f"halted: {self.halted}"
        rest = ", paused" if self.paused else ""
        if not self.synced and not self.files:
            return f"first sync under way{rest}{self._moving()}" if self.running else f"never synced{rest}"
        running = "agent running" if self.running else "agent not running"
        waiting = self.pending + len(self.problems)
        known = f"{waiting:,} not in step" if waiting else "in step"
        return f"{known} as last seen, {self.files:,} files, {running}{rest}{self._moving()}"

    def _moving(self) -> str:
        """Return how far the running agent is with what it has to move."""
        progress = self.progress or {}
        done, total = progress.get("bytes_done", 0), progress.get("bytes_total", 0)
        if done >= total:
            return ""
        pace = _pace_text(progress.get("rate", 0), progress.get("eta_seconds"))
        return f", {human_size(done)} of {human_size(total)} moved{pace}"


def _file_line(file: FileProgress) -> str:
    """Return how far a large file is: "big.iso: 41 % of 50.0 GiB, 84 MiB/s, 5 min left"."""
    part = percent(file.bytes_done, file.bytes_total)
    return f"{file.path}: {part} of {human_size(file.bytes_total)}{_pace_text(file.rate, file.eta_seconds)}"


def _pace_text(rate: float, eta_seconds: float | None) -> str:
    """Return rate and time left to go behind something else; nothing when nothing moves."""
    if not rate:
        return ""
    left = left_text(eta_seconds)
    return f", {rate_text(rate)}, {left}" if left else f", {rate_text(rate)}"


def percent(done: int, total: int) -> str:
    """Return the share that is done, rounded down: all of it is 100 % and nothing less is."""
    return f"{done * 100 // total if total else 100} %"


def error_json(error: LockstepError | None) -> dict[str, str] | None:
    """Return an error as scripts read it."""
    return None if error is None else {"code": error.code, "detail": error.detail}


def moment(seconds: float | None) -> str | None:
    """Return a time in seconds since 1970 as RFC 3339 in UTC."""
    return None if seconds is None else stamp(datetime.fromtimestamp(seconds, UTC))


def stamp(at: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def mtime_text(mtime_ns: int | None) -> str | None:
    """Return a modification time as RFC 3339 in UTC; None when there is none a calendar holds."""
    if mtime_ns is None:
        return None
    try:
        return stamp(_EPOCH + timedelta(microseconds=mtime_ns // 1000))
    except OverflowError:
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def human_size(size: int) -> str:
    """Return a size in bytes with a binary unit."""
    amount, unit = scaled(size)
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def _lines(problems: tuple[PathProblem, ...]) -> list[str]:
    return [f"  {problem.path}: {problem.detail} ({problem.code})" for problem in problems]
