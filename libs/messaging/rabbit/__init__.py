"""RabbitMQ by aio-pika: the only package that imports it.

One supervised connection per process: connect, declare the topology, start what consumes, wait
until it is lost, and again. While it is away publishing raises `UnavailableError` at once; the
outbox takes over. Acknowledging is decided in `consumer` and nowhere else, by `policy.judge`.
"""

from libs.messaging.rabbit.bus import RabbitBus, open_bus
from libs.messaging.rabbit.connection import connected, copy_of, declare
from libs.messaging.rabbit.listener import Listener

__all__ = ["Listener", "RabbitBus", "connected", "copy_of", "declare", "open_bus"]
