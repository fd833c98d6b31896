"""System calls that Python does not offer: renames with a condition, time of birth, leases, early writing.

Linux: `renameat2(2)`, `statx(2)`, `fcntl(2)` leases, `sync_file_range(2)`. macOS: `renameatx_np(2)`.
Where the system or the file system does not know a rename's condition, `UnsupportedError` is raised and
the caller takes another way.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import sys
from typing import Any, Final, NamedTuple

_LINUX: Final = sys.platform.startswith("linux")
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NOREPLACE: Final = 1 if _LINUX else 4
"""RENAME_NOREPLACE of Linux, RENAME_EXCL of macOS."""
_EXCHANGE: Final = 2
"""RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS."""
_NOT_OFFERED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX_MASK_AT: Final = 0
_STATX_INO_AT: Final = 32
_STATX_BTIME_AT: Final = 80


class Place(NamedTuple):
    """A name in the folder that a descriptor holds open: what every system call here is given."""

    fd: int
    name: str


class UnsupportedError(Exception):
    """This system or this file system does not offer the call."""


def _function(name: str, *arguments: Any) -> Any:
    function = getattr(_LIBC, name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, ctypes.c_int
    return function


_RENAME: Final = _function(
    "renameat2" if _LINUX else "renameatx_np",
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
)  # fmt: skip
_STATX: Final = _function(
    "statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
)

_SYNC_FILE_RANGE: Final = _function(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)
_SYNC_WRITE: Final = 2
"""SYNC_FILE_RANGE_WRITE: begin to write, and wait for nothing."""


def rename_noreplace(source: Place, target: Place) -> None:
    """Rename `source` to `target` unless something is there.

    Raises `FileExistsError` then, `UnsupportedError`, or another `OSError`.
    """
    _rename(source, target, _NOREPLACE)


def rename_exchange(one: Place, other: Place) -> None:
    """Let two entries change places in one step. Raises `UnsupportedError` or `OSError`."""
    _rename(one, other, _EXCHANGE)


def _rename(source: Place, target: Place, flags: int) -> None:
    if _RENAME is None:
        raise UnsupportedError
    result = _RENAME(source.fd, os.fsencode(source.name), target.fd, os.fsencode(target.name), flags)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        raise UnsupportedError
    raise OSError(number, os.strerror(number), source.name, None, target.name)


def birth_ns(fd: int, name: str, inode: int) -> int | None:
    """Return the time of birth of `name` in the folder `fd`, or of `fd` itself for no name.

    None where it is not known, or when the entry is no longer the one with this inode.
    """
    if _STATX is None:
        return None
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH
    if _STATX(fd, os.fsencode(name), flags, _STATX_BTIME | 0x100, buffer) != 0:
        return None
    (mask,) = struct.unpack_from("=I", buffer, _STATX_MASK_AT)
    (found,) = struct.unpack_from("=Q", buffer, _STATX_INO_AT)
    seconds, fraction = struct.unpack_from("=qI", buffer, _STATX_BTIME_AT)
    return seconds * 1_000_000_000 + fraction if mask & _STATX_BTIME and found == inode else None


def open_for_writing(fd: int) -> bool:
    """Say whether any process holds the file of the read-only descriptor `fd` open for writing.

    The kernel grants a read lease only when nobody does. False where leases are not offered
    (network disks, other people's files): there it cannot be known. The lease is given back at
    once; the signal of a broken one is set to SIGURG, which is ignored by default.

    RACE: a program that opens the file for writing in between waits these few microseconds; one
    that opens it with O_NONBLOCK is told to try again.
    """
    if not _LINUX:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return False


def start_writing(fd: int, offset: int, length: int) -> None:
    """Have the system begin to write a part of a file to the disk, so that a later `fsync` is short.

    Promises nothing and raises nothing: where it is not offered, or fails, `fsync` does it all and tells.
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(fd, offset, length, _SYNC_WRITE)
