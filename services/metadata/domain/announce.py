"""Which events tell of the changes of a job."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from libs.contracts.events import CommitRejected, EventData, FileCommitted, TreeChanged, UploadedObject
from libs.contracts.tree import ItemResult
from services.metadata.domain.batch import Change
from services.metadata.domain.model import Actor, Object, UploadRef


def tell_of_changes(namespace_id: str, actor: Actor, changes: Sequence[Change]) -> Iterator[TreeChanged]:
    """Yield one event for each run of changes of one type; their sequence numbers leave no gap."""
    for topic, run in groupby(changes, key=lambda change: change.topic):
        rows = [change.node.row() for change in run]
        yield topic(
            namespace_id=namespace_id,
            user_id=actor.user_id,
            device_id=actor.device_id,
            first_seq=rows[0].seq,
            last_seq=rows[-1].seq,
            changes=rows,
        )


def tell_of_completion(
    namespace_id: str,
    actor: Actor,
    upload: UploadRef,
    results: Sequence[ItemResult],
    changes: Sequence[Change] = (),
    objects: Sequence[Object] = (),
) -> EventData:
    """Return how a completion ended: `FileCommitted` when any entry is committed, or `CommitRejected`.

    Without changes (it is told of again) the sequence numbers are 0.
    """
    if not any(result.ok for result in results):
        return CommitRejected(
            namespace_id=namespace_id,
            user_id=actor.user_id,
            device_id=actor.device_id,
            upload_id=upload.id,
            attempt=upload.attempt,
            results=list(results),
        )
    return FileCommitted(
        namespace_id=namespace_id,
        user_id=actor.user_id,
        device_id=actor.device_id,
        upload_id=upload.id,
        attempt=upload.attempt,
        results=list(results),
        first_seq=changes[0].node.seq if changes else 0,
        last_seq=changes[-1].node.seq if changes else 0,
        changes=[change.node.row() for change in changes],
        objects=[_uploaded(item) for item in objects],
    )


def _uploaded(item: Object) -> UploadedObject:
    return UploadedObject(
        id=item.id, key=item.key, size=item.size, content_hash=item.content_hash, verified=item.verified
    )
