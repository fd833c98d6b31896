"""One run: an account, its devices with their users, the ledger, and what must hold at rest."""

import asyncio
import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.app import run_sync
from agent.settings import Settings
from libs.contracts.paths import STATE_FOLDER, name_key
from tests.soak import server
from tests.soak.content import fault_in, hash_of
from tests.soak.ledger import Ledger
from tests.soak.user import ANCHOR, User
from tests.support.devices import Account, Device

SYNCS_TO_REST = 8
Tree = dict[str, str]


@dataclass
class Field:
    """The devices and users of one run."""

    account: Account
    devices: list[Device]
    users: list[User]
    ledger: Ledger
    strict: bool = True
    """Whether users act only while no agent runs: then nothing can happen unseen."""
    notes: list[str] = field(default_factory=list)
    """What was odd and is no failure."""
    trace: list[str] = field(default_factory=list)
    """What was done, in order."""
    guests: int = 0

    def sync(self, who: int) -> dict[str, Any]:
        """One run of a device's agent in this process; its report."""
        report = sync_once(self.devices[who])
        self.trace.append(f"  sync {self.devices[who].name}: {_brief(report)}")
        return report

    def settle(self) -> None:
        """Sync all in turn until a whole turn does nothing, then check that all is in step."""
        for user in self.users:
            user.heal()
        reports: list[dict[str, Any]] = []
        for _ in range(SYNCS_TO_REST):
            before = self.head()
            reports = [self.sync(who) for who in range(len(self.devices))]
            if self.head() == before and not any(is_busy(report) for report in reports):
                return
        raise AssertionError(f"the devices do not come to rest: {[_brief(report) for report in reports]}")

    def head(self) -> int:
        """The number of the server's last change."""
        return max((row["seq"] for row in server.rows_of(self.devices[0])), default=0)

    # What must hold -----------------------------------------------------------------------

    def check(self) -> None:
        """Check every invariant of devices at rest."""
        rows = server.rows_of(self.devices[0])
        trees = [tree_of(device.folder) for device in self.devices]
        there = server.tree_of_rows(rows)
        for device, tree in zip(self.devices, trees, strict=True):
            _check_equal(device.name, tree, there)
        self._check_contents(rows)
        self._check_leftovers()
        self.check_idle()
        self.ledger.rest(server.contents_of(rows))

    def check_idle(self) -> None:
        """A further sync of every device does nothing, moves no bytes and is in step."""
        before = self.head()
        for who, device in enumerate(self.devices):
            report = self.sync(who)
            assert not is_busy(report), f"{device.name} is not idle: {_brief(report)}"
            assert report["in_step"], f"{device.name} is not in step: {report['problems']}"
        assert self.head() == before, "a device at rest changed something on the server"

    def _check_contents(self, rows: list[server.Row]) -> None:
        live, ledger = server.contents_of(rows), self.ledger
        self._check_not_lost(rows, set(live))
        invented = ledger.invented(live)
        assert not invented, f"invented: {[(c, self._where(rows, c)) for c in invented]}"
        names = {row["name"] for row in server.live_rows(rows).values()} - {ANCHOR}
        assert not ledger.invented_names(names), f"invented names: {ledger.invented_names(names)}"
        if self.strict:
            doubled, back = ledger.doubled(live), ledger.back(live)
            assert not doubled, f"doubled: {[(c, self._where(rows, c)) for c in doubled]}"
            assert not back, f"came back: {[(c, self._where(rows, c)) for c in back]}"

    def _check_not_lost(self, rows: list[server.Row], live: set[str]) -> None:
        """What is owed is live; what a user replaced unseen may also be a version, or put aside."""
        missing = self.ledger.owed() - live
        if missing and not self.strict:
            missing -= set(server.every_version(self.devices[0], rows))
            for device in self.devices:
                missing -= set(_trash_of(device))
        assert not missing, f"lost: {[(c, self.ledger.written[c]) for c in missing]}"

    def _where(self, rows: list[server.Row], content: str) -> list[str]:
        return [
            path for path, told in server.tree_of_rows(rows).items() if content.removeprefix("-> ") in told
        ]

    def _check_leftovers(self) -> None:
        for device in self.devices:
            left = sorted(path.name for path in (device.folder / STATE_FOLDER / "tmp").iterdir())
            assert not left, f"{device.name} left {left} in its temporary folder"
        sessions = server.open_sessions(self.devices[0])
        self.notes += [f"open: {_told(session)}" for session in sessions]

    def check_from_nothing(self) -> None:
        """A new device that syncs from nothing gets the same tree, byte by byte."""
        self.guests += 1
        guest = self.account.link(f"G{self.guests}")
        try:
            report = sync_once(guest)
            assert report["in_step"], f"a new device is not in step: {report['problems']}"
            _check_equal(guest.name, tree_of(guest.folder), tree_of(self.devices[0].folder))
        finally:
            guest.run("logout", expect=None)


