"""The manifests of large files that this device has read: a cache, by which only differences travel.

One file for each content, named by its hash, and `sketches`, by which the content that another one
resembles is found. Nothing here is flushed to the disk and nothing here is precious: what is lost,
damaged or cannot be written costs a transfer of the whole, never a file. So no method raises for
what the disk does. Methods block and may be called from any thread.
"""

import hashlib
import mmap
import os
import secrets
import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from libs.contracts.binary import MalformedError
from libs.contracts.chunks import DIGEST_BYTES, SMALLEST_CHUNKED, Manifest, decode
from libs.contracts.limits import GIB, MIB
from libs.delta.chunker import IS_COMPILED
from libs.delta.content import ContentReader
from libs.runtime.logs import get_logger

log = get_logger("manifests")

LIMIT: Final = GIB
"""Bytes that all manifests may take: those of about 250 GB of small files, or of 4 TB of large ones."""
_BETWEEN_PRUNINGS: Final = 64 * MIB
_KEPT_SHARE: Final = 0.75
"""Of the limit that is left when it was exceeded, so that not every new manifest exceeds it."""
_STALE_SECONDS: Final = 3600.0
"""A temporary file so old was left by a crash."""
_TEMPORARY: Final = ".tmp"
_SKETCHES: Final = "sketches"

_SKETCH: Final = 8
"""Digests of a sketch: two contents that share a third of their chunks share at least one of so many
in 96 of 100 cases."""
_HASH_BYTES: Final = 32
_RECORD: Final = _HASH_BYTES + _SKETCH * DIGEST_BYTES
_MOST_HITS: Final = 1000
"""Records looked at for one digest: a chunk that so many contents have says nothing."""
_TRIED: Final = 4


