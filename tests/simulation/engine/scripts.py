"""Small stories with an exact course, to be cut off at every step.

Each is told twice: what is there before (agreed on by both devices), and what the users do then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.model import LocalKind
from tests.simulation.engine import contents
from tests.simulation.world import User

Deed = Callable[[User], object]


@dataclass(frozen=True, slots=True)
class Script:
    """`before` is done by A; then A does `here` and B does `there`, unseen by each other."""

    before: tuple[Deed, ...]
    here: tuple[Deed, ...] = ()
    there: tuple[Deed, ...] = ()
    since: tuple[Deed, ...] = ()
    """What A does, and both agree on, between `before` and the rest."""
    restored: tuple[str, ...] = ()
    """Paths whose older version is made the current one at the server, last of all."""


def file(path: str) -> Deed:
    return lambda user: user.create(path)


def large(path: str) -> Deed:
    """Make a file of which an edit travels as a difference."""
    return lambda user: user.create(path, contents.large(f"book {path}"))


def copy(path: str, to: str) -> Deed:
    return lambda user: user.copy(path, to)


def folder(path: str) -> Deed:
    return lambda user: user.mkdir(path)


def link(path: str) -> Deed:
    return lambda user: user.create(path, kind=LocalKind.SYMLINK)


def edit(path: str) -> Deed:
    return lambda user: user.edit(path)


def save(path: str) -> Deed:
    return lambda user: user.safe_save(path)


def delete(path: str) -> Deed:
    return lambda user: user.delete(path)


def move(path: str, to: str) -> Deed:
    return lambda user: user.move(path, to)


def swap(*paths: str) -> Deed:
    return lambda user: user.rotate(paths)


def turn(path: str, kind: LocalKind) -> Deed:
    return lambda user: user.turn(path, kind)


def touch(path: str) -> Deed:
    return lambda user: user.touch(path, executable=True)


_BOOKS: Final = (folder("f"), file("f/x"), large("k"), large("f/l"))
_TREE: Final = (folder("f"), file("f/x"), file("f/y"), folder("f/g"), file("f/g/z"), file("a"), file("b"))

SCRIPTS: Final[dict[str, Script]] = {
    "new things": Script((), (*_TREE, link("l"))),
    "an edit": Script(_TREE, (edit("a"), save("f/x"), touch("b"))),
    "two edits": Script(_TREE, (edit("a"), save("f/x")), (edit("a"), edit("f/x"))),
    "two new files": Script(
        _TREE, (file("n"), folder("m"), file("m/q")), (file("n"), folder("m"), file("m/q"))
    ),
    "an edit and a deletion": Script(_TREE, (edit("a"), edit("f/g/z")), (delete("a"), delete("f"))),
    "a move and an edit": Script(_TREE, (move("a", "f/a"), move("f/g", "g")), (edit("a"), edit("f/g/z"))),
    "a rotation": Script(_TREE, (swap("a", "b", "f/x"), swap("f/g", "f/y"))),
    "a renamed folder and a new file in it": Script(_TREE, (move("f", "h"),), (file("f/new"), edit("f/g/z"))),
    "folders moved into each other": Script(
        (*_TREE, folder("k"), file("k/w")), (move("f", "k/f"),), (move("k", "f/k"),)
    ),
    "a deleted folder and what is new in it": Script(_TREE, (delete("f"),), (file("f/g/new"), edit("f/x"))),
    "another kind": Script(
        (*_TREE, link("l")),
        (turn("a", LocalKind.FOLDER), turn("f/g", LocalKind.FILE), turn("l", LocalKind.FILE)),
        (edit("a"), edit("f/g/z"), edit("l")),
    ),
    "a folder inside out": Script(
        _TREE,
        (move("f/g", "aside"), move("f", "aside/g"), move("aside", "f")),
        (edit("f/g/z"), file("f/new")),
    ),
    "over an existing name": Script(
        _TREE, (move("a", "b"), move("f/x", "f/y")), (edit("b"), move("f/y", "y"))
    ),
    "edits of large files": Script(_BOOKS, (edit("k"), save("f/l"))),
    "two edits of a large file": Script(_BOOKS, (edit("k"),), (save("k"),)),
    "a copy, and a changed one, of a large file": Script(
        _BOOKS, (copy("k", "same"), copy("f/l", "other"), edit("other"))
    ),
    "a copy of a changed copy of a large file": Script(
        _BOOKS, (copy("k", "one"), edit("one"), copy("one", "two"), edit("two"))
    ),
    "a large file saved under another name": Script(
        (*_BOOKS, folder("g"), large("g/m")), (copy("g/m", "f/renamed"), edit("f/renamed"), delete("g"))
    ),
    "an older version of a large file": Script(_BOOKS, since=(edit("k"),), restored=("k",)),
}
