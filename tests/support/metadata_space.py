"""A namespace in memory, for the pure rules of the tree: what an evaluation needs, it is given."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from libs.contracts.events import EventData, UploadedEntry, UploadedObject
from libs.contracts.tree import CommitTarget, ItemResult
from services.metadata.domain.batch import Start
from services.metadata.domain.evaluate import Outcome, Recorded, evaluate
from services.metadata.domain.model import Actor, CommitFile, Job, Node, Object, Op, Rules, UploadRef, Version
from services.metadata.domain.needs import obvious
from services.metadata.domain.tree import Loaded, Need

ROOT = "f" * 24
OTHER_ROOT = "e" * 24
HASH = "a" * 64


@dataclass
class Space:
    """Evaluates jobs and keeps what they write, as the store does."""

    rules: Rules = field(default_factory=lambda: Rules(max_depth=128, max_unseen=1000))
    nodes: dict[str, Node] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    objects: dict[str, Object] = field(default_factory=dict)
    recorded: dict[str, Recorded] = field(default_factory=dict)
    events: list[EventData] = field(default_factory=list)
    seq: int = 0
    changed_us: int = 0
    now_us: int = 1_000_000
    epoch: int = 7
    used_bytes: int = 0
    files: int = 0
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def new_id(self) -> str:
        return f"{next(self.ids):024x}"

    def run(self, *jobs: Job) -> list[tuple[ItemResult, ...]]:
        outcome = self._evaluate(jobs)
        self._keep(outcome)
        return outcome.results

    def do(self, *ops: Op, device: str = "laptop") -> list[ItemResult]:
        """Carry operations out in one job."""
        return list(self.run(Job(Actor(device=device), ops))[0])

    def one(self, op: Op) -> ItemResult:
        return self.do(op)[0]

    def complete(
        self, *entries: UploadedEntry, upload_id: str | None = None, attempt: int = 1
    ) -> list[ItemResult]:
        upload = UploadRef(upload_id or self.new_id(), attempt)
        ops = tuple(CommitFile(upload, entry) for entry in entries)
        return list(self.run(Job(Actor(device="laptop"), ops, upload))[0])

    def entry(
        self, index: int = 0, *, size: int = 10, object_id: str | None = None, **target: Any
    ) -> UploadedEntry:
        stored = UploadedObject(
            id=object_id or self.new_id(), key="t/x/y", size=size, content_hash=HASH, verified=True,
            existing=object_id is not None,
        )  # fmt: skip
        return UploadedEntry(index=index, object=stored, target=CommitTarget(**target))

    def file(self, name: str, parent_id: str = ROOT) -> Node:
        return self.must(self.complete(self.entry(parent_id=parent_id, name=name))[0])

    def must(self, result: ItemResult) -> Node:
        """Return the node that a result led to; it must not be refused."""
        assert result.ok, result
        assert result.row is not None
        return self.nodes[result.row.id]

    def _evaluate(self, jobs: Sequence[Job]) -> Outcome:
        loaded = Loaded(ROOT, used_bytes=self.used_bytes)
        start = Start(self.seq, self.changed_us, self.now_us, self.epoch)
        self._load(obvious(jobs), loaded)
        for _ in range(500):
            outcome = evaluate(jobs, loaded, start, self.rules, self.new_id, self.recorded)
            if isinstance(outcome, Outcome):
                return outcome
            self._load(outcome, loaded)
        raise AssertionError("an evaluation never has enough")

    def _load(self, need: Need, into: Loaded) -> None:
        for key in need.nodes:
            self._load_chain(key, into)
        places = {node.slot: node.id for node in self.nodes.values() if not node.deleted}
        into.slots.update({slot: places.get(slot) for slot in need.slots})
        into.versions.update({key: self.versions.get(key) for key in need.versions})
        into.objects.update({key: self.objects.get(key) for key in need.objects})
        for seq in need.newer:
            newer = tuple(node.id for node in self.nodes.values() if node.seq > seq)
            into.newer[seq] = newer if self.seq - seq <= self.rules.max_unseen else None
        for key in need.uses:
            into.uses[key] = tuple(item for item in self.versions.values() if item.object_id == key)
        for key in need.histories:
            found = [item for item in self.versions.values() if item.node_id == key]
            into.histories[key] = tuple(sorted(found, key=lambda item: -item.seq))

    def _load_chain(self, node_id: str, into: Loaded) -> None:
        while node_id != ROOT and node_id not in into.nodes:
            node = into.nodes[node_id] = self.nodes.get(node_id)
            if node is not None:
                node_id = node.parent_id

    def _keep(self, outcome: Outcome) -> None:
        batch = outcome.batch
        self.nodes.update(batch.tree.changed)
        self.versions.update({item.id: item for item in batch.versions})
        self.objects.update(batch.objects)
        for object_id in batch.condemned:
            self.objects[object_id] = replace(self.objects[object_id], corrupt=True, verified=False)
            for item in [item for item in self.versions.values() if item.object_id == object_id]:
                self.versions[item.id] = replace(item, corrupt=True)
        self.recorded.update(outcome.records)
        self.events += outcome.events
        self.seq, self.changed_us = batch.seq, batch.changed_us
        self.used_bytes += batch.added_bytes
        self.files += batch.added_files