class Manifests:
    """The cache in one folder, which need not exist yet."""

    def __init__(self, folder: Path, *, limit: int = LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._total: int | None = None
        """Bytes of all, as far as known; None until the first is kept."""
        self._since = 0
        """Bytes written since the last pruning."""
        self._fresh: set[str] = set()
        """What was kept since the last pruning."""

    # Making and keeping -----------------------------------------------------------------------

    def reader(self, size: int, known: str | None = None) -> ContentReader | None:
        """Return what makes hash and manifest of a content of `size` bytes in one reading.

        None where only the hash is wanted: of a small file, and of one that is believed to have the
        content `known` whose manifest is there already.
        """
        if size < SMALLEST_CHUNKED or not self._worth_it() or (known is not None and self.has(known)):
            return None
        return ContentReader(size)

    def keep(self, content_hash: str, manifest: Manifest | None) -> None:
        """Keep the manifest of a content that was read to its last byte; None is none."""
        if manifest is None or self.has(content_hash):
            return
        with _tolerating("kept"), self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._total is None:
                self._total = sum(size for _, size, _ in self._files())
            written = self._write(content_hash, manifest)
            self._append(_record(content_hash, manifest))
            self._total += written
            self._since += written
            self._fresh.add(content_hash)

    def learn(self, fd: int, size: int, content_hash: str, stop: Callable[[], bool] = bool) -> bool:
        """Read an open file, unless `stop` says so, and keep its manifest; say whether it has that content.

        For a download that was not read through `reader` while it was put together.
        """
        reader = ContentReader(size)
        offset = 0
        with _tolerating("read"):
            while not stop() and (piece := os.pread(fd, MIB, offset)):
                reader.update(piece)
                offset += len(piece)
        if reader.hexdigest() != content_hash:
            return False
        if self._worth_it():
            self.keep(content_hash, reader.manifest())
        return True

    def forget(self, content_hash: str) -> None:
        """Drop a manifest that did not lead to the right content."""
        with _tolerating("dropped"):
            self._path(content_hash).unlink(missing_ok=True)

    # Finding ----------------------------------------------------------------------------------

    def has(self, content_hash: str) -> bool:
        """Whether there is a manifest of this content; it may turn out to be damaged."""
        path = self._path(content_hash)
        with suppress(OSError):  # of what it does not know `exists` raises what the disk says
            return path.exists()
        return False

    def base_for(self, content_hash: str | None) -> Manifest | None:
        """Return the manifest of a content; None when there is none that is sound. A damaged one goes."""
        if content_hash is None:
            return None
        try:
            return _checked(content_hash, self._path(content_hash).read_bytes())
        except MalformedError as error:
            log.warning("a manifest is damaged and dropped", detail=str(error))
            self.forget(content_hash)
        except OSError:
            pass
        return None

    def similar(self, manifest: Manifest, among: Container[str]) -> str | None:
        """Return the content, of those `among`, that has most in common with this one by its sketch.

        It is a guess: how much it saves the recipe of the two will tell. None when there is none.
        """
        for content_hash in self._candidates(_sketch(manifest), among):
            base = self.base_for(content_hash)
            if base is not None and base.average == manifest.average:
                return content_hash
        return None

    def _candidates(self, sketch: list[bytes], among: Container[str]) -> list[str]:
        shared: Counter[int] = Counter()
        names: dict[int, str] = {}
        with _tolerating("searched"), self._mapped() as records:
            for digest in sketch:
                shared.update(_holders(records, digest))
            for number in shared:
                names[number] = records[number * _RECORD : number * _RECORD + _HASH_BYTES].hex()
        # The later of two equals: it was read last.
        ranked = sorted(shared, key=lambda number: (shared[number], number), reverse=True)
        wanted = dict.fromkeys(names[number] for number in ranked if names[number] in among)
        return list(wanted)[:_TRIED]

    @contextmanager
    def _mapped(self) -> Iterator[mmap.mmap]:
        with (
            (self._folder / _SKETCHES).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as records,
        ):
            yield records

    # Pruning ----------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether `prune` should be called: much was kept. Costs nothing."""
        return self._since > _BETWEEN_PRUNINGS or (self._total or 0) > self._limit

    def prune(self, wanted: Container[str]) -> None:
        """Drop the manifests of contents that are not `wanted`, and the oldest of those over the limit.

        What was kept since the last pruning stays: nobody could have told of it yet.
        """
        with _tolerating("pruned"), self._lock:
            files = sorted(self._files(), key=lambda file: file[2], reverse=True)
            total = sum(size for _, size, _ in files)
            room = int(self._limit * _KEPT_SHARE) if total > self._limit else self._limit
            kept: set[str] = set()
            self._total = 0
            for name, size, _ in files:
                if (name in wanted or name in self._fresh) and self._total + size <= room:
                    self._total += size
                    kept.add(name)
                else:
                    self._path(name).unlink(missing_ok=True)
            self._since = 0
            self._fresh.clear()
            self._rewrite_sketches(kept)
            self._drop_temporary()

    def _files(self) -> list[tuple[str, int, int]]:
        """Return name, size and time (ns) of each manifest."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if len(entry.name) == 2 * _HASH_BYTES:
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        found.append((entry.name, stat.st_size, stat.st_mtime_ns))
        return found

    def _rewrite_sketches(self, kept: set[str]) -> None:
        path = self._folder / _SKETCHES
        records = _records(path.read_bytes()) if path.exists() else {}
        self._replace(path, b"".join(record for name, record in records.items() if name in kept))

    def _drop_temporary(self) -> None:
        for path in self._folder.glob(f"*{_TEMPORARY}"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)

    # Files ------------------------------------------------------------------------------------

    def _path(self, content_hash: str) -> Path:
        """Return a manifest's file. What is not a hash leads nowhere: it is a `ValueError`."""
        return self._folder / bytes.fromhex(content_hash).hex()

    def _write(self, content_hash: str, manifest: Manifest) -> int:
        data = b"".join(manifest.encode())
        self._replace(self._path(content_hash), data + _seal(content_hash, data))
        return len(data) + DIGEST_BYTES

    def _replace(self, path: Path, data: bytes) -> None:
        """Write beside and rename. A crash may leave anything: a manifest is checked when it is read."""
        temporary = self._folder / f"{secrets.token_hex(8)}{_TEMPORARY}"
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _append(self, record: bytes) -> None:
        """Append a record; one that a crash cut off goes first, or none after it would be in its place."""
        with (self._folder / _SKETCHES).open("ab") as file:
            whole = file.tell() - file.tell() % _RECORD
            if file.tell() != whole:
                file.truncate(whole)
            file.write(record)

    def _worth_it(self) -> bool:
        """Whether chunking is quick on this machine; otherwise there are no manifests, and that is told."""
        if not IS_COMPILED:
            _tell_slow()
        return IS_COMPILED and self._limit > 0


_told = threading.Event()


def _tell_slow() -> None:
    if not _told.is_set():
        _told.set()
        log.warning("pyfastcdc lacks its compiled extension: large files always travel whole")


@contextmanager
def _tolerating(what: str) -> Iterator[None]:
    """Note what the disk says of the cache; nobody has to know more."""
    try:
        yield
    except (OSError, ValueError) as error:
        # Mapping an empty file is a ValueError.
        log.debug("the disk refuses a manifest", what=what, error=str(error))


# What is in the files -------------------------------------------------------------------------


def _seal(content_hash: str, data: bytes) -> bytes:
    """Return what ends a manifest's file, so that damage to it, or to its name, shows."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, key=content_hash.encode()).digest()


def _checked(content_hash: str, data: bytes) -> Manifest:
    body, seal = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if seal != _seal(content_hash, body):
        raise MalformedError("Its checksum is wrong")
    return decode([body])


def _sketch(manifest: Manifest) -> list[bytes]:
    """Return the smallest digests of a manifest: a sample that two like contents have largely in common."""
    smallest: list[bytes] = []
    for number in range(len(manifest)):
        digest = manifest.digest(number)
        if len(smallest) == _SKETCH and digest >= smallest[-1]:
            continue
        if digest not in smallest:
            insort(smallest, digest)
            del smallest[_SKETCH:]
    return smallest


def _record(content_hash: str, manifest: Manifest) -> bytes:
    return (bytes.fromhex(content_hash) + b"".join(_sketch(manifest))).ljust(_RECORD, b"\0")


def _records(data: bytes) -> dict[str, bytes]:
    """Return each content's last record."""
    whole = len(data) - len(data) % _RECORD
    return {data[at : at + _HASH_BYTES].hex(): data[at : at + _RECORD] for at in range(0, whole, _RECORD)}


def _holders(records: mmap.mmap, digest: bytes) -> set[int]:
    """Return the numbers of the records whose sketch has a digest."""
    found: set[int] = set()
    at = records.find(digest)
    while at >= 0 and len(found) < _MOST_HITS:
        number, place = divmod(at, _RECORD)
        if place >= _HASH_BYTES and (place - _HASH_BYTES) % DIGEST_BYTES == 0:
            found.add(number)
        at = records.find(digest, at + 1)
    return found