def new_field(account: Account, count: int, seed: str, *, strict: bool = True) -> Field:
    """Link `count` devices, each with a user, and bring the anchor to all."""
    ledger = Ledger()
    devices = [account.link(chr(ord("A") + i), register=i == 0) for i in range(count)]
    users = [User(device.name, device.folder, ledger, seed) for device in devices]
    content = devices[0].write(ANCHOR, "").read_bytes()
    ledger.wrote(hash_of(content), "anchor")
    ledger.copy([hash_of(content)])
    made = Field(account, devices, users, ledger, strict)
    made.settle()
    return made


@contextmanager
def told(fielded: Field) -> Iterator[None]:
    """Say at which step of the trace something failed."""
    try:
        yield
    except Exception as error:
        error.add_note("\n".join(fielded.trace[-40:]))
        raise


# Trees --------------------------------------------------------------------------------------------


def tree_of(folder: Path) -> Tree:
    """Return path → what is there; names in their normal form.

    Raises `AssertionError` for a file whose content is not what its first line says.
    """
    found: Tree = {}
    for base, folders, files in os.walk(folder):
        at = Path(base)
        if at == folder:
            folders[:] = [name for name in folders if name != STATE_FOLDER]
        for name in [*folders, *files]:
            path = at / name
            found[name_key(str(path.relative_to(folder)))] = _described(path)
    return found


def _described(path: Path) -> str:
    stat = path.lstat()
    if modes.S_ISLNK(stat.st_mode):
        return f"link {path.readlink()}"
    if modes.S_ISDIR(stat.st_mode):
        return "folder"
    if not modes.S_ISREG(stat.st_mode):
        return "special"
    content = path.read_bytes()
    fault = fault_in(content)
    assert fault is None, f"{path} is corrupt: {fault}"
    return f"file {'x' if stat.st_mode & 0o100 else '-'} {hash_of(content)} {stat.st_mtime_ns}"


def difference(one: Tree, other: Tree) -> list[str]:
    """Return the paths at which two trees differ, with what each has."""
    paths = sorted(one.keys() | other.keys())
    return [f"{p!r}: {one.get(p)} / {other.get(p)}" for p in paths if one.get(p) != other.get(p)]


def _check_equal(name: str, tree: Tree, there: Tree) -> None:
    differing = difference(tree, there)
    assert not differing, f"{name} differs from the server: {differing[:12]}"


def _trash_of(device: Device) -> Iterator[str]:
    """Yield the contents of what the agent put aside."""
    for path in (device.folder / STATE_FOLDER).rglob("*"):
        if path.is_symlink():
            yield f"-> {path.readlink()}"
        elif path.is_file():
            yield hash_of(path.read_bytes())


def _told(session: server.Row) -> str:
    kind = "batch" if session["batch"] else f"{session['parts_done']}/{session['parts_total']} parts"
    results = [(entry["path"], (entry["result"] or {}).get("code")) for entry in session["entries"]]
    return f"{session['id']} {kind} {session['size']} bytes {session['state']} {results[:5]}"


# Syncing and its reports -------------------------------------------------------------------------

_COUNTS = (
    "uploaded_files",
    "downloaded_files",
    "uploaded_bytes",
    "downloaded_bytes",
    "conflicts",
    "deleted",
    "moved",
)


def sync_once(device: Device) -> dict[str, Any]:
    """Run a device's agent once in this process, with no guard against mass deletion; its report."""
    return asyncio.run(run_sync(Settings(home=device.home), device.folder, allow_mass_delete=True)).as_json()


def is_busy(report: dict[str, Any]) -> bool:
    """Whether a run did anything."""
    return any(report[key] for key in _COUNTS)


def _brief(report: dict[str, Any]) -> dict[str, Any]:
    keys = (*_COUNTS, "problems", "halted", "failure", "in_step")
    return {key: report[key] for key in keys if report.get(key)}
