"""What an operation obviously needs, so that most evaluations find everything the first time."""

from collections.abc import Iterable
from typing import assert_never

from libs.contracts.paths import name_key
from libs.contracts.tree import CreateFolder, CreateSymlink, Delete, Move, SetAttributes
from services.metadata.domain.model import (
    CommitFile,
    CondemnObject,
    Job,
    MendNode,
    Op,
    RestoreNode,
    RestoreVersion,
)
from services.metadata.domain.tree import Loaded, Need


def obvious(jobs: Iterable[Job]) -> Need:
    """Return what to load before the first evaluation; whatever else turns out is loaded then."""
    need = Need()
    for job in jobs:
        for op in job.ops:
            _of(op, need)
    return need


def _of(op: Op, need: Need) -> None:
    match op:
        case CommitFile():
            _of_commit(op, need)
        case CreateFolder() | CreateSymlink():
            _place(op.parent_id, op.name, need)
            need.nodes.update({op.id} if op.id else ())
        case Move():
            _place(op.parent_id, op.name, need)
            need.nodes.add(op.node_id)
        case Delete() | SetAttributes() | RestoreNode() | RestoreVersion() | MendNode():
            need.nodes.add(op.node_id)
        case CondemnObject():
            need.uses.add(op.object_id)
        case _ as unreachable:
            assert_never(unreachable)


def _of_commit(op: CommitFile, need: Need) -> None:
    target = op.entry.target
    need.versions.add(op.version_id)
    need.objects.add(op.entry.object.id)
    if target.node_id is not None:
        need.nodes.add(target.node_id)
    elif target.parent_id is not None and target.name is not None:
        _place(target.parent_id, target.name, need)


def _place(parent_id: str, name: str, need: Need) -> None:
    need.nodes.add(parent_id)
    need.slots.add((parent_id, name_key(name)))


def assume_new(jobs: Iterable[Job], loaded: Loaded) -> None:
    """Take for granted that a first completion's new objects are not there yet.

    Where one is after all, its unique id refuses the write, and then it is looked up.
    """
    for job in jobs:
        if job.upload is not None and job.upload.attempt == 1:
            sent = [op.entry.object for op in job.ops if isinstance(op, CommitFile)]
            loaded.objects.update({item.id: None for item in sent if not item.existing})
