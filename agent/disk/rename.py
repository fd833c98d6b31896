"""Renames that never replace anything, and the exchange that finds a write of the last instant.

The order is always: take first, atomically, then look at what was taken. What is not what was
expected goes back to its place; where that is not free any more it is kept beside it; where even
that fails it stays in the agent's own folder, from which nothing is removed unseen.
"""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

from agent.disk import native
from agent.disk.errors import MismatchError
from agent.disk.look import Seen, Stop, check_content, check_signs, check_unused, look, look_inside
from agent.disk.native import Place, UnsupportedError
from agent.disk.root import components, sync_folder
from agent.model import LocalEntry, LocalKind
from libs.contracts.limits import MAX_NAME_BYTES
from libs.contracts.paths import cut_to_bytes, numbered_name, split_extension
from libs.runtime.logs import get_logger

log = get_logger("disk")

KeepName = Callable[[str], str]
"""Names the copy that is kept beside a name; ` 2`, ` 3` are added when that is taken."""

PRIVATE: Final = "swap."
"""How names of entries on their way in or out begin; downloads never have such a name."""
SECOND: Final = "second."
"""How the names begin that a file has for an instant beside the one it has been given."""
_TRIES: Final = 100
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


def kept_name(name: str) -> str:
    """Return `stem (kept).ext`: the name where a caller has no better one."""
    return numbered_name(name, "kept", lambda _: False)


def private_name(content_hash: str = "") -> str:
    """Return a name in the agent's own folder that nothing else has.

    With the hash of what is prepared under it: should the agent die, a file that still has that
    content is known to be the server's own bytes, and not what it was to replace.
    """
    name = PRIVATE + secrets.token_hex(8)
    return f"{name}.{content_hash}" if content_hash else name


def hash_of_prepared(kind: LocalKind, content: str) -> str:
    """Return the hash for `private_name` of a file with this hash, or of a link with this target."""
    return content if kind is LocalKind.FILE else hashlib.sha256(os.fsencode(content)).hexdigest()


def put(source: Place, target: Place, attic: int | None = None) -> None:
    """Rename `source` to `target`. Raises `FileExistsError` when something is there.

    `attic`: the agent's own folder, for a name between where the system has no such rename; without
    it that name is beside `source`, where it must be the agent's own already.
    """
    try:
        native.rename_noreplace(source, target)
    except UnsupportedError:
        _put_by_hand(source, target, source.fd if attic is None else attic)


