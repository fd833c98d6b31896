"""Event → use case."""

from libs.contracts.events import CommitRejected, DeviceRevoked, FileCommitted
from libs.messaging.port import Handlers
from services.upload.service.settling import Settling


def handlers(settling: Settling) -> Handlers:
    """Return what this service does with the events of its queue."""
    return {
        FileCommitted: settling.committed,
        CommitRejected: settling.rejected,
        DeviceRevoked: settling.device_revoked,
    }
