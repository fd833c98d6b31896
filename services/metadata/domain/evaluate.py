"""Evaluate jobs over what is loaded of a namespace: results, what to write, or what is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from libs.contracts.events import EventData
from libs.contracts.tree import CreateFolder, CreateSymlink, Delete, ItemResult, Move, SetAttributes
from services.metadata.domain import content, mending, structure
from services.metadata.domain.announce import tell_of_changes, tell_of_completion
from services.metadata.domain.batch import Batch, RefusedError, Start
from services.metadata.domain.model import (
    CommitFile,
    CondemnObject,
    Job,
    MendNode,
    Node,
    Op,
    RestoreNode,
    RestoreVersion,
    Rules,
    UploadRef,
)
from services.metadata.domain.tree import Loaded, Need, NotLoadedError, Tree


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a completion."""

    attempt: int
    results: tuple[ItemResult, ...]


@dataclass(slots=True)
class Outcome:
    """Results per job, what to write, the events that tell of it, new records of completions."""

    batch: Batch
    results: list[tuple[ItemResult, ...]] = field(default_factory=list)
    events: list[EventData] = field(default_factory=list)
    records: dict[str, Recorded] = field(default_factory=dict)


def evaluate(
    jobs: Sequence[Job],
    loaded: Loaded,
    start: Start,
    rules: Rules,
    new_id: Callable[[], str],
    recorded: Mapping[str, Recorded],
) -> Outcome | Need:
    """Carry the jobs out in order, each on what those before it left.

    Returns `Need` when something has to be loaded first; then nothing of this evaluation counts.
    """
    run = _Run(Batch(Tree(loaded), start, rules, new_id, loaded.used_bytes), recorded)
    for job in jobs:
        run.take(job)
    return run.need or run.outcome


class _Run:
    def __init__(self, batch: Batch, recorded: Mapping[str, Recorded]) -> None:
        self.outcome = Outcome(batch)
        self.need = Need()
        self._batch = batch
        self._recorded = recorded

    def take(self, job: Job) -> None:
        if job.upload is None:
            self._change(job)
            return
        known = self.outcome.records.get(job.upload.id) or self._recorded.get(job.upload.id)
        if known is not None and known.attempt >= job.upload.attempt:
            self._tell_again(job, UploadRef(job.upload.id, known.attempt), known)
        else:
            self._complete(job, job.upload)

    def _change(self, job: Job) -> None:
        first = len(self._batch.changes)
        self.outcome.results.append(self._carry_out(job))
        changes = self._batch.changes[first:]
        self.outcome.events += tell_of_changes(self._batch.tree.namespace_id, job.actor, changes)

    def _complete(self, job: Job, upload: UploadRef) -> None:
        changes, objects = len(self._batch.changes), len(self._batch.objects)
        results = self._carry_out(job)
        self.outcome.results.append(results)
        self.outcome.records[upload.id] = Recorded(upload.attempt, results)
        if not self.need:
            self.outcome.events.append(
                tell_of_completion(
                    self._batch.tree.namespace_id, job.actor, upload, results,
                    self._batch.changes[changes:], list(self._batch.objects.values())[objects:],
                )
            )  # fmt: skip

    def _tell_again(self, job: Job, upload: UploadRef, known: Recorded) -> None:
        """An outcome is told of again, because whoever asks again has not heard of it."""
        self.outcome.results.append(known.results)
        namespace_id = self._batch.tree.namespace_id
        self.outcome.events.append(tell_of_completion(namespace_id, job.actor, upload, known.results))

    def _carry_out(self, job: Job) -> tuple[ItemResult, ...]:
        self._batch.actor = job.actor
        return tuple(
            self._one(op.entry.index if isinstance(op, CommitFile) else position, op)
            for position, op in enumerate(job.ops)
        )

    def _one(self, index: int, op: Op) -> ItemResult:
        try:
            node = apply(self._batch, op)
        except RefusedError as refused:
            return refused.result(index)
        except NotLoadedError as missing:
            self.need.add(missing.need)
            return ItemResult(index=index, code="unavailable")
        return ItemResult(index=index, row=None if node is None else node.row())


def apply(batch: Batch, op: Op) -> Node | None:
    """Carry one operation out, or raise `RefusedError` with nothing done."""
    match op:
        case CommitFile() | RestoreVersion() | CondemnObject():
            return _apply_content(batch, op)
        case CreateFolder() | CreateSymlink():
            return _apply_creation(batch, op)
        case MendNode():
            return mending.mend_node(batch, op)
        case Move() | Delete() | SetAttributes() | RestoreNode():
            return _apply_change(batch, op)
        case _ as unreachable:
            assert_never(unreachable)


def _apply_content(batch: Batch, op: CommitFile | RestoreVersion | CondemnObject) -> Node | None:
    match op:
        case CommitFile():
            return content.commit_file(batch, op)
        case RestoreVersion():
            return content.restore_version(batch, op)
        case CondemnObject():
            return content.condemn_object(batch, op)
        case _ as unreachable:
            assert_never(unreachable)


def _apply_creation(batch: Batch, op: CreateFolder | CreateSymlink) -> Node:
    if isinstance(op, CreateFolder):
        return structure.create_folder(batch, op)
    return structure.create_symlink(batch, op)


def _apply_change(batch: Batch, op: Move | Delete | SetAttributes | RestoreNode) -> Node:
    match op:
        case Move():
            return structure.move(batch, op)
        case Delete():
            return structure.delete(batch, op)
        case SetAttributes():
            return structure.set_attributes(batch, op)
        case RestoreNode():
            return structure.restore_node(batch, op)
        case _ as unreachable:
            assert_never(unreachable)
