"""Every rule of the merge on the real stack: the planner's table and more rows, each in a folder of its own.

A row is a tree that all devices have, what each device then does alone, and the tree that all must have
in the end. All rows are played at once in one account, each in a folder of its own, so that a row costs
little; once with the first device syncing first and once with the last. Names are those of the rules,
numbers those of the acceptance scenarios.
"""

import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.devices import Account, Device, new_account, wait_until_same
from tests.support.settling import settle, share
from tests.support.stack import Stack
from tests.unit.test_agent_planner_scenarios import FOLDER, Act, F, Row, Tree, copy_of
from tests.unit.test_agent_planner_scenarios import ROWS as PLANNER_ROWS

DAY = re.compile(r", \d{4}-\d{2}-\d{2}\)")

MORE = [
    # Edits against chains and rings of moves
    Row("a chain of renames here, an edit there: the last name and the edit", [F],
        [[("move", "f", "g"), ("move", "g", "h")], [("edit", "f", "b")]], {"h": "b"}),
    Row("a chain of renames that ends where it began, an edit there", [F],
        [[("move", "f", "g"), ("move", "g", "f")], [("edit", "f", "b")]], {"f": "b"}),
    Row("a file moved from folder to folder to folder, edited there",
        [*FOLDER, ("mkdir", "e"), ("mkdir", "h")],
        [[("move", "d/f", "e/f"), ("move", "e/f", "h/f")], [("edit", "d/f", "b")]],
        {"d": "/", "d/g": "other", "e": "/", "h": "/", "h/f": "b"}),
    Row("35 two files swapped here, one edited there: the edit follows its file",
        [("write", "x", "1"), ("write", "y", "2")],
        [[("rotate", "x", "y")], [("edit", "x", "b")]], {"x": "2", "y": "b"}),
    Row("35 two folders swapped here, files in both edited there",
        [*FOLDER, ("mkdir", "e"), ("write", "e/h", "h")],
        [[("rotate", "d", "e")], [("edit", "d/f", "b1"), ("edit", "e/h", "b2"), ("write", "d/n", "n")]],
        {"d": "/", "d/h": "b2", "e": "/", "e/f": "b1", "e/g": "other", "e/n": "n"}),
    Row("35 two files swapped by both are swapped once",
        [("write", "x", "1"), ("write", "y", "2")],
        [[("rotate", "x", "y")], [("rotate", "x", "y")]], {"x": "2", "y": "1"}, moves_no_bytes=True),
    Row("36 three names rotated here, one deleted there",
        [("write", "x", "1"), ("write", "y", "2"), ("write", "z", "3")],
        [[("rotate", "x", "y", "z")], [("delete", "y")]], {"y": "1", "x": "3"}, moves_no_bytes=True),
    Row("36 three names rotated here, the other way round there: each is kept once",
        [("write", "x", "1"), ("write", "y", "2"), ("write", "z", "3")],
        [[("rotate", "x", "y", "z")], [("rotate", "z", "y", "x")]],
        {"y": "1", "z": "2", "x": "3"}, {"x": "2", "y": "3", "z": "1"}, moves_no_bytes=True),
    # Names that are taken, given up, and taken again
    Row("42 renamed onto a name that was deleted there", [("write", "x", "1"), ("write", "y", "2")],
        [[("move", "x", "y")], [("delete", "y")]], {"y": "1"}, moves_no_bytes=True),
    Row("42 two files renamed to one name", [("write", "x", "1"), ("write", "y", "2")],
        [[("move", "x", "z")], [("move", "y", "z")]],
        {"z": "1", copy_of("z", "B"): "2"}, {"z": "2", copy_of("z", "A"): "1"}, moves_no_bytes=True),
    Row("renamed away here, made anew there: both", [F],
        [[("move", "f", "g"), ("write", "f", "new")], [("edit", "f", "b")]], {"g": "b", "f": "new"}),
    Row("deleted and made anew here with other content, edited there", [F],
        [[("delete", "f"), ("write", "f", "a")], [("edit", "f", "b")]],
        {"f": "a", copy_of("f", "B"): "b"}, {"f": "b", copy_of("f", "A"): "a"}),
    Row("deleted and made anew here as it was, deleted there", [F],
        [[("delete", "f"), ("write", "f", "old")], [("delete", "f")]], {}),
    Row("deleted and made anew by both with other contents", [F],
        [[("delete", "f"), ("write", "f", "a")], [("delete", "f"), ("write", "f", "b")]],
        {"f": "a", copy_of("f", "B"): "b"}, {"f": "b", copy_of("f", "A"): "a"}),
    Row("a tree deleted and made anew by both: one tree, files that differ twice",
        [*FOLDER, ("mkdir", "d/e"), ("write", "d/e/h", "h")],
        [[("delete", "d"), ("mkdir", "d"), ("write", "d/f", "a"), ("write", "d/g", "other"),
          ("mkdir", "d/e"), ("write", "d/e/a", "1")],
         [("delete", "d"), ("mkdir", "d"), ("write", "d/f", "b"), ("write", "d/g", "other"),
          ("mkdir", "d/e"), ("write", "d/e/b", "2")]],
        {"d": "/", "d/f": "a", copy_of("d/f", "B"): "b", "d/g": "other", "d/e": "/", "d/e/a": "1",
         "d/e/b": "2"},
        {"d": "/", "d/f": "b", copy_of("d/f", "A"): "a", "d/g": "other", "d/e": "/", "d/e/a": "1",
         "d/e/b": "2"}),
    Row("14 a file deleted there in a folder renamed here", [*FOLDER],
        [[("move", "d", "e")], [("delete", "d/f")]], {"e": "/", "e/g": "other"}, moves_no_bytes=True),
    # Types
    Row("28 file to link here, renamed there", [F],
        [[("to_link", "f")], [("move", "f", "g")]], {"f": "-> c1"}),
    Row("28 file to link here, deleted there", [F], [[("to_link", "f")], [("delete", "f")]], {"f": "-> c1"}),
    Row("28 link to file here, another target there", [("link", "l", "old")],
        [[("to_file", "l")], [("edit", "l", "b")]],
        {"l": "c1", copy_of("l", "B"): "-> b"}, {"l": "-> b", copy_of("l", "A"): "c1"}),
    Row("26 an empty folder and a file of one name: the folder has it", [],
        [[("mkdir", "n")], [("write", "n", "file")]],
        {"n": "/", copy_of("n", "B"): "file"}, {"n": "/", copy_of("n", "A"): "file"}),
    Row("26 a folder and a link of one name", [],
        [[("mkdir", "n"), ("write", "n/x", "x")], [("link", "n", "t")]],
        {"n": "/", "n/x": "x", copy_of("n", "B"): "-> t"}, {"n": "/", "n/x": "x", copy_of("n", "A"): "-> t"}),
    Row("26 folder to file here, an edit in the folder there", [*FOLDER],
        [[("to_file", "d")], [("edit", "d/f", "b")]],
        {"d": "/", "d/f": "b", copy_of("d", "B"): "c1"}, {"d": "/", "d/f": "b", copy_of("d", "A"): "c1"}),
    Row("26 folder to file here, the folder renamed there", [*FOLDER],
        [[("to_file", "d")], [("move", "d", "e")]], {"d": "c1"}),
    Row("26 file to folder here, renamed there", [F],
        [[("to_folder", "f"), ("write", "f/n", "n")], [("move", "f", "g")]], {"f": "/", "f/n": "n"}),
    Row("26 file to folder by both", [F],
        [[("to_folder", "f"), ("write", "f/a", "a")], [("to_folder", "f"), ("write", "f/b", "b")]],
        {"f": "/", "f/a": "a", "f/b": "b"}),
    # Folders
    Row("31 a folder renamed here, another name there, new files in both", [*FOLDER],
        [[("move", "d", "x"), ("write", "x/a", "a")], [("move", "d", "y"), ("write", "y/b", "b")]],
        {"x": "/", "x/f": "old", "x/g": "other", "x/a": "a", "x/b": "b"},
        {"y": "/", "y/f": "old", "y/g": "other", "y/a": "a", "y/b": "b"}),
    Row("31 a folder renamed here, one in it renamed there",
        [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "old")],
        [[("move", "p", "q")], [("move", "p/d", "p/e")]],
        {"q": "/", "q/e": "/", "q/e/f": "old"}, moves_no_bytes=True),
    Row("39 a folder moved up here, the one above renamed there",
        [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "old")],
        [[("move", "p/d", "d")], [("move", "p", "q")]],
        {"q": "/", "d": "/", "d/f": "old"}, moves_no_bytes=True),
    Row("39 a folder moved up here, an edit and a new file in it there",
        [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "old")],
        [[("move", "p/d", "d")], [("edit", "p/d/f", "b"), ("write", "p/d/n", "n")]],
        {"p": "/", "d": "/", "d/f": "b", "d/n": "n"}),
    Row("39 a folder moved up here, the one above deleted there",
        [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "old"), ("write", "p/g", "g")],
        [[("move", "p/d", "d")], [("delete", "p")]], {"d": "/", "d/f": "old"}),
    Row("32 a folder moved into one that was deleted there",
        [*FOLDER, ("mkdir", "e"), ("write", "e/h", "h")],
        [[("move", "e", "d/e")], [("delete", "d")]], {"d": "/", "d/e": "/", "d/e/h": "h"}),
    Row("32 a file edited and moved into a folder that was deleted there", [*FOLDER, ("write", "h", "h")],
        [[("edit", "h", "a"), ("move", "h", "d/h")], [("delete", "d")]], {"d": "/", "d/h": "a"}),
    Row("32 an empty folder deleted here, a file moved into it there", [F, ("mkdir", "d")],
        [[("delete", "d")], [("move", "f", "d/f")]], {"d": "/", "d/f": "old"}),
    Row("32 an empty folder deleted here, one made in it there", [("mkdir", "d")],
        [[("delete", "d")], [("mkdir", "d/e")]], {"d": "/", "d/e": "/"}),
    Row("14 an empty folder deleted here, renamed there", [("mkdir", "d")],
        [[("delete", "d")], [("move", "d", "e")]], {}),
    Row("14 a folder deleted here, renamed there, nothing new in it", [*FOLDER],
        [[("delete", "d")], [("move", "d", "e")]], {}),
    Row("33 a folder deleted here, renamed there with an edit in it", [*FOLDER],
        [[("delete", "d")], [("move", "d", "e"), ("edit", "e/f", "b")]], {"e": "/", "e/f": "b"}),
    Row("33 a folder deleted here, a file in it edited and renamed there", [*FOLDER],
        [[("delete", "d")], [("edit", "d/f", "b"), ("move", "d/f", "d/x")]], {"d": "/", "d/x": "b"}),
    Row("33 a folder deleted here, a file in it edited and moved out there", [*FOLDER],
        [[("delete", "d")], [("edit", "d/f", "b"), ("move", "d/f", "x")]], {"x": "b"}),
    Row("32 a folder emptied by moves and deleted here, added to there", [*FOLDER],
        [[("move", "d/f", "f"), ("move", "d/g", "g"), ("delete", "d")], [("write", "d/n", "n")]],
        {"f": "old", "g": "other", "d": "/", "d/n": "n"}),
    Row("32 a folder emptied by moves and deleted here, edited in there", [*FOLDER],
        [[("move", "d/f", "f"), ("move", "d/g", "g"), ("delete", "d")], [("edit", "d/f", "b")]],
        {"f": "b", "g": "other"}),
    Row("32 two folders deep: the inner deleted here, the outer there, a file in between by C",
        [("mkdir", "p"), ("mkdir", "p/q"), ("mkdir", "p/q/r"), ("write", "p/q/r/f", "old")],
        [[("delete", "p/q/r")], [("delete", "p")], [("write", "p/q/n", "n")]],
        {"p": "/", "p/q": "/", "p/q/n": "n"}),
    Row("a folder renamed to a name that was made anew there", [*FOLDER],
        [[("move", "d", "e")], [("mkdir", "e"), ("write", "e/n", "n")]],
        {"e": "/", "e/f": "old", "e/g": "other", copy_of("e", "B"): "/", copy_of("e", "B") + "/n": "n"},
        {"e": "/", "e/n": "n", copy_of("e", "A"): "/", copy_of("e", "A") + "/f": "old",
         copy_of("e", "A") + "/g": "other"}),
    Row("two folders renamed to one name",
        [*FOLDER, ("mkdir", "e"), ("write", "e/h", "h")],
        [[("move", "d", "z")], [("move", "e", "z")]],
        {"z": "/", "z/f": "old", "z/g": "other", copy_of("z", "B"): "/", copy_of("z", "B") + "/h": "h"},
        {"z": "/", "z/h": "h", copy_of("z", "A"): "/", copy_of("z", "A") + "/f": "old",
         copy_of("z", "A") + "/g": "other"}),
    Row("34 a folder moved into another here, that one into it there, edits in both",
        [("mkdir", "x"), ("write", "x/f", "f"), ("mkdir", "y"), ("write", "y/g", "g")],
        [[("move", "x", "y/x"), ("edit", "y/g", "a")], [("move", "y", "x/y"), ("edit", "x/f", "b")]],
        {"y": "/", "y/x": "/", "y/x/f": "b", "y/g": "a"}, {"x": "/", "x/y": "/", "x/y/g": "a", "x/f": "b"}),
    Row("a file moved into a folder that was renamed there", [*FOLDER, ("write", "h", "h")],
        [[("move", "h", "d/h")], [("move", "d", "e")]],
        {"e": "/", "e/f": "old", "e/g": "other", "e/h": "h"}, moves_no_bytes=True),
    Row("a file moved out of a folder that was renamed there", [*FOLDER],
        [[("move", "d/f", "f")], [("move", "d", "e")]],
        {"e": "/", "e/g": "other", "f": "old"}, moves_no_bytes=True),
    # Three devices
    Row("13 edited by one, deleted by two", [F],
        [[("edit", "f", "a")], [("delete", "f")], [("delete", "f")]], {"f": "a"}),
    Row("24 edited by A, renamed by B, deleted by C", [F],
        [[("edit", "f", "a")], [("move", "f", "g")], [("delete", "f")]], {"g": "a"}, {"f": "a"}),
    Row("21 one name made by three", [],
        [[("write", "f", "a")], [("write", "f", "b")], [("write", "f", "c")]],
        {"f": "a", copy_of("f", "B"): "b", copy_of("f", "C"): "c"},
        {"f": "c", copy_of("f", "A"): "a", copy_of("f", "B"): "b"}),
    Row("31 a folder renamed by A, added to by B, edited in by C", [*FOLDER],
        [[("move", "d", "e")], [("write", "d/n", "n")], [("edit", "d/f", "c")]],
        {"e": "/", "e/f": "c", "e/g": "other", "e/n": "n"}),
    # Names
    Row("46 a change of case here, an edit there", [("write", "readme", "1")],
        [[("move", "readme", "README")], [("edit", "readme", "b")]], {"README": "b"}),
    Row("46 a change of case here, another there", [("write", "readme", "1")],
        [[("move", "readme", "README")], [("move", "readme", "Readme")]],
        {"README": "1"}, {"Readme": "1"}, moves_no_bytes=True),
    Row("49 two spellings of one name with two contents are a conflict", [],
        [[("write", "\u00e9", "a")], [("write", "e\u0301", "b")]],
        {"\u00e9": "a", copy_of("e\u0301", "B"): "b"}, {"e\u0301": "b", copy_of("\u00e9", "A"): "a"}),
    Row("49 renamed to the other spelling here, edited there", [("write", "\u00e9", "1")],
        [[("move", "\u00e9", "e\u0301")], [("edit", "\u00e9", "b")]], {"\u00e9": "b"}),
    Row("49 a folder of the other spelling there, new files in both", [],
        [[("mkdir", "\u00e9"), ("write", "\u00e9/a", "a")],
         [("mkdir", "e\u0301"), ("write", "e\u0301/b", "b")]],
        {"\u00e9": "/", "\u00e9/a": "a", "\u00e9/b": "b"}),
]  # fmt: skip

