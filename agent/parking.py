"""The name under which a node waits on the server while the others of its ring change places.

The ring is one transaction, but its operations are refused one by one: when the last is, the node
is left under this name. Nobody chose it, so it yields to any name that somebody did.
"""

import re
from typing import Final

_SUFFIX: Final = ".lockstep-moving"
_PARKED: Final = re.compile(r"[0-9a-f]{24}" + re.escape(_SUFFIX))


def parked_name(unique_id: str) -> str:
    """Return the name; `unique_id` is a fresh id of 24 hex digits."""
    return unique_id + _SUFFIX


def is_parked(name: str) -> bool:
    """Whether a node has this name only because it waited under it."""
    return _PARKED.fullmatch(name) is not None
