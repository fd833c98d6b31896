"""From what the memory holds to a plan: what the engine does each round, and `plan` and `why` on a copy."""

import re
from collections.abc import Mapping
from typing import Final

from agent import clock
from agent.actions import Forget, Plan
from agent.disk import Disk
from agent.identity import identify
from agent.merge import Merge, Standing, Trees
from agent.model import Kind, RemoteNode, SyncedNode, Trouble
from agent.narrowing import Narrowing, Observed
from agent.observer import Observer
from agent.planner import Rules, plan
from agent.state import State
from libs.contracts.paths import name_key, name_problem

_PLAIN: Final = re.compile(r"[^./\x00\x80-\U0010ffff][^/\x00\x80-\U0010ffff]{0,254}").fullmatch
"""Most names: seen at a glance to be good."""


class Planning:
    """Makes the plans of one device from its `state`; `observer` knows what is ignored or unlisted."""

    def __init__(self, state: State, observer: Observer, disk: Disk, root_id: str, device: str) -> None:
        self._state = state
        self._observer = observer
        self._disk = disk
        self._root_id = root_id
        self._device = device
        self._narrowing = Narrowing(root_id, self._held)

    def plan(self, suspended: frozenset[str]) -> Plan:
        """Return what to do now, the suspended paths left alone."""
        state, observer = self._state, self._observer
        seen = Observed(state.local, state.remote, state.synced, observer.opaque, observer.rules)
        trees = self._narrowing.trees(seen)
        moved_out = self._moved_out(trees)
        if moved_out:
            return Plan(tuple(map(Forget, moved_out)))
        return plan(trees, Rules(self._device, clock.today(), self._fold), suspended)

    def _moved_out(self, trees: Trees) -> list[str]:
        """Return nodes that the server has moved from where the rules ignore them to where they do not.

        What is here at the ignored place is left alone, so they come anew. What was below a folder
        goes with it and before it: remembered without its folder it would look deleted here.
        """
        if not any(_is_moved(trees, key) for key in trees.held):
            return []
        then = self._observer.held((trees.synced,), self._root_id)
        there = self._observer.held((trees.remote,), self._root_id)
        merge = Merge(trees)
        moved: dict[str, None] = {}
        for key in then:
            if key in trees.local.nodes or key in trees.local.held:
                continue
            out = key not in there and merge.standing(key) is Standing.LIVE
            if out or trees.synced[key].parent_id in moved:
                moved[key] = None
        return list(reversed(moved))

    def forget_absent(self) -> int:
        """Forget what is not seen on the disk, so that its absence is no deletion; return how many nodes.

        Also what the rules leave alone, or what cannot be listed: it may be absent too, and would
        look deleted as soon as it could be seen. What is there is then bound by its content.
        """
        state = self._state
        tree = identify(state.local, state.synced, self._root_id, self._observer.opaque)
        unseen = [path for folder in tree.opaque for path in state.below(folder) if path != folder]
        with state.transaction():
            state.drop_local(unseen)
            seen = {key for key, node in tree.nodes.items() if node.entry.path in state.local}
            absent = [node_id for node_id in state.synced if node_id not in seen]
            state.drop_synced(absent)
        return len(absent)

    def _held(
        self, synced: Mapping[str, SyncedNode], remote: Mapping[str, RemoteNode]
    ) -> dict[str, Trouble | None]:
        return {**self._observer.held((synced, remote), self._root_id), **misnamed(remote)}

    def _fold(self, name: str) -> str:
        """Return the form in which the disk compares names."""
        key = name_key(name)
        return key.casefold() if self._disk.folds_names else key


def _is_moved(trees: Trees, key: str) -> bool:
    """Whether the server has a node elsewhere than where both sides had it."""
    synced, remote = trees.synced.get(key), trees.remote.get(key)
    if synced is None or remote is None:
        return False
    return (remote.parent_id, remote.name) != (synced.parent_id, synced.name)


def misnamed(remote: Mapping[str, RemoteNode]) -> dict[str, Trouble]:
    """Return the nodes whose names no server of ours gives out: paths, our own folder, too long ones. Pure.

    They are left alone, and nothing is put below them; one of them must not hold up the rest.
    """
    return {
        node.id: Trouble("invalid_name", f"The server's name for it cannot be used: {problem}")
        for node in remote.values()
        if not node.deleted and not _PLAIN(node.name) and (problem := name_problem(node.name)) is not None
    }


def waiting(state: State) -> frozenset[str]:
    """Return the paths whose last action failed and whose next try is not due."""
    return frozenset(p.path for p in state.problems.values() if p.wait is None or p.wait > 0)


def synced_files(state: State) -> int:
    """Return how many files, links too, both sides agree on."""
    return sum(node.kind is not Kind.FOLDER for node in state.synced.values())
