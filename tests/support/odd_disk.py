"""A disk that is not like ext4, mounted for real: a file system in memory behind /dev/fuse.

It speaks the kernel's protocol itself, so it needs no library; mounting needs root. The file
system is a process of its own, because one that serves the very process that waits for it stands
still. `python -m tests.support.odd_disk MOUNTPOINT --fold-case …` serves until its standard input
ends; `OddDisk` does that for a test. `Quirks` says in which ways it is odd.
"""

import argparse
import errno
import os
import select
import stat as modes
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Final

from tests.support.mounts import mount, unmount, why_no_mounts

DEVICE: Final = Path("/dev/fuse")
_REPO: Final = Path(__file__).resolve().parents[2]
_BLOCK: Final = 4096
_MAX_WRITE: Final = 128 * 1024
_ROOT: Final = 1
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_COARSE_NS: Final = 2_000_000_000
_REFUSED: Final = frozenset('\\:*?"<>|')


def why_not() -> str | None:
    """Say why such a disk cannot be mounted here; None when it can."""
    if not DEVICE.exists():
        return "there is no /dev/fuse"
    return why_no_mounts() or _why_no_fuse()


def _why_no_fuse() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.close(_mount(Path(folder)))
        except OSError as error:
            return f"mounting is not permitted: {error.strerror}"
        unmount(Path(folder))
    return None


