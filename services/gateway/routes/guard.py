"""The checks before every endpoint: how fast, and who."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from libs.contracts.endpoints import Endpoint
from libs.contracts.errors import LockstepError, RateLimitedError
from libs.web.app import Handler
from libs.web.auth import AUTH, Caller
from services.gateway.domain.limits import RateLimiter, client_address
from services.gateway.routes.keys import LINKS, SCHEMA
from services.gateway.settings import Settings

CallerHandler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_PASSWORD_ENDPOINTS: Final = frozenset({"register", "login", "change_password", "delete_account"})


class Guard:
    """Wraps handlers with rate limits and the check of the caller."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._trusted_proxies = settings.trusted_proxies
        self._devices = RateLimiter(settings.rate_device_per_minute, clock)
        self._addresses = RateLimiter(settings.rate_address_per_minute, clock)
        self._signins = RateLimiter(settings.rate_signin_per_minute, clock)

    def open(self, endpoint: Endpoint, handler: Handler) -> Handler:
        """Guard an endpoint that needs no token."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self._limit(self._signins if endpoint.name in _PASSWORD_ENDPOINTS else self._addresses, request)
            await request.app[SCHEMA].check()
            return await handler(request)

        return guarded

    def closed(self, endpoint: Endpoint, handler: CallerHandler) -> Handler:
        """Guard an endpoint that needs a token; the handler is given the caller."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            caller = await self._caller(request)
            _refuse(self._devices.take(caller.device_id))
            if endpoint.name in _PASSWORD_ENDPOINTS:
                self._limit(self._signins, request)
            await request.app[LINKS].seen(caller)
            return await handler(request, caller)

        return guarded

    async def _caller(self, request: web.Request) -> Caller:
        try:
            return await request.app[AUTH].caller(request.headers.get("Authorization"))
        except LockstepError:
            self._limit(self._addresses, request)
            raise

    def _limit(self, limiter: RateLimiter, request: web.Request) -> None:
        forwarded_for = request.headers.get("X-Forwarded-For")
        _refuse(limiter.take(client_address(request.remote, forwarded_for, self._trusted_proxies)))


def _refuse(seconds: float) -> None:
    if seconds > 0:
        raise RateLimitedError(retry_after=round(seconds, 3))
