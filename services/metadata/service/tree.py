"""Use cases that change the tree."""

from collections.abc import Sequence

from libs.contracts.errors import NotFoundError, error_from_code
from libs.contracts.events import CommitRejected, UploadCompleted
from libs.contracts.tree import ItemResult, NodeRow
from libs.mongo.outbox import Outbox, Transaction
from services.metadata.domain.model import Actor, CommitFile, Job, Op, UploadRef
from services.metadata.service.changes import Changes


class TreeService:
    """Changes asked for by devices, by completions of uploads, or by the server itself."""

    def __init__(self, changes: Changes, outbox: Outbox) -> None:
        self._changes = changes
        self._outbox = outbox

    async def batch(self, actor: Actor, namespace_id: str, ops: Sequence[Op]) -> list[ItemResult]:
        """Carry operations out in order; one that is refused does not hold up the others."""
        return list(await self._changes.submit(namespace_id, Job(actor, tuple(ops))))

    async def one(self, actor: Actor, namespace_id: str, op: Op) -> NodeRow:
        """Carry one operation out and return the row it led to, or raise the error it was refused with."""
        (result,) = await self.batch(actor, namespace_id, [op])
        if result.code is not None:
            raise error_from_code(result.code, result.detail or "", **result.error_extra())
        if result.row is None:
            raise NotFoundError
        return result.row

    async def complete(self, event: UploadCompleted) -> None:
        """Commit a completion. Idempotent by (upload, attempt): asked again, it is told again."""
        upload = UploadRef(event.upload_id, event.attempt)
        ops = tuple(CommitFile(upload, entry) for entry in event.entries)
        actor = Actor(event.user_id, event.device_id, event.device_name)
        try:
            await self._changes.submit(event.namespace_id, Job(actor, ops, upload))
        except NotFoundError as error:
            await self._reject(event, error)

    async def _reject(self, event: UploadCompleted, error: NotFoundError) -> None:
        """The namespace is gone: say so, because nothing waits for ever."""
        results = [
            ItemResult(index=entry.index, code=error.code, detail=error.detail) for entry in event.entries
        ]
        rejected = CommitRejected(
            namespace_id=event.namespace_id,
            user_id=event.user_id,
            device_id=event.device_id,
            upload_id=event.upload_id,
            attempt=event.attempt,
            results=results,
        )

        async def tell(transaction: Transaction) -> None:
            await transaction.emit(rejected)

        await self._outbox.transact(tell)
