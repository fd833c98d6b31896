"""Contents that the server has lost: a device that still has one keeps it, and sends it again.

When the stored bytes of a version turn out to be damaged or gone, its file goes back on the server to
the last good version, and the row names the contents it went back from. Taken for news, that row
would have the older content replace the newer one on the very devices that could bring it back.
"""

from collections.abc import Iterable
from dataclasses import replace

from agent.model import SyncedNode
from agent.state import State
from libs.contracts.tree import NodeRow


def spare(state: State, rows: Iterable[NodeRow]) -> None:
    """Change what is agreed on, before these rows are taken, so that lost contents are sent again."""
    with state.transaction():
        for row in rows:
            old, known = state.synced.get(row.id), state.remote.get(row.id)
            if old is None or old.content_hash not in row.damaged:
                continue
            if known is not None and known.seq > row.seq:  # old news: it may have been sent again since
                continue
            below = on_top_of(row, old)
            if below is None:
                state.drop_synced([old.id])
            else:
                state.put_synced([below])


def on_top_of(row: NodeRow, old: SyncedNode) -> SyncedNode | None:
    """Return the agreed state on top of which the content here is an edit; None: it is a new file. Pure."""
    if row.deleted:
        return None
    return replace(old, version_id=row.version_id, content_hash=row.content_hash, size=row.size or 0)
