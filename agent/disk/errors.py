"""What can go wrong on the disk: two questions only, is it still what was seen, can it be done.

    DiskError
    ├── MismatchError        what is there is not what was expected: look again
    │   ├── VanishedError    it is no longer there
    │   └── OccupiedError    the name is not free
    ├── BlockedError         permission, read-only, in use, input/output error: try again later
    ├── DiskFullError        no room, or no quota
    └── NameImpossibleError  this disk cannot hold the name, or the path is refused

Foreign `OSError`s are translated in one place, `translated`. An error is never a deletion:
`VanishedError` is raised only where the system said that the entry does not exist.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agent.model import Trouble


class DiskError(Exception):
    """The root: `code` is stable, `detail` is a sentence fit for a person to read."""

    default_code = "io_error"

    def __init__(self, detail: str, *, code: str | None = None, path: str = "") -> None:
        self.code = code or self.default_code
        self.detail = detail
        self.path = path
        super().__init__(f"{self.code}: {detail} ({path!r})")

    @property
    def trouble(self) -> Trouble:
        """The error as the reason that a path is not in step."""
        return Trouble(self.code, self.detail)


class MismatchError(DiskError):
    """What is there is not what was expected. Nothing was lost: look again and plan again."""

    default_code = "changed"


class VanishedError(MismatchError):
    """It is no longer there."""

    default_code = "vanished"


class OccupiedError(MismatchError):
    """The name is not free."""

    default_code = "occupied"


class BlockedError(DiskError):
    """The system does not let it be done now."""


class DiskFullError(DiskError):
    """No room or quota is left."""

    default_code = "disk_full"


class NameImpossibleError(DiskError):
    """The disk cannot hold the name, or the path may not be used."""

    default_code = "name_impossible"


_TABLE: Final[dict[int, tuple[type[DiskError], str, str]]] = {
    errno.ENOENT: (VanishedError, "vanished", "It is no longer there"),
    errno.EEXIST: (OccupiedError, "occupied", "Something else is there"),
    errno.ENOTEMPTY: (MismatchError, "not_empty", "The folder is not empty"),
    errno.ENOTDIR: (MismatchError, "not_a_folder", "Something that is not a folder stands in the way"),
    errno.ELOOP: (MismatchError, "not_a_folder", "A symbolic link stands in the way"),
    errno.EISDIR: (MismatchError, "changed", "It is a folder now"),
    errno.ENXIO: (MismatchError, "changed", "It is not a file"),
    errno.EACCES: (BlockedError, "permission_denied", "The system does not permit it"),
    errno.EPERM: (BlockedError, "permission_denied", "The system does not permit it"),
    errno.EROFS: (BlockedError, "read_only", "The disk is read-only"),
    errno.EBUSY: (BlockedError, "in_use", "It is in use"),
    errno.ETXTBSY: (BlockedError, "in_use", "It is a program that is running"),
    errno.EWOULDBLOCK: (BlockedError, "in_use", "It is in use"),
    errno.EXDEV: (BlockedError, "cross_device", "It lies on another disk"),
    errno.EMFILE: (BlockedError, "too_many_open_files", "Too many files are open"),
    errno.ENFILE: (BlockedError, "too_many_open_files", "Too many files are open"),
    errno.ENOSPC: (DiskFullError, "disk_full", "The disk is full"),
    errno.EDQUOT: (DiskFullError, "disk_full", "The disk quota is used up"),
    errno.EFBIG: (DiskFullError, "disk_full", "The disk cannot hold a file of this size"),
    errno.ENAMETOOLONG: (NameImpossibleError, "name_impossible", "The name is too long for this disk"),
    errno.EILSEQ: (NameImpossibleError, "name_impossible", "The disk cannot hold this name"),
    errno.EINVAL: (NameImpossibleError, "name_impossible", "The disk does not accept this name"),
}


def translate(error: OSError, path: str) -> DiskError:
    """Return the error of this tree that `error` means; what is unknown is "io_error"."""
    kind, code, detail = _TABLE.get(
        error.errno or 0, (BlockedError, "io_error", f"The disk reports: {error.strerror or error}")
    )
    return kind(detail, code=code, path=path)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise what the body raises as `OSError` as an error of this tree."""
    try:
        yield
    except OSError as error:
        raise translate(error, path) from error
