"""What users do to contents: each verb is a small program that works on real files."""

import mmap
import os
import shutil
import stat as modes
import time
from pathlib import Path
from typing import Final

from tests.soak import moves
from tests.soak.content import Author, compose, hash_of, lines_of, record, with_hole
from tests.soak.user import Hand, Verb

_TIMES: Final = (
    0, 1, -1, -1_000_000_001, 999_999_999, 1_600_000_000_123_456_789,
    2**32 * 10**9 + 7, 1_700_000_000 * 10**9,
)  # fmt: skip
"""Odd times of modification, in nanoseconds: before 1970, beyond 2106, with and without fractions."""


# Verbs: new things ------------------------------------------------------------------------------


def _create(hand: Hand) -> bool:
    path = hand.new_path()
    return path is not None and hand.put_new(path, hand.content())


def _shared(hand: Hand) -> bool:
    """What several users write alike."""
    path, number = hand.new_path(), hand.step.pick % 3
    if path is None:
        return False
    content = compose(Author("all", number, ""), 100 * number)
    hand.ledger.copy([hash_of(content)])
    return hand.put_new(path, content)


def _mkdir(hand: Hand) -> bool:
    path = hand.new_path()
    if path is None:
        return False
    path.mkdir()
    hand.named(path)
    return True


def _link(hand: Hand) -> bool:
    path = hand.new_path()
    return path is not None and _make_link(hand, path)


def _make_link(hand: Hand, path: Path) -> bool:
    target = f"to-{hand.user.name}-{hand.step.number}"
    path.symlink_to(target)
    hand.ledger.wrote(f"-> {target}", f"{hand.user.name} step {hand.step.number}")
    hand.named(path)
    return True


def _copy(hand: Hand) -> bool:
    source, path = hand.file(), hand.new_path()
    if source is None or path is None:
        return False
    content = source.read_bytes()
    hand.ledger.copy([hash_of(content)])
    return hand.put_new(path, content)


def _hardlink(hand: Hand) -> bool:
    source, path = hand.file(), hand.new_path()
    if source is None or path is None:
        return False
    hand.ledger.copy(hand.user.contents_of(source))
    path.hardlink_to(source)
    hand.named(path)
    return True


def _deep(hand: Hand) -> bool:
    top = hand.parent(hand.step.other) / f"deep{hand.step.number}"
    path = top.joinpath(*["d"] * (4 + hand.step.pick % 30))
    if not hand.fits(top):
        return False
    path.mkdir(parents=True)
    return hand.put_new(path / "leaf", hand.content())


def _hole(hand: Hand) -> bool:
    path = hand.new_path()
    if path is None:
        return False
    hole = 4096 * (1 + hand.step.pick % 300)
    content, start = with_hole(hand.author, hole)
    with path.open("xb") as file:
        file.write(content[:start])
        file.seek(start + hole)
        file.write(content[start + hole :])
    hand.record_of(path, content)
    return True


def _fifo(hand: Hand) -> bool:
    path = hand.parent(hand.step.other) / f"pipe{hand.step.number}"
    hand.named(path)
    os.mkfifo(hand.at(str(path.relative_to(hand.user.folder))))
    return True


def _unpack(hand: Hand) -> bool:
    """A tree of small files at once, with times of its own, as `tar x` writes it."""
    top = hand.parent(hand.step.other) / f"pack{hand.step.number}"
    if not hand.fits(top):
        return False
    for index in range(5 + hand.step.pick % 25):
        path = hand.at(f"{top.relative_to(hand.user.folder)}/m{index % 4}/f{index}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = compose(Author(f"{hand.user.name}.{index}", hand.step.number, hand.user.seed), index * 40)
        path.write_bytes(content)
        os.utime(path, (1_500_000_000, 1_500_000_000 + index))
        hand.record_of(path, content)
    return True


def _slow(hand: Hand) -> bool:
    """A file that is written piece by piece, held open all the time."""
    path = hand.new_path()
    if path is None:
        return False
    content = compose(hand.author, 3000, records=6)
    starts = [offset for offset, _ in lines_of(content)]
    with path.open("xb", buffering=0) as file:
        for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
            file.write(content[start:end])
            time.sleep(0.02)  # its pace, which nothing waits for
    hand.record_of(path, content)
    return True


# Verbs: changed contents ------------------------------------------------------------------------


def _edit(hand: Hand) -> bool:
    path = hand.file()
    return path is not None and hand.change(path, lambda _: hand.content())


def _rewrite(hand: Hand) -> bool:
    """Truncate and write, as most programs do."""
    path = hand.file()
    if path is None:
        return False
    with path.open("r+b") as file:
        before, after = file.read(), hand.content()
        file.truncate(0)
        file.seek(0)
        file.write(after)
    hand.record_of(path, after, before)
    return True


def _append(hand: Hand) -> bool:
    path = hand.file()

    def longer(before: bytes) -> bytes:
        lines = lines_of(before)
        last = lines[-1][1] if lines else b""
        return before + record(hand.author, hand.author.bytes(hand.step.size), last)

    return path is not None and hand.change(path, longer)


def _truncate(hand: Hand) -> bool:
    """Cut off the last record; nothing when that leaves nothing (an empty file is nobody's)."""
    path = hand.file()

    def shorter(before: bytes) -> bytes:
        lines = lines_of(before)
        return before[: lines[-1][0]] if len(lines) > 1 else before

    if path is None:
        return False
    hand.ledger.copy([hash_of(shorter(path.read_bytes()))])
    return hand.change(path, shorter)


def _mmap(hand: Hand) -> bool:
    """Other bytes of the same length, written through memory."""
    path = hand.file()
    if path is None:
        return False
    with path.open("r+b") as file:
        before = file.read()
        after = _of_length(hand.author, len(before))
        if after is None:
            return False
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:] = after
    hand.record_of(path, after, before)
    return True