def _put_by_hand(source: Place, target: Place, attic: int) -> None:
    seen = look(source)
    if seen is not None and seen.kind is LocalKind.FOLDER:
        # The system itself lets a folder replace nothing but an empty folder.
        if look(target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target.name)
        rename(source, target)
        return
    try:
        os.link(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _put_over_claim(source, target)
    else:
        _drop_second_name(source, look(target), attic)


def _drop_second_name(source: Place, linked: Seen | None, attic: int) -> None:
    """Remove the old name of a file that has a second one, unless another file has the old name now."""
    between = Place(attic, SECOND + secrets.token_hex(8))
    rename(source, between)
    if is_still_inode(between, linked):
        os.unlink(between.name, dir_fd=between.fd)
    else:
        give_back(between, source, kept_name)


def _put_over_claim(source: Place, target: Place) -> None:
    """Claim a free name by an empty file, then rename over that: for disks without hard links.

    RACE: a program that writes into the empty file within these microseconds writes to a file
    that has no name a moment later. Such a disk offers no other way to replace nothing.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(target.name, flags, 0o600, dir_fd=target.fd)
    try:
        rename(source, target)
    except BaseException:
        if is_still(target, look_inside(fd)) and os.fstat(fd).st_size == 0:
            os.unlink(target.name, dir_fd=target.fd)
        raise
    finally:
        os.close(fd)


def rename(source: Place, target: Place) -> None:
    """Rename to a name that only this process knows, or that is known to be its own."""
    os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)


def take(slot: Place, private: Place, expect: LocalEntry, keep: KeepName, stop: Stop) -> None:
    """Move what is at `slot` to `private`, a name that nothing else has, if it is `expect` to the last byte.

    Otherwise it is back at its place, or kept beside it, when the error is raised.
    """
    check_signs(slot, expect)
    if expect.kind is LocalKind.FILE:
        check_unused(slot, expect.path)
    rename(slot, private)
    try:
        check_content(private, expect, stop)
    except BaseException:
        give_back(private, slot, keep)
        raise


def swap(private: Place, slot: Place, expect: LocalEntry, keep: KeepName, stop: Stop) -> None:
    """Let the prepared entry at `private` replace `expect` at `slot`, which is gone afterwards.

    When something else is found, everything is as before, or what was found is kept beside.
    """
    check_signs(slot, expect)
    if expect.kind is LocalKind.FILE:
        check_unused(slot, expect.path)
    prepared = look(private)
    try:
        native.rename_exchange(private, slot)
    except UnsupportedError:
        _swap_by_taking(private, slot, expect, keep, stop)
        return
    try:
        check_content(private, expect, stop)
    except BaseException:
        _swap_back(private, slot, prepared, keep)
        raise
    os.unlink(private.name, dir_fd=private.fd)


def _swap_by_taking(private: Place, slot: Place, expect: LocalEntry, keep: KeepName, stop: Stop) -> None:
    """As `swap` where the system has no exchange: the name is free for an instant."""
    taken = Place(private.fd, private_name())
    check_content(slot, expect, stop)
    take(slot, taken, expect, keep, stop)
    try:
        put(private, slot)
    except FileExistsError:
        # The user made a new file: it stays, and what it replaced is a version on the server.
        os.unlink(taken.name, dir_fd=taken.fd)
        raise
    except BaseException:
        give_back(taken, slot, keep)
        raise
    os.unlink(taken.name, dir_fd=taken.fd)


def _swap_back(private: Place, slot: Place, prepared: Seen | None, keep: KeepName) -> None:
    """Undo an exchange; `private` holds what the user has, `slot` the prepared entry, if nobody moved it."""
    try:
        if is_still(slot, prepared):
            native.rename_exchange(private, slot)
            if is_still(private, prepared):
                sync_folder(slot)
                return
    except (OSError, UnsupportedError) as error:
        log.warning("an exchange could not be undone", name=slot.name, error=str(error))
    # The user has changed or moved the new entry already: both are kept.
    give_back(private, slot, keep)


def is_still(place: Place, seen: Seen | None) -> bool:
    """Say whether `seen` is at the place, its content not written to since (a rename may have been)."""
    now = look(place)
    return (
        now is not None
        and seen is not None
        and now.kind is seen.kind
        and now.stat.same_content_signs(seen.stat)
    )


def is_still_inode(place: Place, seen: Seen | None) -> bool:
    """Say whether the very entry that was seen is at the place, whatever was written to it since."""
    now = look(place)
    return (
        now is not None
        and seen is not None
        and (now.kind, now.stat.dev, now.stat.ino) == (seen.kind, seen.stat.dev, seen.stat.ino)
    )


def give_back(private: Place, slot: Place, keep: KeepName) -> None:
    """Put what was taken back into its place, or beside it; it is never dropped.

    Raises nothing: when no name can be had it stays in the agent's own folder, and the log says so.
    """
    try:
        name = _free_place(private, slot, keep)
    except Exception:  # whatever it is, the file must not go with it
        log.exception("a file stays in the agent's folder", kept=private.name, was=slot.name)
        return
    if name != slot.name:
        log.warning("a file that changed in the last instant was kept beside", was=slot.name, kept=name)
    with suppress(OSError):
        sync_folder(slot)


def _free_place(private: Place, slot: Place, keep: KeepName) -> str:
    for name in chain([slot.name], _names_beside(slot.name, keep)):
        with suppress(FileExistsError):
            put(private, Place(slot.fd, name))
            return name
    raise MismatchError("No free name was found for a copy")


def _names_beside(name: str, keep: KeepName) -> Iterator[str]:
    kept = keep(name)
    if len(components(kept)) != 1:
        raise MismatchError("The name for a copy is not a name")
    yield kept
    stem, extension = split_extension(kept)
    for number in range(2, _TRIES):
        end = f" {number}{extension}"
        room = MAX_NAME_BYTES - len(end.encode())
        yield cut_to_bytes(stem, room) + end


def swap_visible(one: Place, other: Place, attic: int) -> None:
    """Let two entries change places without an exchange, over a visible name.

    A crash in between leaves a renamed entry, which the next scan recognises by its inode.
    """
    between = Place(one.fd, f"{other.name[:40]}.{secrets.token_hex(4)}")
    put(one, between, attic)
    try:
        put(other, one, attic)
    except BaseException:
        give_back(between, one, kept_name)
        raise
    try:
        put(between, other, attic)
    except BaseException:
        give_back(between, other, kept_name)
        raise
