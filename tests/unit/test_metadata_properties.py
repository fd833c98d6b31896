"""Random operations against a model that is too simple to be wrong: no overlay, no slots, only scans."""

import itertools
import random
from dataclasses import dataclass, field

import pytest

from libs.contracts.paths import name_key
from libs.contracts.tree import CreateFolder, Delete, ItemResult, Kind, Move
from services.metadata.domain.model import Actor, Job, Node, Op, RestoreNode, Rules
from tests.support.metadata_space import ROOT, Space

CASES = 240
STEPS = 60
DEPTH = 5
NAMES = ("a", "b", "A", "caf\u00e9", "cafe\u0301", "x.txt")


@dataclass(eq=False)
class Plain:
    """One node of the model."""

    parent: str
    name: str
    folder: bool
    deleted: bool = False
    seq: int = 0


@dataclass
class Model:
    """The rules once more, by looking at everything every time."""

    nodes: dict[str, Plain] = field(default_factory=dict)
    seq: int = 0

    def chain(self, parent: str) -> list[Plain]:
        found = []
        while parent != ROOT:
            found.append(self.nodes[parent])
            parent = self.nodes[parent].parent
        return found

    def hidden(self, parent: str) -> bool:
        return any(node.deleted for node in self.chain(parent))

    def taken(self, parent: str, name: str, besides: str = "") -> bool:
        return any(
            node.parent == parent
            and name_key(node.name) == name_key(name)
            and not node.deleted
            and key != besides
            for key, node in self.nodes.items()
        )

    def bad_parent(self, parent: str) -> str | None:
        if parent == ROOT:
            return None
        if parent not in self.nodes:
            return "not_found"
        if not self.nodes[parent].folder:
            return "not_a_folder"
        if self.hidden(parent):
            return "parent_deleted"
        return "depth_exceeded" if len(self.chain(parent)) > DEPTH else None

    def put(self, node: Plain) -> None:
        self.seq += 1
        node.seq = self.seq

    def create(self, op: CreateFolder) -> str | None:
        code = self.bad_parent(op.parent_id) or ("name_taken" if self.taken(op.parent_id, op.name) else None)
        if code is None:
            node = self.nodes[str(op.id)] = Plain(op.parent_id, op.name, folder=True)
            self.put(node)
        return code

    def move(self, op: Move) -> str | None:
        node = self.nodes[op.node_id]
        if node.deleted:
            return "node_deleted"
        if (node.parent, node.name) == (op.parent_id, op.name):
            return None
        if (node.parent, name_key(node.name)) != (op.expect_parent_id, name_key(op.expect_name)):
            return "node_moved"
        if node.folder and op.parent_id in self.nodes and node in self.chain(op.parent_id):
            return "cycle"
        code = self.bad_parent(op.parent_id)
        code = code or ("name_taken" if self.taken(op.parent_id, op.name, op.node_id) else None)
        if code is None:
            node.parent, node.name = op.parent_id, op.name
            self.put(node)
        return code

    def delete(self, op: Delete) -> str | None:
        node = self.nodes[op.node_id]
        if node.deleted:
            return None
        newer = [n for n in self.nodes.values() if n.seq > (op.seen_seq or 0) and not n.deleted]
        if node.folder and any(self.visible_below(other, node) for other in newer):
            return "subtree_changed"
        node.deleted = True
        self.put(node)
        return None

    def visible_below(self, node: Plain, folder: Plain) -> bool:
        chain = self.chain(node.parent)
        if folder not in chain:
            return False
        return not any(above.deleted for above in chain[: chain.index(folder)])

    def restore(self, op: RestoreNode, name: str) -> str | None:
        node = self.nodes[op.node_id]
        if not node.deleted:
            return None
        if self.hidden(node.parent):
            return "parent_deleted"
        assert (name == node.name) != self.taken(node.parent, node.name)
        assert not self.taken(node.parent, name)
        node.deleted, node.name = False, name
        self.put(node)
        return None


def random_op(rng: random.Random, model: Model, space: Space) -> Op:
    everyone = list(model.nodes)
    parents = [ROOT, ROOT, *everyone, *everyone, "9" * 24]
    kind = rng.choice(["create", "create", "move", "move", "delete", "restore"]) if everyone else "create"
    if kind == "create":
        return CreateFolder(id=space.new_id(), parent_id=rng.choice(parents), name=rng.choice(NAMES))
    node_id = rng.choice(everyone)
    node = model.nodes[node_id]
    if kind == "move":
        expect = node.parent if rng.random() < 0.9 else rng.choice(parents)
        return Move(
            node_id=node_id, expect_parent_id=expect, expect_name=node.name,
            parent_id=rng.choice(parents), name=rng.choice(NAMES),
        )  # fmt: skip
    if kind == "delete":
        seen = max(0, model.seq - rng.choice([0, 0, 1, 5, 50]))
        return Delete(node_id=node_id, version_id=space.nodes[node_id].version_id, seen_seq=seen)
    return RestoreNode(node_id)