def _mount(target: Path) -> int:
    """Mount and return the descriptor on which the kernel asks."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    try:
        mount("odd", target, "fuse.odd", options)
    except OSError:
        os.close(fd)
        raise
    return fd


@dataclass(frozen=True, slots=True)
class Quirks:
    """What is odd about a disk; without any it behaves like a plain one."""

    fold_case: bool = False
    """`A` and `a` are one name; the spelling it was made with is kept (APFS, NTFS)."""
    fold_forms: bool = False
    """Composed and decomposed accents are one name (APFS)."""
    store_decomposed: bool = False
    """Names are listed in NFD, however they were made (HFS+)."""
    no_rename_flags: bool = False
    """Renames know no condition and no exchange."""
    coarse_times: bool = False
    """Times are multiples of two seconds (FAT)."""
    refuse_names: bool = False
    r"""No `:`, `\` and the like, and no dot or space at the end (FAT, NTFS)."""
    no_symlinks: bool = False
    no_hard_links: bool = False
    fixed_modes: bool = False
    """Every file is 0755 and a change of that is refused (FAT)."""
    deaf_modes: bool = False
    """Every file is 0644 and a change of that is silently not made (some network disks)."""
    new_inodes: bool = False
    """Inode numbers are others after each mount (FAT, many network disks)."""

    def key(self, name: str) -> str:
        """Return the form in which names are compared."""
        if self.fold_forms or self.store_decomposed:
            name = unicodedata.normalize("NFD", name)
        return name.casefold() if self.fold_case else name

    def stored(self, name: str) -> str:
        """Return the form in which a name is kept, or raise what the disk says of it."""
        if self.refuse_names and (_REFUSED & set(name) or name[-1] in ". "):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return unicodedata.normalize("NFD", name) if self.store_decomposed else name

    def mode(self, mode: int) -> int:
        """Return the mode that a file is given."""
        if modes.S_ISREG(mode) and (self.fixed_modes or self.deaf_modes):
            return modes.S_IFREG | (0o755 if self.fixed_modes else 0o644)
        return mode

    def time(self, nanoseconds: int) -> int:
        """Return a time as the disk keeps it."""
        return nanoseconds // _COARSE_NS * _COARSE_NS if self.coarse_times else nanoseconds

    def options(self) -> list[str]:
        """Return them as options of this module's command."""
        return [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name)]


# The side of the test ---------------------------------------------------------------------------


class OddDisk:
    """A mounted odd disk; `remount` is what happens when it is unplugged and plugged in again."""

    def __init__(self, mountpoint: Path, process: "subprocess.Popen[str]") -> None:
        self.path = mountpoint
        self._process = process

    def unmount(self) -> None:
        """Take the disk away; what is on it stays."""
        self._tell("unmount")

    def mount(self) -> None:
        """Bring it back, under another device number."""
        self._tell("mount")

    def remount(self) -> None:
        """Take it away and bring it back."""
        self.unmount()
        self.mount()

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def odd_disk(mountpoint: Path, quirks: Quirks) -> Iterator[OddDisk]:
    """Mount such a disk, empty, for the body."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.odd_disk", str(mountpoint), *quirks.options()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_REPO,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "done\n", "the disk could not be mounted"
        yield OddDisk(mountpoint, process)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        unmount(mountpoint)
        process.stdout.close()


# The file system --------------------------------------------------------------------------------


@dataclass(eq=False)
class Node:
    """One file, folder or link in memory."""

    id: int
    """The number by which the kernel knows it."""
    ino: int
    mode: int
    children: dict[str, tuple[str, "Node"]] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    links: int = 1
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    listing: list[tuple[str, "Node"]] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return modes.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        return len(self.target) if modes.S_ISLNK(self.mode) else len(self.data)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Tree:
    """The files, and what can be done with them."""

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks
        self._ids = count(_ROOT)
        self._inodes = count(1000)
        self.nodes: dict[int, Node] = {}
        self.new_node(modes.S_IFDIR | 0o755)

    def new_node(self, mode: int) -> Node:
        node = Node(next(self._ids), next(self._inodes), self.quirks.mode(mode))
        self.nodes[node.id] = node
        node.atime = node.mtime = node.ctime = self.quirks.time(time.time_ns())
        return node

    def renumber(self) -> None:
        """Give every entry the inode number of another, as at a mount of a disk that keeps none.

        Such numbers are often given in the order in which entries are asked for, so they are small
        and others had them before.
        """
        for is_folder in (False, True):
            nodes = [node for node in self.nodes.values() if node.is_folder == is_folder]
            numbers = [node.ino for node in nodes]
            for node, number in zip(nodes, [*numbers[1:], *numbers[:1]], strict=True):
                node.ino = number

    def find(self, folder: Node, name: str) -> Node:
        try:
            return folder.children[self.quirks.key(name)][1]
        except KeyError:
            raise _error(errno.ENOENT) from None

    def add(self, folder: Node, name: str, node: Node) -> Node:
        key = self.quirks.key(name)
        if key in folder.children:
            raise _error(errno.EEXIST)
        folder.children[key] = (self.quirks.stored(name), node)
        self._changed(folder)
        return node

    def _changed(self, folder: Node) -> None:
        folder.mtime = folder.ctime = self.quirks.time(time.time_ns())

    def remove(self, folder: Node, name: str, *, is_folder: bool) -> None:
        node = self.find(folder, name)
        if node.is_folder != is_folder:
            raise _error(errno.EISDIR if node.is_folder else errno.ENOTDIR)
        if node.children:
            raise _error(errno.ENOTEMPTY)
        del folder.children[self.quirks.key(name)]
        node.links -= 1
        self._changed(folder)

    def link(self, node: Node, folder: Node, name: str) -> Node:
        if self.quirks.no_hard_links:
            raise _error(errno.EPERM)
        node.links += 1
        return self.add(folder, name, node)

    def rename(self, source: Node, old: str, target: Node, new: str, flags: int) -> None:
        if flags and self.quirks.no_rename_flags:
            raise _error(errno.EINVAL)
        stored, node = self.quirks.stored(new), self.find(source, old)
        there = target.children.get(self.quirks.key(new))
        if flags & _EXCHANGE:
            if there is None:
                raise _error(errno.ENOENT)
            source.children[self.quirks.key(old)] = (self.quirks.stored(old), there[1])
        else:
            self._make_way(node, target, new, there, flags)
            del source.children[self.quirks.key(old)]
        target.children[self.quirks.key(new)] = (stored, node)
        node.ctime = self.quirks.time(time.time_ns())
        self._changed(source)
        self._changed(target)

    def _make_way(
        self, node: Node, target: Node, new: str, there: tuple[str, Node] | None, flags: int
    ) -> None:
        if there is None or there[1] is node:
            return
        if flags & _NOREPLACE:
            raise _error(errno.EEXIST)
        self.remove(target, new, is_folder=node.is_folder)

    def set_mode(self, node: Node, mode: int) -> None:
        if modes.S_ISREG(node.mode) and self.quirks.fixed_modes and mode & 0o777 != node.mode & 0o777:
            raise _error(errno.EPERM)
        node.mode = self.quirks.mode(modes.S_IFMT(node.mode) | modes.S_IMODE(mode))


# The kernel's protocol (linux/fuse.h) -----------------------------------------------------------

_IN: Final = struct.Struct("<IIQQIIIHH")
_OUT: Final = struct.Struct("<IiQ")
_SETATTR: Final = struct.Struct("<IIQQQQQQIIIIIIII")
_SET_MODE, _SET_SIZE, _SET_ATIME, _SET_MTIME = 1, 8, 16, 32
_SET_ATIME_NOW, _SET_MTIME_NOW = 128, 256
_SILENT: Final = frozenset({2, 36, 42})
"""FORGET, INTERRUPT, BATCH_FORGET: never answered."""
_INIT: Final = 26
_DESTROY: Final = 38

Answer = Callable[[Node, bytes], bytes]


class Server:
    """Answers the kernel's requests on one mounted descriptor after the other."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._answers: dict[int, Answer] = {
            1: self._lookup, 3: self._getattr, 4: self._setattr, 5: lambda node, _: node.target,
            6: self._symlink, 8: self._mknod, 9: self._mkdir, 10: self._unlink, 11: self._rmdir,
            12: self._rename, 13: self._link, 14: self._open, 15: self._read, 16: self._write,
            17: self._statfs, 18: self._nothing, 20: self._nothing, 27: self._opendir, 28: self._readdir,
            29: self._nothing, 30: self._nothing, 35: self._create, 45: self._rename2,
        }  # fmt: skip

    def answer(self, request: bytes) -> bytes | None:
        """Return the answer to one request; None when none is expected."""
        _, opcode, unique, node_id, *_ = _IN.unpack_from(request)
        body = request[_IN.size :]
        if opcode in _SILENT:
            return None
        try:
            said = self._init(body) if opcode == _INIT else self._call(opcode, node_id, body)
        except OSError as error:
            return _OUT.pack(_OUT.size, -(error.errno or errno.EIO), unique)
        return _OUT.pack(_OUT.size + len(said), 0, unique) + said

    def _call(self, opcode: int, node_id: int, body: bytes) -> bytes:
        if opcode == _DESTROY:
            return b""
        if opcode not in self._answers:
            raise _error(errno.ENOSYS)
        node = self._tree.nodes.get(node_id)
        if node is None:
            raise _error(errno.ESTALE)
        return self._answers[opcode](node, body)

    def _init(self, body: bytes) -> bytes:
        _, _, readahead, flags = struct.unpack_from("<IIII", body)
        wanted = flags & (1 << 0 | 1 << 5)
        return struct.pack("<IIIIHHIIHHIIIIIIII", 7, 31, readahead, wanted, 12, 9, _MAX_WRITE, 1, *[0] * 10)

    def _nothing(self, _node: Node, _body: bytes) -> bytes:
        return b""

    def _attributes(self, node: Node) -> bytes:
        times = (node.atime, node.mtime, node.ctime)
        return struct.pack(
            "<QQQQQQIIIIIIIIII",
            node.ino, node.size, -(-node.size // 512), *(t // 10**9 for t in times),
            *(t % 10**9 for t in times), node.mode, max(1, node.links), 0, 0, 0, _BLOCK, 0,
        )  # fmt: skip

    def _entry(self, node: Node) -> bytes:
        """An entry that the kernel asks about again each time: it keeps no spelling of its own."""
        return struct.pack("<QQQQII", node.id, 0, 0, 0, 0, 0) + self._attributes(node)

    def _getattr(self, node: Node, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _setattr(self, node: Node, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, *_ = _SETATTR.unpack_from(body)
        now = time.time_ns()
        if valid & _SET_MODE:
            self._tree.set_mode(node, mode)
        if valid & _SET_SIZE:
            node.data[size:] = bytes(max(0, size - len(node.data)))
            node.mtime = self._tree.quirks.time(now)
        if valid & _SET_ATIME:
            node.atime = self._tree.quirks.time(now if valid & _SET_ATIME_NOW else atime * 10**9 + atime_ns)
        if valid & _SET_MTIME:
            node.mtime = self._tree.quirks.time(now if valid & _SET_MTIME_NOW else mtime * 10**9 + mtime_ns)
        node.ctime = self._tree.quirks.time(now)
        return self._getattr(node, body)

    def _lookup(self, node: Node, body: bytes) -> bytes:
        return self._entry(self._tree.find(node, _names(body)[0]))

    def _made(self, folder: Node, name: str, mode: int) -> Node:
        self._tree.quirks.stored(name)
        if self._tree.quirks.key(name) in folder.children:
            raise _error(errno.EEXIST)
        return self._tree.add(folder, name, self._tree.new_node(mode))

    def _symlink(self, node: Node, body: bytes) -> bytes:
        if self._tree.quirks.no_symlinks:
            raise _error(errno.EPERM)
        name, target = _names(body)
        made = self._made(node, name, modes.S_IFLNK | 0o777)
        made.target = os.fsencode(target)
        return self._entry(made)

    def _mknod(self, node: Node, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._made(node, _names(body[16:])[0], mode))

    def _mkdir(self, node: Node, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._made(node, _names(body[8:])[0], modes.S_IFDIR | mode))

    def _create(self, node: Node, body: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        made = self._made(node, _names(body[16:])[0], modes.S_IFREG | modes.S_IMODE(mode))
        return self._entry(made) + struct.pack("<QII", 0, 0, 0)

    def _unlink(self, node: Node, body: bytes) -> bytes:
        self._tree.remove(node, _names(body)[0], is_folder=False)
        return b""

    def _rmdir(self, node: Node, body: bytes) -> bytes:
        self._tree.remove(node, _names(body)[0], is_folder=True)
        return b""

    def _rename(self, node: Node, body: bytes) -> bytes:
        (folder,) = struct.unpack_from("<Q", body)
        self._tree.rename(node, _names(body[8:])[0], self._tree.nodes[folder], _names(body[8:])[1], 0)
        return b""

    def _rename2(self, node: Node, body: bytes) -> bytes:
        folder, flags = struct.unpack_from("<QI", body)
        self._tree.rename(node, _names(body[16:])[0], self._tree.nodes[folder], _names(body[16:])[1], flags)
        return b""

    def _link(self, node: Node, body: bytes) -> bytes:
        (linked,) = struct.unpack_from("<Q", body)
        return self._entry(self._tree.link(self._tree.nodes[linked], node, _names(body[8:])[0]))

    def _open(self, _node: Node, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def _opendir(self, node: Node, _body: bytes) -> bytes:
        node.listing = list(node.children.values())
        return struct.pack("<QII", 0, 0, 0)

    def _read(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(node.data[offset : offset + size])

    def _write(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        if offset > len(node.data):
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + size] = body[40 : 40 + size]
        node.mtime = node.ctime = self._tree.quirks.time(time.time_ns())
        return struct.pack("<II", size, 0)

    def _statfs(self, _node: Node, _body: bytes) -> bytes:
        blocks = 2**24
        return struct.pack(
            "<QQQQQIIII6I", blocks, blocks, blocks, 2**20, 2**20, _BLOCK, 255, _BLOCK, *[0] * 7
        )

    def _readdir(self, node: Node, body: bytes) -> bytes:
        _, offset, room = struct.unpack_from("<QQI", body)
        listed: list[tuple[str, Node]] = [(".", node), ("..", node), *node.listing]
        said = b""
        for place in range(offset, len(listed)):
            name, child = listed[place]
            raw = os.fsencode(name)
            row = struct.pack("<QQII", child.ino, place + 1, len(raw), child.mode >> 12) + raw
            row += bytes(-len(row) % 8)
            if len(said) + len(row) > room:
                break
            said += row
        return said


def _names(body: bytes) -> list[str]:
    return [os.fsdecode(part) for part in body.split(b"\0")[:-1]]


# The process ------------------------------------------------------------------------------------


def serve(mountpoint: Path, quirks: Quirks) -> None:
    """Serve until standard input ends; its lines say `mount` and `unmount`."""
    tree = Tree(quirks)
    server, fd = Server(tree), -1
    words = ["mount"]
    try:
        while True:
            while words:
                fd = _obey(words.pop(0), fd, mountpoint, tree)
            ready, _, _ = select.select([sys.stdin, *([fd] if fd >= 0 else [])], [], [])
            if fd in ready and not _serve_one(server, fd):
                os.close(fd)
                fd = -1
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                words.append(line.strip())
    finally:
        unmount(mountpoint)


def _obey(word: str, fd: int, mountpoint: Path, tree: Tree) -> int:
    if word == "unmount":
        unmount(mountpoint)
        if fd >= 0:
            os.close(fd)
        fd = -1
    else:
        if tree.quirks.new_inodes:
            tree.renumber()
        fd = _mount(mountpoint)
    print("done", flush=True)
    return fd


def _serve_one(server: Server, fd: int) -> bool:
    """Answer one request; return False when the disk was unmounted by somebody."""
    try:
        request = os.read(fd, _MAX_WRITE + 8192)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno != errno.ENODEV
    answer = server.answer(request)
    if answer is not None:
        with suppress(OSError):
            os.write(fd, answer)
    return True


def main(arguments: list[str]) -> int:
    """Mount and serve an odd disk."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.odd_disk", description=main.__doc__)
    parser.add_argument("mountpoint", type=Path)
    for quirk in fields(Quirks):
        parser.add_argument(f"--{quirk.name.replace('_', '-')}", action="store_true")
    given = parser.parse_args(arguments)
    serve(given.mountpoint, Quirks(**{f.name: getattr(given, f.name) for f in fields(Quirks)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
