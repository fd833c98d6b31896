"""The event loop: uvloop where it is installed, since the standard one costs more of the CPU."""

import asyncio
from importlib import import_module


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, not set as the current one."""
    try:
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()
    return loop
