"""Whether the memory is the one with which this folder was last kept: one put back from a backup is not.

The memory and the agent's own folder hold the same random value, renewed at the beginning and at the
end of every run and now and then in between. An older memory, or one that lost its write-ahead log,
has another value than the folder; so has the memory beside a folder that was put back. Then being
absent from the disk is no sign that the user deleted anything.
"""

from typing import Final

from agent.disk import Disk
from agent.state import State
from libs.contracts.ids import new_id

_AGREED: Final = "stamp"
_NEXT: Final = "stamp_next"
"""What is being written into the folder: a crash may leave either of both there."""
_DOUBT: Final = "absence_means_nothing"


class Stamp:
    """The value of one device's memory and folder."""

    def __init__(self, state: State, disk: Disk, device_id: str) -> None:
        self._state = state
        self._disk = disk
        self._note = f"stamp.{device_id}"

    def check(self) -> None:
        """Compare, and remember for `in_doubt` when they differ; then renew. Raises `DiskError`."""
        there = self._disk.note(self._note)
        known = {self._state.get(_AGREED), self._state.get(_NEXT)}
        if there is not None and there not in known:
            self._state.put(_DOUBT, "yes")
        self.renew()

    def renew(self) -> None:
        """Give both a new value. Raises `DiskError`; the old one is still good then."""
        value = new_id()
        self._state.put(_NEXT, value)
        self._disk.write_note(self._note, value)
        self._state.put(_AGREED, value)

    @property
    def in_doubt(self) -> bool:
        """Whether the memory may be older than what was done to the folder."""
        return self._state.get(_DOUBT) == "yes"

    def settle(self) -> None:
        """What rested on the doubt was done."""
        self._state.put(_DOUBT, "")