def expected(model: Model, op: Op, result: ItemResult) -> str | None:
    match op:
        case CreateFolder():
            return model.create(op)
        case Move():
            return model.move(op)
        case Delete():
            return model.delete(op)
        case RestoreNode():
            return model.restore(op, result.row.name if result.row else "")
        case _:
            raise AssertionError(op)


def check_invariants(space: Space) -> None:
    live = [node for node in space.nodes.values() if not node.deleted]
    assert len({node.slot for node in live}) == len(live), "two live nodes have one place"
    for node in space.nodes.values():
        assert_no_cycle(space, node)
    rows = sorted(space.nodes.values(), key=lambda node: node.seq)
    assert len({node.seq for node in rows}) == len(rows)
    assert all(a.changed_us < b.changed_us for a, b in itertools.pairwise(rows))


def assert_no_cycle(space: Space, node: Node) -> None:
    seen = set()
    while node.parent_id != ROOT:
        assert node.id not in seen, "a cycle"
        seen.add(node.id)
        node = space.nodes[node.parent_id]


def started(rng: random.Random) -> tuple[Space, Model]:
    """A space with a few files in it, and the model of it."""
    space = Space(rules=Rules(max_depth=DEPTH, max_unseen=1000))
    model = Model()
    for name in rng.sample(NAMES[:3], rng.randint(0, 3)):
        node = space.file(name)
        model.nodes[node.id] = Plain(ROOT, name, folder=False, seq=node.seq)
        model.seq = node.seq
    return space, model


@pytest.mark.parametrize("block", range(4))
def test_every_operation_ends_as_the_simple_model_says(block: int) -> None:
    for seed in range(block * CASES // 4, (block + 1) * CASES // 4):
        rng = random.Random(seed)
        space, model = started(rng)
        for step in range(STEPS):
            op = random_op(rng, model, space)
            result = space.one(op)
            assert result.code == expected(model, op, result), f"seed {seed} step {step}: {op}"
            assert space.seq == model.seq
        plain = {key: (n.parent, n.name, n.deleted, n.seq) for key, n in model.nodes.items()}
        real = {key: (n.parent_id, n.name, n.deleted, n.seq) for key, n in space.nodes.items()}
        assert real == plain, f"seed {seed}"
        check_invariants(space)


def test_operations_joined_into_one_transaction_end_as_one_after_the_other() -> None:
    for seed in range(CASES // 3):
        rng = random.Random(seed)
        single, model = started(rng)
        joined, _ = started(random.Random(seed))
        ops = []
        results = []
        for _ in range(STEPS):
            ops.append(random_op(rng, model, single))
            results.append(single.one(ops[-1]))
            expected(model, ops[-1], results[-1])
        size = rng.randint(1, 12)
        jobs = [Job(Actor(device="laptop"), tuple(ops[i : i + size])) for i in range(0, STEPS, size)]
        together = [result for results in joined.run(*jobs) for result in results]
        assert [r.code for r in together] == [r.code for r in results], f"seed {seed}"
        assert [r.row and (r.row.id, r.row.seq, r.row.name) for r in together] == [
            r.row and (r.row.id, r.row.seq, r.row.name) for r in results
        ], f"seed {seed}"
        assert {k: (n.slot, n.deleted, n.seq) for k, n in joined.nodes.items()} == {
            k: (n.slot, n.deleted, n.seq) for k, n in single.nodes.items()
        }


def test_events_tell_of_every_sequence_number_once_and_in_order() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        space, model = started(rng)
        for _ in range(STEPS):
            op = random_op(rng, model, space)
            expected(model, op, space.one(op))
        told = [row.seq for event in space.events for row in getattr(event, "changes", [])]
        assert told == list(range(1, space.seq + 1)), f"seed {seed}"


def test_files_are_counted_as_they_come_and_go() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        space, model = started(rng)
        for _ in range(STEPS):
            op = random_op(rng, model, space)
            expected(model, op, space.one(op))
        assert space.files == sum(n.kind is Kind.FILE and not n.deleted for n in space.nodes.values())
