"""Events that this service reacts to."""

from libs.contracts.events import UploadCompleted
from libs.messaging.port import Handlers
from libs.mongo.schema import Schema
from services.metadata.service.tree import TreeService


def handlers(tree: TreeService, schema: Schema) -> Handlers:
    """Return event type → use case."""

    async def on_upload_completed(event: UploadCompleted) -> None:
        await schema.check()
        await tree.complete(event)

    return {UploadCompleted: on_upload_completed}
