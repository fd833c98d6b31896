"""Sizes small enough for the simulation's files: what is large, what is cut in parts, ranges and chunks.

The formats, the recipes and all that verifies them are the real ones.
"""

import hashlib
import tempfile
from array import array
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from libs.contracts.chunks import DIGEST_BYTES, Manifest, longest, shortest
from libs.contracts.recipe import coalesce
from services.upload.domain.modes import Sizes
from tests.simulation.engine.machine import CURRENT

SINGLE_PUT: Final = 150
"""Bytes up to which a file travels with others."""
SIZES: Final = Sizes(single_put=SINGLE_PUT, part=80)
SMALLEST_CHUNKED: Final = 90
_AVERAGE, _LARGER_AVERAGE = 16, 32
_BORDER: Final = 310
"""Bytes of a file up to which the smaller average is used; an edit may pass it."""
_GAP: Final = 8
_MANIFESTS: Final = 4000
"""Bytes of manifests after which those of contents that nobody has any more are dropped."""


class Chunker:
    """Stands for `libs.delta.chunker.Chunker`: cuts where two neighbouring bytes say so."""

    def __init__(self, average: int) -> None:
        self.average = average
        self._data = bytearray()

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._data += piece

    def finish(self) -> Manifest:
        """Return the manifest of all that came."""
        lengths, digests = array("I"), bytearray()
        for first, end in self._chunks():
            lengths.append(end - first)
            digests += hashlib.blake2b(self._data[first:end], digest_size=DIGEST_BYTES).digest()
        return Manifest(self.average, len(self._data), lengths, bytes(digests))

    def _chunks(self) -> Iterator[tuple[int, int]]:
        data, mask, first = self._data, self.average // 2 - 1, 0
        least, most = shortest(self.average), longest(self.average)
        for at in range(1, len(data) + 1):
            cut = at - first >= least and (data[at - 1] * 31 + data[at - 2]) & mask == 0
            if cut or at - first == most or at == len(data):
                yield first, at
                first = at


class _Hooked:
    """A temporary file whose writes are steps of the machine, and may fail or find it dead."""

    def __init__(self, folder: Any) -> None:
        _step("create temporary")
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - its owner closes it

    def write(self, data: bytes) -> int:
        """Write all bytes, a half of them when the machine dies or the disk fills."""
        half = len(data) // 2
        self._file.write(data[:half])
        _step("write temporary")
        self._file.write(data[half:])
        return len(data)

    def flush(self) -> None:
        """What is written is written."""

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def _step(what: str) -> None:
    machine = CURRENT.get()
    if machine is not None:
        machine.call()
        machine.step(what)


def stand_ins() -> dict[str, Any]:
    """Return what is replaced: name → stand-in."""
    return {
        "agent.executor.uploads.SINGLE_PUT_BYTES": SINGLE_PUT,
        "agent.executor.downloads.SINGLE_PUT_BYTES": SINGLE_PUT,
        "agent.executor.difference.SINGLE_PUT_BYTES": SINGLE_PUT,
        "agent.executor.downloads._IN_MEMORY": SINGLE_PUT,
        "agent.transfer.ranges.RANGE_BYTES": 120,
        "agent.transfer.spots.RANGE_BYTES": 40,
        "agent.transfer.spots.coalesce": partial(coalesce, gap=_GAP),
        "agent.transfer.delta.tempfile": SimpleNamespace(TemporaryFile=lambda **where: _Hooked(where["dir"])),
        "agent.transfer.spool.KEPT_FREE": 0,
        "agent.manifests._BETWEEN_PRUNINGS": _MANIFESTS,
        "agent.manifests.IS_COMPILED": True,
        "agent.manifests.SMALLEST_CHUNKED": SMALLEST_CHUNKED,
        "agent.executor.difference.SMALLEST_CHUNKED": SMALLEST_CHUNKED,
        "agent.executor.bases.SMALLEST_CHUNKED": SMALLEST_CHUNKED,
        "agent.former.SMALLEST_CHUNKED": SMALLEST_CHUNKED,
        "libs.contracts.chunks.SMALLEST_CHUNKED": SMALLEST_CHUNKED,
        "libs.contracts.chunks._CLASSES": ((_BORDER, _AVERAGE),),
        "libs.contracts.chunks._LARGEST_AVERAGE": _LARGER_AVERAGE,
        "libs.contracts.chunks.AVERAGES": frozenset({_AVERAGE, _LARGER_AVERAGE}),
        "libs.delta.content.Chunker": Chunker,
    }
