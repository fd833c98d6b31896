"""What the server deleted goes into the agent's trash and stays there for a month."""

import os
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from agent import clock
from agent.disk.base import Rooted
from agent.disk.errors import MismatchError, translated
from agent.disk.look import check_signs
from agent.disk.native import Place
from agent.disk.rename import KeepName, kept_name, take
from agent.disk.root import names_in, sync_folder
from agent.disk.temps import TRASH
from agent.model import LocalEntry, LocalKind
from libs.runtime.logs import get_logger

log = get_logger("disk")

_STAMP: Final = "%Y%m%dT%H%M%SZ"
_DAY: Final = 86_400


class Trash(Rooted):
    """The methods that remove; only an empty folder is ever removed for good."""

    def remove(self, path: str, expect: LocalEntry, *, keep_name: KeepName = kept_name) -> None:
        """Put exactly `expect` into the trash, or remove it when it is an empty folder.

        A file is taken first and read then; when it is not `expect` to the last byte it goes back
        and `MismatchError` is raised (`BlockedError` "in_use" when a program could still write
        into it). A folder that is not empty: `MismatchError` "not_empty".
        """
        with self.root.place(path) as slot:
            if expect.kind is LocalKind.FOLDER:
                check_signs(slot, expect)
                os.rmdir(slot.name, dir_fd=slot.fd)
            elif expect.kind is LocalKind.OTHER:
                raise MismatchError("It is not synced", path=path)
            else:
                self._throw_away(slot, expect, keep_name)
            sync_folder(slot)

    def _throw_away(self, slot: Place, expect: LocalEntry, keep: KeepName) -> None:
        name = f"{datetime.fromtimestamp(clock.now(), UTC).strftime(_STAMP)}-{secrets.token_hex(6)}"
        with self.root.state(TRASH) as trash:
            os.mkdir(name, 0o700, dir_fd=trash)
            try:
                with self.root.state(TRASH, name) as bin_:
                    take(slot, Place(bin_, slot.name), expect, keep, self._stopping.is_set)
                    os.fsync(bin_)
            except BaseException:
                with suppress(OSError):
                    os.rmdir(name, dir_fd=trash)
                raise
            os.fsync(trash)

    def sweep_trash(self, now: float) -> int:
        """Remove for good what lies in the trash for longer than its days; return how many."""
        swept = 0
        with translated(TRASH), self.root.state(TRASH) as trash:
            for name in names_in(trash):
                thrown = _thrown_at(name)
                if thrown is None or now - thrown <= self.trash_days * _DAY:
                    continue
                try:
                    shutil.rmtree(name, dir_fd=trash)
                    swept += 1
                except OSError as error:
                    log.warning("the trash could not be emptied", name=name, error=str(error))
        return swept


def _thrown_at(name: str) -> float | None:
    with suppress(ValueError):
        return datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC).timestamp()
    return None
