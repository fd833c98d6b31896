"""Events → what the janitor does."""

from libs.contracts.events import FileCommitted
from libs.contracts.internal import HousedObject
from libs.messaging.port import Handlers
from services.janitor.service.verification import Verifier


def handlers(verifier: Verifier) -> Handlers:
    """Return event type → use case."""

    async def on_committed(event: FileCommitted) -> None:
        """Have new objects read: verified when S3 did not check the whole, and cut into chunks.

        The event is done with at once: hashing a large object takes longer than a broker waits
        for an acknowledgement, and the periodic look finds what a crash forgets.
        """
        for item in event.objects:
            housed = HousedObject(id=item.id, key=item.key, size=item.size, content_hash=item.content_hash)
            if item.verified:
                verifier.add_verified(housed)
            else:
                verifier.add(housed)

    return {FileCommitted: on_committed}