def _of_length(author: Author, length: int) -> bytes | None:
    for size in range(max(0, length - 120), length):
        content = compose(author, size)
        if len(content) == length:
            return content
    return None


def _save(hand: Hand) -> bool:
    """Write a file beside it and rename that over it."""
    path = hand.file()
    if path is None:
        return False
    before, after = path.read_bytes(), hand.content()
    name = f".goutputstream-{hand.step.number}" if hand.step.other % 2 else f"lu{hand.step.number}.tmp"
    beside = path.with_name(name)
    hand.named(beside)
    beside.write_bytes(after)
    shutil.copymode(path, beside)
    _put_over(beside, path)
    hand.record_of(path, after, before)
    return True


def _put_over(beside: Path, path: Path) -> None:
    try:
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _backup(hand: Hand) -> bool:
    """Rename the old file to `name~`, write a new one, remove the old: what Vim does."""
    path = hand.file()
    if path is None or len(path.name.encode()) > 200:
        return False
    backup = path.with_name(path.name + "~")
    hand.named(backup)
    path.rename(backup)
    before, after = backup.read_bytes(), hand.content()
    try:
        path.write_bytes(after)
    finally:
        backup.unlink()
    hand.record_of(path, after, before)
    return True


def _recreate(hand: Hand) -> bool:
    path = hand.file()
    return path is not None and hand.remove(path) and hand.put_new(path, hand.content())


def _turn(kind: str) -> Verb:
    """Replace what is there by something of another kind under the same name."""

    def verb(hand: Hand) -> bool:
        path = hand.pick(hand.step.pick)
        if path is None:
            return False
        hand.remove(path)
        if kind == "link":
            return _make_link(hand, path)
        if kind == "file":
            return hand.put_new(path, hand.content())
        path.mkdir()
        return True

    return verb


def _chmod(hand: Hand) -> bool:
    path = hand.file()
    if path is None:
        return False
    path.chmod(modes.S_IMODE(path.stat().st_mode) ^ 0o111)
    return True


def _readonly(hand: Hand) -> bool:
    path = hand.file()
    if path is None:
        return False
    path.chmod(modes.S_IMODE(path.stat().st_mode) ^ 0o222)
    return True


def _touch(hand: Hand) -> bool:
    path = hand.file()
    if path is None:
        return False
    moment = _TIMES[hand.step.other % len(_TIMES)] + hand.step.pick
    os.utime(path, ns=(moment, moment))
    return True


VERBS: Final[dict[str, Verb]] = {
    "create": _create, "mkdir": _mkdir, "link": _link, "shared": _shared, "edit": _edit,
    "rewrite": _rewrite, "append": _append, "truncate": _truncate, "mmap": _mmap, "save": _save,
    "backup": _backup, "copy": _copy, "hardlink": _hardlink, "rename": moves.rename, "move": moves.move,
    "over": moves.over, "swap": moves.swap, "rotate": moves.rotate, "invert": moves.invert,
    "lift": moves.lift,
    "recase": moves.recase, "respell": moves.respell, "delete": moves.delete, "deltree": moves.deltree,
    "recreate": _recreate, "to_file": _turn("file"), "to_folder": _turn("folder"),
    "to_link": _turn("link"), "chmod": _chmod, "readonly": _readonly, "touch": _touch,
    "deep": _deep, "hole": _hole, "fifo": _fifo, "unpack": _unpack, "slow": _slow,
}  # fmt: skip
