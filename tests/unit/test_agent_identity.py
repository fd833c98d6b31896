"""Which node is it? Inodes, places and contents, one row per rule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from agent.identity import identify, join, same_content
from agent.model import FileStat, Kind, LocalEntry, LocalKind, SyncedNode, Trouble

ROOT = "0" * 24


def stat(ino: int, *, birth: int | None = None, mtime: int = 1, size: int = 3) -> FileStat:
    return FileStat(dev=1, ino=ino, size=size, mtime_ns=mtime, ctime_ns=mtime, mode=0o644, birth_ns=birth)


def file(path: str, ino: int, content: str = "x", *, birth: int | None = None, mtime: int = 1) -> LocalEntry:
    return LocalEntry(path, LocalKind.FILE, stat(ino, birth=birth, mtime=mtime), content_hash=content)


def folder(path: str, ino: int, *, birth: int | None = None) -> LocalEntry:
    return LocalEntry(path, LocalKind.FOLDER, stat(ino, birth=birth, size=0))


def node(key: str, name: str, ino: int | None, content: str = "x", *, parent: str = ROOT,
         kind: Kind = Kind.FILE, birth: int | None = None) -> SyncedNode:  # fmt: skip
    found = None if ino is None else stat(ino, birth=birth, size=3 if kind is Kind.FILE else 0)
    hashed = content if kind is Kind.FILE else None
    return SyncedNode(key, parent, name, kind, "v", hashed, size=3, stat=found)


def folder_node(key: str, name: str, ino: int, *, parent: str = ROOT, birth: int | None = None) -> SyncedNode:
    return node(key, name, ino, parent=parent, kind=Kind.FOLDER, birth=birth)


def bound(
    entries: Sequence[LocalEntry], nodes: Sequence[SyncedNode], opaque: Sequence[str] = ()
) -> dict[str, str]:
    """Path → key."""
    tree = identify({e.path: e for e in entries}, {n.id: n for n in nodes}, ROOT, opaque)
    return {entry.entry.path: entry.key for entry in tree.nodes.values()}


@dataclass(frozen=True)
class Row:
    rule: str
    entries: Sequence[LocalEntry]
    nodes: Sequence[SyncedNode]
    expect: dict[str, str]


ROWS = [
    Row("unchanged", [file("f", 1)], [node("F", "f", 1)], {"f": "F"}),
    Row("edited in place", [file("f", 1, "new", mtime=2)], [node("F", "f", 1)], {"f": "F"}),
    Row("renamed", [file("g", 1)], [node("F", "f", 1)], {"g": "F"}),
    Row("renamed and edited, known by its birth", [file("g", 1, "new", birth=7, mtime=2)],
        [node("F", "f", 1, birth=7)], {"g": "F"}),
    Row("renamed and edited without birth times is something new", [file("g", 1, "new", mtime=2)],
        [node("F", "f", 1)], {"g": "+g"}),
    Row("a reused inode with another birth is something new", [file("g", 1, birth=8)],
        [node("F", "f", 1, "y", birth=7)], {"g": "+g"}),
    Row("64 a safe save: another inode at the known path is an edit", [file("f", 2, "new")],
        [node("F", "f", 1)], {"f": "F"}),
    Row("64 a safe save through a backup: the name keeps the node", [file("f", 2, "new"), file("f~", 1)],
        [node("F", "f", 1)], {"f": "+f", "f~": "F"}),
    Row("35 two names swapped", [file("a", 2, "y"), file("b", 1, "x")],
        [node("A", "a", 1, "x"), node("B", "b", 2, "y")], {"a": "B", "b": "A"}),
    Row("42 moved over another file", [file("b", 1, "x")],
        [node("A", "a", 1, "x"), node("B", "b", 2, "y")], {"b": "A"}),
    Row("a vanished file with one new file of its content has moved", [file("g", 9)],
        [node("F", "f", 1)], {"g": "F"}),
    Row("with two new files of its content it has not", [file("g", 8), file("h", 9)],
        [node("F", "f", 1)], {"g": "+g", "h": "+h"}),
    Row("an empty file is not known by its content",
        [LocalEntry("g", LocalKind.FILE, stat(9, size=0), content_hash="")],
        [replace(node("F", "f", 1, ""), size=0)], {"g": "+g"}),
    Row("a copy is new, the original stays", [file("f", 1), file("g", 2)], [node("F", "f", 1)],
        {"f": "F", "g": "+g"}),
    Row("a file is no folder of its name", [folder("f", 1)], [node("F", "f", 1)], {"f": "+f"}),
    Row("49 the other spelling of a name is the same name", [file("e\u0301", 2)],
        [node("F", "\u00e9", 1, "y")], {"e\u0301": "F"}),
    Row("a folder renamed, with what is in it", [folder("e", 1), file("e/f", 2)],
        [folder_node("D", "d", 1), node("F", "f", 2, parent="D")], {"e": "D", "e/f": "F"}),
    Row("a file edited by a safe save in a renamed folder", [folder("e", 1), file("e/f", 9, "new")],
        [folder_node("D", "d", 1), node("F", "f", 2, parent="D")], {"e": "D", "e/f": "F"}),
    Row("a folder made anew at its place", [folder("d", 9), file("d/f", 8)],
        [folder_node("D", "d", 1), node("F", "f", 2, parent="D")], {"d": "D", "d/f": "F"}),
    Row("a folder renamed and one made at its old name, without birth times",
        [folder("old", 1), file("old/f", 2), folder("d", 9)],
        [folder_node("D", "d", 1), node("F", "f", 2, parent="D")], {"old": "D", "old/f": "F", "d": "+d"}),
    Row("two empty folders swapped, without birth times", [folder("a", 2), folder("b", 1)],
        [folder_node("A", "a", 1), folder_node("B", "b", 2)], {"a": "B", "b": "A"}),
    Row("files whose inodes were dealt out anew stay, if they are of one size and time",
        [file("a", 2, "x"), file("b", 3, "y"), file("c", 1, "z")],
        [node("A", "a", 1, "x"), node("B", "b", 2, "y"), node("C", "c", 3, "z")],
        {"a": "A", "b": "B", "c": "C"}),
    Row("twins whose inodes were dealt out anew stay", [file("a", 2), file("b", 1)],
        [node("A", "a", 1), node("B", "b", 2)], {"a": "A", "b": "B"}),
    Row("folders whose inodes were dealt out anew stay, with what is in them",
        [folder("d", 2), file("d/f", 4, "x"), folder("e", 1), file("e/f", 3, "y"), folder("e/s", 9),
         file("e/s/g", 1, "z")],
        [folder_node("D", "d", 1), node("DF", "f", 3, "x", parent="D"), folder_node("E", "e", 2),
         node("EF", "f", 4, "y", parent="E"), folder_node("S", "s", 5, parent="E"),
         node("G", "g", 8, "z", parent="S")],
        {"d": "D", "d/f": "DF", "e": "E", "e/f": "EF", "e/s": "S", "e/s/g": "G"}),
    Row("an edit while inodes were dealt out anew is one in place", [file("a", 2, "new"), file("b", 1, "y")],
        [node("A", "a", 1, "x"), node("B", "b", 2, "y")], {"a": "A", "b": "B"}),
    Row("two folders swapped that share a file, without birth times",
        [folder("d", 2), file("d/f", 4, "y"), file("d/licence", 6, "l"), folder("e", 1),
         file("e/f", 3, "x"), file("e/licence", 5, "l")],
        [folder_node("D", "d", 1), node("DF", "f", 3, "x", parent="D"),
         node("DL", "licence", 5, "l", parent="D"), folder_node("E", "e", 2),
         node("EF", "f", 4, "y", parent="E"), node("EL", "licence", 6, "l", parent="E")],
        {"d": "E", "d/f": "EF", "d/licence": "DL", "e": "D", "e/f": "DF", "e/licence": "EL"}),
    Row("a removed folder's inode given to another known one is no move", [folder("new", 1)],
        [folder_node("OLD", "old", 1), folder_node("NEW", "new", 1)], {"new": "NEW"}),
    Row("a folder replaced by a file that was in it", [file("d", 2), folder("aside", 1)],
        [folder_node("D", "d", 1), node("F", "f", 2, parent="D")], {"d": "F", "aside": "D"}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_identity(row: Row) -> None:
    assert bound(row.entries, row.nodes) == row.expect


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_identity_does_not_depend_on_the_order_of_the_scan(row: Row) -> None:
    assert bound(row.entries[::-1], row.nodes[::-1]) == row.expect


def held(entries: Sequence[LocalEntry], nodes: Sequence[SyncedNode], opaque: Sequence[str]) -> frozenset[str]:
    return identify({e.path: e for e in entries}, {n.id: n for n in nodes}, ROOT, opaque).held


DEEP = (folder_node("D", "d", 1), folder_node("E", "e", 2, parent="D"), node("F", "f", 3, parent="E"))


def test_what_was_below_an_unlisted_folder_is_held() -> None:
    assert held([folder("d", 1)], DEEP, ["d"]) == {"E", "F"}


def test_what_was_below_an_unlisted_folder_that_was_renamed_is_held() -> None:
    assert held([folder("x", 1)], DEEP, ["x"]) == {"E", "F"}


def test_what_was_below_a_folder_in_trouble_is_held() -> None:
    troubled = replace(folder("d", 1), trouble=Trouble("same_name", "another spelling is there"))
    assert held([troubled], DEEP, []) == {"E", "F"}


def test_an_unlisted_root_holds_everything() -> None:
    assert held([], DEEP, [""]) == {"D", "E", "F"}


def test_what_is_held_has_not_moved_to_a_new_file_of_its_content() -> None:
    nodes = (folder_node("D", "d", 1), node("F", "f", 3, parent="D"))
    assert bound([folder("d", 1), file("g", 9)], nodes, ["d"]) == {"d": "D", "g": "+g"}


def test_what_is_gone_from_a_listed_folder_is_not_held() -> None:
    assert held([folder("d", 1), folder("o", 7)], DEEP, ["o"]) == frozenset()


def test_of_two_spellings_the_one_not_in_trouble_has_the_name() -> None:
    troubled = replace(file("\u00e9", 8), trouble=Trouble("same_name", "another spelling is there"))
    assert bound([troubled, file("e\u0301", 9)], [node("F", "\u00e9", 1, "y")])["e\u0301"] == "F"


def test_a_memory_with_folders_in_a_ring_is_bound_by_inode() -> None:
    """Folders that change places are recorded one by one; a crash may come in between."""
    nodes = (folder_node("A", "a", 1, parent="B"), folder_node("B", "b", 2, parent="A"))
    assert bound([folder("b", 2), folder("b/a", 1)], nodes) == {"b": "B", "b/a": "A"}


def test_the_tree_knows_parents_by_key() -> None:
    entries = {e.path: e for e in (folder("new", 5), file("new/f", 1))}
    tree = identify(entries, {"F": node("F", "f", 1)}, ROOT)
    assert tree.nodes["F"].parent_key == "+new"
    assert tree.nodes["+new"].parent_key == ROOT
    assert (tree.path_of("F"), tree.path_of(ROOT), tree.path_of("X")) == ("new/f", "", None)


def test_join_knows_the_root() -> None:
    assert (join("", "f"), join("d", "f")) == ("f", "d/f")


@pytest.mark.parametrize(
    ("synced", "entry", "same"),
    [
        (node("F", "f", 1), file("f", 1), True),
        (node("F", "f", 1), file("f", 1, "y"), False),
        (node("F", "f", 1), replace(file("f", 1), content_hash=None), False),
        (folder_node("D", "d", 1), folder("d", 9), True),
    ],
)
def test_same_content(synced: SyncedNode, entry: LocalEntry, same: bool) -> None:
    assert same_content(synced, entry) is same
