"""HTTP in, use cases out."""

from aiohttp import web

from libs.web.app import add_endpoints
from services.metadata.routes import files, internal, listing, sync


def add_routes(app: web.Application) -> None:
    """Route the public endpoints of this service and the internal ones."""
    add_endpoints(app, "metadata", {**files.HANDLERS, **listing.HANDLERS, **sync.HANDLERS})
    internal.add(app)
