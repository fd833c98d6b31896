"""Events → what the hub does with them."""

from collections.abc import Callable
from typing import Any

from libs.contracts.events import (
    TREE_EVENTS,
    DeviceRevoked,
    Envelope,
    PartCompleted,
    UploadAborted,
    UploadCompleted,
    UploadExpired,
    UploadStarted,
    unwrap,
)
from libs.messaging.rabbit import Listener, RabbitBus
from services.notification.service import Hub


async def follow(bus: RabbitBus, hub: Hub) -> Listener:
    """Have the hub told of events of the namespaces that it binds."""
    table = handlers(hub)

    async def on_event(envelope: Envelope) -> None:
        data = unwrap(envelope)
        handler = None if data is None else table.get(type(data))
        if handler is not None:
            handler(data)

    listener = await bus.listen((), on_event, on_gap=hub.on_gap)
    hub.use(listener)
    return listener


def handlers(hub: Hub) -> dict[type[Any], Callable[[Any], None]]:
    """Return event type → handler. They do not wait, so events keep their order."""
    return {
        **dict.fromkeys(TREE_EVENTS, hub.on_tree),
        UploadStarted: hub.on_upload,
        PartCompleted: hub.on_upload,
        UploadCompleted: hub.on_upload,
        UploadAborted: hub.on_upload,
        UploadExpired: hub.on_upload,
        DeviceRevoked: hub.on_revoked,
    }
