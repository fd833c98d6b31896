"""What handlers find in the application, and who asks."""

from typing import Final

from aiohttp import web

from libs.mongo.schema import Schema
from libs.web.app import path_id
from libs.web.auth import AUTH, Caller, caller_of
from services.metadata.domain.model import Actor, Node
from services.metadata.service.consistency import Consistency
from services.metadata.service.costs import CostService
from services.metadata.service.feed import FeedService
from services.metadata.service.housekeeping import Housekeeping
from services.metadata.service.reading import ReadService
from services.metadata.service.removals import Removals
from services.metadata.service.tree import TreeService

SCHEMA: Final = web.AppKey("schema", Schema)
TREE: Final = web.AppKey("tree", TreeService)
READING: Final = web.AppKey("reading", ReadService)
FEED: Final = web.AppKey("feed", FeedService)
HOUSEKEEPING: Final = web.AppKey("housekeeping", Housekeeping)
CONSISTENCY: Final = web.AppKey("consistency", Consistency)
COSTS: Final = web.AppKey("costs", CostService)
REMOVALS: Final = web.AppKey("removals", Removals)


async def caller(request: web.Request) -> Caller:
    """Return who asks, once the schema is up."""
    await request.app[SCHEMA].check()
    return await caller_of(request)


async def node_of(request: web.Request, who: Caller) -> Node:
    """Return the node of the path. Missing and not the caller's are the same `NotFoundError`."""
    node = await request.app[READING].node(path_id(request, "node_id"))
    await request.app[AUTH].check_member(who, node.namespace_id)
    return node


def actor_of(who: Caller) -> Actor:
    """Return the caller as the one who makes a change."""
    return Actor(who.user_id, who.device_id, who.device_name)