ROWS = [*PLANNER_ROWS, *MORE]


# Playing ------------------------------------------------------------------------------------------


def write(top: Path, device: Device, path: str, content: str) -> None:
    device.write(str((top / path).relative_to(device.folder)), content)


def delete(top: Path, _device: Device, path: str) -> None:
    target = top / path
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink()


def rotate(top: Path, _device: Device, *paths: str) -> None:
    """Each goes where the next one is, the last where the first was."""
    spare = top / "spare"
    (top / paths[-1]).rename(spare)
    for source, target in reversed(list(pairwise(paths))):
        (top / source).rename(top / target)
    spare.rename(top / paths[0])


def edit(top: Path, device: Device, path: str, content: str) -> None:
    if (top / path).is_symlink():
        (top / path).unlink()
        (top / path).symlink_to(content)
    else:
        write(top, device, path, content)


def turn(top: Path, device: Device, path: str, kind: str) -> None:
    delete(top, device, path)
    if kind == "folder":
        (top / path).mkdir()
    elif kind == "link":
        (top / path).symlink_to("c1")
    else:
        write(top, device, path, "c1")


DO: dict[str, Callable[..., object]] = {
    "write": write,
    "link": lambda top, _device, path, target: (top / path).symlink_to(target),
    "mkdir": lambda top, _device, path: (top / path).mkdir(parents=True),
    "edit": edit,
    "delete": delete,
    "move": lambda top, _device, path, to: (top / path).rename(top / to),
    "rotate": rotate,
    "to_folder": lambda top, device, path: turn(top, device, path, "folder"),
    "to_link": lambda top, device, path: turn(top, device, path, "link"),
    "to_file": lambda top, device, path: turn(top, device, path, "file"),
}


