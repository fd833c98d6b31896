"""What becomes of a session when metadata has answered. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.tree import ItemResult
from services.upload.domain.modes import Sizes, to_be_sent, with_parts
from services.upload.domain.session import Entry, Session

CURABLE: Final = frozenset(
    {
        "version_conflict",
        "name_taken",
        "parent_deleted",
        "node_deleted",
        "node_moved",
        "not_found",
        "not_a_folder",
        "not_a_file",
        "depth_exceeded",
        "quota_exceeded",
        "invalid_name",
        "invalid_target",
    }
)
"""Refusals that another target, or room, can cure: the bytes are kept for the next completion."""


@dataclass(frozen=True, slots=True)
class Refill:
    """What an entry needs whose stored copy has vanished: a fresh object id, the sizes."""

    new_id: Callable[[], str]
    sizes: Sizes


def settled(session: Session, results: Sequence[ItemResult], refill: Refill) -> Session:
    """Return the session after the answer to its latest completion.

    Committed when every entry is (or has failed for good beside committed ones); failed when
    nothing can be committed any more; else open again, with the results kept per entry.
    """
    by_index = {result.index: result for result in results}
    asked = [_answered(session, entry, by_index, refill) for entry in session.asked()]
    after = session.with_entries(asked)
    refusal = next(
        (entry.result for entry in asked if entry.result is not None and not entry.result.ok), None
    )
    ended = replace(
        after,
        state=_state_of(after.entries),
        lease=None,
        code=refusal.code if refusal else None,
        detail=refusal.detail if refusal else None,
        missing=(),
    )
    return _with_new_parts(session, ended, refill.sizes)


def _with_new_parts(before: Session, after: Session, sizes: Sizes) -> Session:
    return with_parts(after, sizes) if after.multipart and not before.multipart else after


def _answered(session: Session, entry: Entry, results: dict[int, ItemResult], refill: Refill) -> Entry:
    result = results.get(entry.index)
    if result is None:  # nothing was decided: the entry waits for another completion
        return entry
    if result.code == "object_gone" and entry.mode is UploadMode.STORED:
        return replace(to_be_sent(session, entry, refill.new_id(), refill.sizes), result=result)
    return replace(entry, result=result)


def _state_of(entries: Sequence[Entry]) -> UploadState:
    if any(not entry.committed and not failed_for_good(entry) for entry in entries):
        return UploadState.OPEN
    return UploadState.COMMITTED if any(entry.committed for entry in entries) else UploadState.FAILED


def failed_for_good(entry: Entry) -> bool:
    """Whether no further completion can commit the entry.

    `object_gone` keeps an entry whose bytes can be sent again: it was a stored copy, and now
    waits for them unsealed.
    """
    if entry.result is None or entry.result.ok or entry.result.code in CURABLE:
        return False
    return not (entry.result.code == "object_gone" and not entry.sealed)
