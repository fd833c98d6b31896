"""What there is to say of one path: its three entries, what is to be done, and the reason. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.board import printable
from agent.errors import ExitCode
from agent.ignore import Match
from agent.model import LocalEntry, RemoteNode, SyncedNode, Trouble
from agent.state import Problem
from agent.status import moment, mtime_text
from agent.verdict import source_of
from agent.wording import QUIET, TEXTS, Step

_SHOWN: Final = 20
_STATES: Final = {
    "halted": "a guard stopped the agent",
    "paused": "this device is paused",
    "offline": "the server cannot be reached",
    "not_running": "no agent runs",
    "waiting": "the agent is at it",
}


@dataclass(frozen=True, slots=True)
class Sides:
    """The three entries of a path. A side that has the same node elsewhere says where."""

    remote: RemoteNode | None = None
    local: LocalEntry | None = None
    synced: SyncedNode | None = None
    remote_path: str | None = None
    synced_path: str | None = None
    gone: bool = False
    """Whether the server's node is deleted, itself or with a folder above it."""

    def keys(self) -> set[str]:
        """Return the nodes that this is about."""
        return {node.id for node in (self.remote, self.synced) if node is not None}

    def known(self) -> bool:
        """Whether any side has ever had anything here."""
        return self.remote is not None or self.local is not None or self.synced is not None

    def as_json(self) -> dict[str, Any]:
        """Return them as scripts read them."""
        return {"remote": self._remote(), "local": self._local(), "synced": self._synced()}

    def _remote(self) -> dict[str, Any] | None:
        node = self.remote
        if node is None:
            return None
        return {
            "id": node.id,
            "path": self.remote_path,
            "deleted": self.gone,
            "kind": node.kind.value,
            "size": node.size,
            "mtime": mtime_text(node.mtime_ns),
            "content_hash": node.content_hash,
            "version_id": node.version_id,
            "seq": node.seq,
            "device": node.device,
        }

    def _local(self) -> dict[str, Any] | None:
        entry = self.local
        if entry is None:
            return None
        return {
            "path": printable(entry.path),
            "kind": entry.kind.value,
            "size": entry.stat.size,
            "mtime": mtime_text(entry.stat.mtime_ns),
            "content_hash": entry.content_hash,
        }

    def _synced(self) -> dict[str, Any] | None:
        node = self.synced
        if node is None:
            return None
        return {
            "id": node.id,
            "path": self.synced_path,
            "kind": node.kind.value,
            "size": node.size,
            "mtime": mtime_text(node.mtime_ns),
            "content_hash": node.content_hash,
            "version_id": node.version_id,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one path, and the reason in one code and one sentence."""

    path: str
    code: str
    detail: str
    sides: Sides
    steps: tuple[Step, ...] = ()
    below: int = 0
    """Paths below it that are not in step."""
    problem: Problem | None = None
    trouble: Trouble | None = None
    match: Match | None = None
    transferring: bool = False
    running: bool = False
    phase: str = "stopped"
    paused: bool = False
    halted: str | None = None

    @property
    def in_step(self) -> bool:
        """Whether both sides agree on it, or are not to."""
        return self.code in {"in_step", "ignored"}

    @property
    def exit_code(self) -> ExitCode:
        """0 in step or ignored, else 5."""
        return ExitCode.DONE if self.in_step else ExitCode.PROBLEMS

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {
            "path": printable(self.path),
            "in_step": self.in_step,
            "code": self.code,
            "detail": self.detail,
            **self.sides.as_json(),
            "actions": [_step_json(step) for step in self.steps],
            "below": self.below,
            "problem": self._problem(),
            "ignored": None
            if self.match is None
            else {"rule": str(self.match), "source": source_of(self.match), "line": self.match.line},
            "transferring": self.transferring,
            "running": self.running,
            "phase": self.phase,
            "paused": self.paused,
            "halted": self.halted,
        }

    def _problem(self) -> dict[str, Any] | None:
        if self.problem is not None:
            problem = self.problem
            return {
                "code": problem.code,
                "detail": problem.detail,
                "attempts": problem.attempts,
                "retry_at": moment(problem.retry_at),
            }
        if self.trouble is None:
            return None
        return {"code": self.trouble.code, "detail": self.trouble.detail, "attempts": 0, "retry_at": None}

    def as_text(self) -> str:
        """Return it as a person reads it."""
        state = "in step" if self.in_step else "not in step"
        lines = [f"{printable(self.path) or '/'}: {state}: {self.detail} ({self.code})"]
        lines += [f"  {name}: {_side_text(side)}" for name, side in self.sides.as_json().items()]
        lines += [f"  to do: {printable(step.as_text())}" for step in self.steps[:_SHOWN]]
        if self.problem is not None:
            retry = moment(self.problem.retry_at) or "when it changes"
            lines.append(f"  tried {self.problem.attempts} times, next try: {retry}")
        return "\n".join(lines)


def _step_json(step: Step) -> dict[str, Any]:
    return {**step.as_json(), "detail": TEXTS[step.kind]}


def _side_text(side: dict[str, Any] | None) -> str:
    if side is None:
        return "nothing"
    size = f" of {side['size']:,} bytes" if side["kind"] == "file" else ""
    gone = ", deleted" if side.get("deleted") else ""
    return f"{side['kind']}{size} at {side['path']}, {side['mtime']}{gone}"


def reasoned(known: Explanation, halt_code: str | None, *, changed: bool) -> Explanation:
    """Choose the reason: what is in the way comes before what is merely still to be done."""
    code, detail = next(_reasons(known, halt_code, changed=changed), (known.code, known.detail))
    return replace(known, code=code, detail=detail)


def _reasons(known: Explanation, halt_code: str | None, *, changed: bool) -> Iterator[tuple[str, str]]:
    if known.match is not None:
        yield "ignored", f"Left alone by {known.match}"
    problem = known.problem or known.trouble
    if problem is not None:
        yield problem.code, problem.detail
    if known.transferring:
        yield "transferring", "Its content is under way"
    state = _state(known)
    if changed:
        yield "changed_on_disk", f"It changed on disk and was not looked at since: {_STATES[state]}"
    loud = [TEXTS[step.kind] for step in known.steps if step.kind not in QUIET]
    if loud:
        code = halt_code or state if state == "halted" else state
        yield code, f"To do: {', '.join(dict.fromkeys(loud))}; {_STATES[state]}"
    if known.below:
        yield "below", f"{known.below:,} paths in it are not in step"


def _state(known: Explanation) -> str:
    """Return why nothing has been done yet."""
    if known.halted is not None:
        return "halted"
    if known.paused:
        return "paused"
    if not known.running:
        return "not_running"
    return "offline" if known.phase == "offline" else "waiting"
