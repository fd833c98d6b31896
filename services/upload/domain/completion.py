"""A request to complete, held against the session. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from libs.contracts.errors import CODES, ConflictError, InvalidRequestError
from libs.contracts.tree import CommitTarget, ItemResult
from services.upload.domain.outcome import failed_for_good
from services.upload.domain.session import Entry, Session

Targets = Mapping[int, CommitTarget]
"""Entry index → where its bytes go."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a completion can answer at once and what it has to ask for."""

    answered: dict[int, ItemResult]
    asked: dict[int, CommitTarget]


def plan(session: Session, targets: Targets) -> Plan:
    """Split the targets. Raises `InvalidRequestError` for an index that the session has not.

    What is committed already at the same place is answered again: the first answer may have been
    lost, or another device that worked on the session was faster. At another place it is refused
    ("committed_elsewhere"): the session's bytes are committed once.
    """
    entries = {entry.index: entry for entry in session.entries}
    unknown = sorted(set(targets) - set(entries))
    if unknown:
        raise InvalidRequestError(f"The session has no entry {unknown[0]}")
    answered = {i: result for i in targets if (result := _known(entries[i], targets[i])) is not None}
    return Plan(answered, {i: target for i, target in targets.items() if i not in answered})


def _known(entry: Entry, target: CommitTarget) -> ItemResult | None:
    if entry.committed:
        again = entry.target is not None and _same_place(entry.target, target)
        return entry.result if again else _refused(entry.index, "committed_elsewhere")
    return entry.result if failed_for_good(entry) else None


def _refused(index: int, code: str) -> ItemResult:
    return ItemResult(index=index, code=code, detail=CODES[code].title)


def _same_place(one: CommitTarget, other: CommitTarget) -> bool:
    """Whether two targets differ in attributes at most: two devices have the same file, not its time."""
    return _place(one) == _place(other)


def _place(target: CommitTarget) -> tuple[object, ...]:
    return (target.node_id, target.base_version_id, target.parent_id, target.name, target.undelete)


def same_request(session: Session, targets: Targets) -> bool:
    """Whether the latest completion asked for at least these places."""
    asked = {entry.index: entry.target for entry in session.asked()}
    return all(_is_asked(asked.get(index), target) for index, target in targets.items())


def _is_asked(asked: CommitTarget | None, target: CommitTarget) -> bool:
    return asked is not None and _same_place(asked, target)


def with_targets(session: Session, asked: Targets) -> Session:
    """Return the session as the next completion sees it: one attempt further."""
    attempt = session.attempt + 1
    changed = (
        replace(entry, target=asked[entry.index], attempt=attempt, result=None)
        for entry in session.entries
        if entry.index in asked
    )
    return replace(session.with_entries(changed), attempt=attempt, code=None, detail=None, missing=())


def missing_error(code: str, missing: list[int]) -> ConflictError:
    """Return the error that names missing entries or parts, the first hundred of them."""
    what = "part(s)" if code == "parts_missing" else "entry(s)"
    return ConflictError(f"{len(missing)} {what} are missing or differ", code=code, missing=missing[:100])
