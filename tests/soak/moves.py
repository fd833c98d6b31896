"""What users do to places: moves, renames, deletions."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tests.soak.user import Hand, is_folder


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def rename(hand: Hand) -> bool:
    path = hand.pick(hand.step.pick)
    return path is not None and hand.move(path, path.with_name(hand.step.name))


def move(hand: Hand) -> bool:
    path, folder = hand.pick(hand.step.pick), hand.parent(hand.step.other)
    return path is not None and not _is_below(folder, path) and hand.move(path, folder / path.name)


def over(hand: Hand) -> bool:
    path, over = hand.file(), hand.file(hand.step.other)
    if path is None or over is None or path == over:
        return False
    if path.samefile(over):
        return False
    return hand.rename(path, over)


def swap(hand: Hand) -> bool:
    return turn_round(hand, [hand.pick(hand.step.pick), hand.pick(hand.step.other)])


def rotate(hand: Hand) -> bool:
    return turn_round(hand, [hand.pick(n) for n in (hand.step.pick, hand.step.other, hand.step.pick // 7)])


def turn_round(hand: Hand, paths: Iterable[Path | None]) -> bool:
    """Each takes the next one's place, through a spare name."""
    known = [path for path in paths if path is not None]
    if len(set(known)) < 2 or any(_is_below(p, q) for p in known for q in known if p is not q):
        return False
    spare = hand.spare(known[-1])
    hand.rename(known[-1], spare)
    for path, to in reversed(list(pairwise(known))):
        hand.rename(path, to)
    return hand.rename(spare, known[0])


def invert(hand: Hand) -> bool:
    """Turn `x/y` inside out: the child takes the folder's name, the folder goes into it."""
    child = hand.pick(hand.step.pick, is_folder)
    if child is None or child.parent == hand.user.folder:
        return False
    folder, spare = child.parent, hand.spare(child.parent)
    hand.rename(child, spare)
    if not hand.move(folder, spare / child.name):
        return hand.rename(spare, child)
    return hand.rename(spare, folder)


def lift(hand: Hand) -> bool:
    """Replace a folder by something that was in it."""
    child = hand.pick(hand.step.pick)
    if child is None or child.parent == hand.user.folder:
        return False
    folder, spare = child.parent, hand.spare(child.parent)
    return hand.rename(child, spare) and hand.remove(folder) and hand.rename(spare, folder)


def recase(hand: Hand) -> bool:
    path = hand.pick(hand.step.pick)
    return path is not None and hand.move(path, path.with_name(path.name.swapcase()))


def respell(hand: Hand) -> bool:
    """The same name in another Unicode form."""
    path = hand.pick(hand.step.pick, lambda p: p.name in {"\u00e9", "e\u0301"})
    if path is None:
        return False
    return hand.rename(path, path.with_name("e\u0301" if path.name == "\u00e9" else "\u00e9"))


def delete(hand: Hand) -> bool:
    path = hand.pick(hand.step.pick)
    return path is not None and hand.remove(path)


def deltree(hand: Hand) -> bool:
    path = hand.pick(hand.step.pick, is_folder)
    return path is not None and hand.remove(path)
