"""Deliberate bugs, one at a time, each in a copy of the agent: does the simulation find it?

`python -m tests.simulation.mutants [NAME …]` prints what found each and after how many cases, and
ends with 1 when one was not found.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REPO: Final = Path(__file__).resolve().parents[2]
_PARTS: Final = ("agent", "libs", "services", "tests", "pyproject.toml")
_SEARCH: Final = ("-m", "tests.simulation.search", "--seeds", "4000", "--stride", "3", "--plain")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: in `file`, `old` becomes `new`."""

    file: str
    old: str
    new: str


MUTANTS: Final[dict[str, Mutant]] = {
    "a deletion beats an edit": Mutant(
        "agent/merge.py", "return alive if edited else Fate.REMOVE_LOCAL", "return Fate.REMOVE_LOCAL"
    ),
    "a deletion here beats an edit there": Mutant(
        "agent/merge.py",
        "return Fate.FETCH if edited or self._moved_out_remotely(synced.id) else Fate.DELETE_REMOTE",
        "return Fate.DELETE_REMOTE",
    ),
    "a losing edit is replaced": Mutant(
        "agent/planner.py",
        "actions.append(KeepCopy(node.entry, self._copy_path(node), key))",
        "self._busy.discard(key)",
    ),
    "what is found at a swap is not looked at": Mutant(
        "agent/disk/rename.py",
        "        check_content(private, expect, stop)\n    except BaseException:\n        _swap_back(",
        "        pass\n    except BaseException:\n        _swap_back(",
    ),
    "what is found at a removal is not looked at": Mutant(
        "agent/disk/rename.py",
        "    rename(slot, private)\n    try:\n        check_content(private, expect, stop)",
        "    rename(slot, private)\n    try:\n        pass",
    ),
    "the merge base is written before the result": Mutant(
        "agent/executor/local.py",
        "    moved = await work.on_disk(work.disk.move, action.entry.path, action.to, expect=action.entry)\n"
        "    with work.state.transaction():\n"
        "        _moved(work, action.entry.path, moved)\n"
        "        _settle(work, action.node)",
        "    _settle(work, action.node)\n"
        "    moved = await work.on_disk(work.disk.move, action.entry.path, action.to, expect=action.entry)\n"
        "    with work.state.transaction():\n"
        "        _moved(work, action.entry.path, moved)",
    ),
    "an upload is agreed on before it is committed": Mutant(
        "agent/executor/uploads.py",
        "        results = await self._work.api.complete_upload_batch(upload_id, items)",
        "        self._work.state.put_synced(\n"
        "            [\n"
        "                replace(agreed(a.node, a.entry), content_hash=a.entry.content_hash)\n"
        "                for a in actions if a.node is not None\n"
        "            ]\n"
        "        )\n"
        "        results = await self._work.api.complete_upload_batch(upload_id, items)",
    ),
    "a conflicted copy is renamed before the memory knows": Mutant(
        "agent/executor/local.py",
        "        work.state.drop_synced([action.node_id])\n    moved =",
        "        pass\n    moved =",
    ),
    "the temporary folder is cleaned at the start": Mutant(
        "agent/leftovers.py", "    if leftover.worthless or leftover.second:", "    if True:"
    ),
    "a move is taken for a deletion": Mutant(
        "agent/identity.py",
        "            if node.id not in self._path_of:\n                self._bind_first",
        "            if False:\n                self._bind_first",
    ),
    "a reused inode is taken for a move": Mutant(
        "agent/identity.py",
        "        return same_content(node, entry) or node.stat.same_content_signs(entry.stat)",
        "        return True",
    ),
    "a folder is deleted with what nobody has seen": Mutant(
        "agent/executor/tree.py",
        "seen_seq=seen_seq)\n\n        def record",
        "seen_seq=2**60)\n\n        def record",
    ),
    "a push is applied across a gap": Mutant(
        "agent/feed.py", "        if push.from_seq != self.seq:\n            return False\n", ""
    ),
    "an old row overwrites a newer one": Mutant("agent/state.py", "node.seq >= known.seq", "node.seq >= 0"),
    "a full listing keeps what is not in it": Mutant(
        "agent/feed.py", "            self._state.keep_remote(set())\n", ""
    ),
    "absence after a restore is deletion": Mutant(
        "agent/feed.py", "            if restored:\n", "            if False:\n"
    ),
    "lost events are not made up for": Mutant(
        "agent/engine.py",
        "        if paths is None:\n            self.observer.full = True",
        "        if paths is None:\n            pass",
    ),
    "a problem is never tried again": Mutant(
        "agent/planning.py", "if p.wait is None or p.wait > 0", "if True"
    ),
    "a file is committed that is not what was read": Mutant(
        "agent/transfer/small.py",
        "    if len(content) != source.size or hashlib.sha256(content).hexdigest() != source.content_hash:\n"
        '        raise LocalError(code="changed")\n',
        "",
    ),
    "a download is not verified": Mutant(
        "agent/transfer/download.py",
        "        digest: str = target.digest.hexdigest()\n",
        "        digest = item.content_hash\n",
    ),
    "a delta download is not verified": Mutant(
        "agent/executor/nearby.py", "        return found == node.content_hash\n", "        return True\n"
    ),
    "a local copy is not hashed": Mutant(
        "agent/duplicates.py",
        "                if digest.hexdigest() == entry.content_hash:\n                    return True",
        "                return True",
    ),
    "a fresh file is not looked at again": Mutant(
        "agent/scanner/scan.py", "    if not settled(entry):\n        result.recheck.add(hashed.path)\n", ""
    ),
    "the focus leaves folders above out": Mutant(
        "agent/focus.py", "            self._with_folders_above(key)", "            pass"
    ),
    "cycles are not broken": Mutant(
        "agent/merge.py", "        self._break_cycles()\n\n    # Standing", "\n    # Standing"
    ),
}


def _copy(mutant: Mutant, to: Path) -> None:
    """Copy the repository's code with the bug in it."""
    for part in _PARTS:
        source = _REPO / part
        if source.is_dir():
            shutil.copytree(source, to / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / part)
    file = to / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.file} has {text.count(mutant.old)} times: {mutant.old!r}")
    file.write_text(text.replace(mutant.old, mutant.new))


def hunt(mutant: Mutant) -> str | None:
    """Return what found the bug, or None."""
    with tempfile.TemporaryDirectory(prefix="lockstep-mutant-") as folder:
        _copy(mutant, Path(folder))
        done = subprocess.run(
            [sys.executable, *_SEARCH], cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode == 0:
        return None
    found = re.search(r"^(\w+), after (.*):\n(.*)$", done.stdout, re.MULTILINE)
    if found is None:
        sys.exit(f"this bug does not even run: {done.stderr[-2000:]}")
    return f"{found[1]} after {found[2]}: {found[3][:100]}"


def main() -> int:
    """Try the named bugs, or all."""
    missed = 0
    for name in sys.argv[1:] or MUTANTS:
        begun = time.monotonic()
        found = hunt(MUTANTS[name])
        missed += found is None
        print(
            f"{'MISSED' if found is None else 'found '} {time.monotonic() - begun:4.0f} s  {name}: {found}",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