def act(device: Device, row: Row, steps: Sequence[Act]) -> None:
    top = folder_of(device, row)
    top.mkdir(exist_ok=True)
    for verb, *values in steps:
        DO[verb](top, device, *values)


def folder_of(device: Device, row: Row) -> Path:
    return device.path(f"{ROWS.index(row):03}")


def begin(devices: Sequence[Device], rows: Sequence[Row]) -> None:
    """Give all devices what the rows start from."""
    for row in rows:
        act(devices[0], row, row.start)
    share(*devices)


def act_alone(devices: Sequence[Device], rows: Sequence[Row]) -> None:
    """Let each device do its part of every row without a look at the others."""
    for row in rows:
        for device, steps in zip(devices, row.acts, strict=False):
            act(device, row, steps)


def found(device: Device, row: Row) -> Tree:
    """What is in the folder of a row: content of files, `/` for folders, `-> target` for links."""
    top = folder_of(device, row)
    return {spelt(str(path.relative_to(top))): described(path) for path in top.rglob("*")}


def described(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return "/" if path.is_dir() else path.read_text()


def expected(tree: Tree) -> Tree:
    """A row's tree as `found` tells it."""
    return {spelt(path): what for path, what in tree.items()}


def spelt(path: str) -> str:
    """A path in one Unicode form, and without the day in the names of copies: it may end meanwhile."""
    return DAY.sub(", DAY)", unicodedata.normalize("NFC", path))


# Tests --------------------------------------------------------------------------------------------

Played = dict[str, Tree]


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[Row]:
    """The rows that this run asks for: one alone is played alone."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    calls = [item.callspec for item in items if item.module is request.module and hasattr(item, "callspec")]
    asked = [call.params["row"] for call in calls if "row" in call.params]
    return [row for row in ROWS if row in asked] or ROWS


@pytest.fixture(scope="module")
def linked(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], tuple[Device, Device, Device]]:
    """Return a function that links three devices of a new account."""

    def link() -> tuple[Device, Device, Device]:
        stack.ensure_running()
        account: Account = new_account(stack.gateway_url, tmp_path_factory.mktemp("table"))
        return account.link("A", register=True), account.link("B"), account.link("C")

    return link


Linked = Callable[[], tuple[Device, Device, Device]]


def played(devices: Sequence[Device], rows: Sequence[Row], *, last_first: bool) -> Played:
    """Play rows with as many devices as they have; the last of those may be the first to sync."""
    begin(devices, rows)
    act_alone(devices, rows)
    settle(*(reversed(devices) if last_first else devices))
    return {row.name: found(devices[0], row) for row in rows}


@pytest.fixture(scope="module")
def a_first(chosen: list[Row], linked: Linked) -> Played:
    return played(linked(), chosen, last_first=False)


@pytest.fixture(scope="module")
def last_first(chosen: list[Row], linked: Linked) -> Played:
    return played(linked(), chosen, last_first=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_tree_is_as_the_rule_says(row: Row, a_first: Played) -> None:
    assert a_first[row.name] == expected(row.expect)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_tree_is_as_the_rule_says_when_the_last_device_syncs_first(row: Row, last_first: Played) -> None:
    assert last_first[row.name] == expected(row.reverse or row.expect)


@pytest.mark.parametrize("last", [False, True])
def test_moves_and_deletions_alone_carry_no_bytes(linked: Linked, *, last: bool) -> None:
    """Scenarios 24, 34, 35, 36, 39, 42 and 45 where nobody writes: no payload in either direction."""
    devices = linked()
    rows = [row for row in ROWS if row.moves_no_bytes]
    begin(devices, rows)
    act_alone(devices, rows)
    order = devices[::-1] if last else devices
    reports = [device.quick_sync() for _ in range(4) for device in order]
    assert sum(report["uploaded_bytes"] + report["downloaded_bytes"] for report in reports) == 0
    settle(*order)


def test_agents_that_run_while_their_users_act_end_with_one_tree_and_nothing_lost(linked: Linked) -> None:
    """All rows at once on three running agents: who is first is left to chance, the invariants are not.

    A step that makes no sense any more, because another user's step has arrived, is left out. So are
    rows with two spellings of one name: a user who makes the second where the first has arrived has
    both in one folder, which is reported and stays.
    """
    devices = linked()
    rows = [row for row in ROWS if "e\u0301" not in repr(row)]
    begin(devices, rows)
    with ExitStack() as running:
        for device in devices:
            running.enter_context(device.started())
        for row in rows:
            for device, steps in zip(devices, row.acts, strict=False):
                for step in steps:
                    with suppress(OSError):
                        act(device, row, [step])
        wait_until_same(*devices)
    settle(*devices)
