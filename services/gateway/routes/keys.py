"""What handlers find in the application."""

import asyncio
from typing import Final

from aiohttp import web

from libs.mongo.schema import Schema
from services.gateway.service.accounts import Accounts
from services.gateway.service.devices import DeviceLinks
from services.gateway.service.forward import Forwarder

ACCOUNTS: Final = web.AppKey("accounts", Accounts)
LINKS: Final = web.AppKey("links", DeviceLinks)
FORWARDER: Final = web.AppKey("forwarder", Forwarder)
CLOSING: Final = web.AppKey("closing", asyncio.Event)
"""Set when the process stops: streams end."""
SCHEMA: Final = web.AppKey("schema", Schema)
