"""The description of the API: `/openapi.json`, `/docs`, and `/`, which leads there."""

import json

from aiohttp import web

from libs.contracts.openapi import openapi_document
from services.gateway.domain.page import render_page


def add_docs(app: web.Application) -> None:
    """Route the three pages; they are made once."""
    document = openapi_document()
    body = json.dumps(document, separators=(",", ":")).encode()
    page = render_page(document)

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def docs(_request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def root(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/docs"})

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)
    app.router.add_get("/", root)
