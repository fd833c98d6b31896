"""`lockstep` inside the test's process: the same grammar, output and exit code, no start-up."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from agent import cli


def call(arguments: Sequence[str], *, home: Path, cwd: Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Return exit code, standard output and standard error."""
    given, out, err = (io.TextIOWrapper(io.BytesIO(content)) for content in (stdin, b"", b""))
    handlers = logging.getLogger().handlers[:]
    try:
        with (
            chdir(cwd),
            patch.dict(os.environ, {"LOCKSTEP_HOME": str(home)}),
            patch.multiple(sys, argv=["lockstep", *arguments], stdin=given, stdout=out, stderr=err),
        ):
            code = cli.main()
    finally:
        logging.getLogger().handlers[:] = handlers
    return code, _written(out), _written(err)


def _written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()
