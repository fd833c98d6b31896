"""One call to the server: token, request id, errors, repeats, and the count of bytes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import aiohttp
from pydantic import BaseModel

from agent.credentials import CredentialStore, DeviceCredentials
from agent.errors import LocalError
from agent.remote.limited import RateLimit
from agent.remote.problems import LostAnswerError, NotSentError, connection_error, error_of
from agent.settings import Settings
from libs.contracts.api import Tokens
from libs.contracts.endpoints import BY_NAME, Endpoint
from libs.contracts.errors import LockstepError, RateLimitedError, UnauthenticatedError, UnavailableError
from libs.contracts.ids import new_id
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger

__all__ = ["Call", "LostAnswerError", "NotSentError", "Transport"]

log = get_logger("remote")

_NOT_REPEATABLE: Final = frozenset(
    {"register", "login", "logout", "change_password", "delete_account", "restore_version", "restore_trash"}
)
"""A second execution would do something more: not repeated when the answer was lost."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request by the endpoint's name; absent query values are left out."""

    name: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    body: BaseModel | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The row of the table of endpoints."""
        return BY_NAME[self.name]

    def url(self, server: str) -> str:
        """Return the URL without its query."""
        return server + self.endpoint.path.format_map(self.path)

    def params(self) -> dict[str, str]:
        """Return the query."""
        return {name: str(value) for name, value in self.query.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer."""

    status: int
    content: bytes


class Transport:
    """Sends calls. With a credential store they are made in the name of the linked device."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        settings: Settings,
        store: CredentialStore | None = None,
    ) -> None:
        self._session = session
        self._server = server
        self._settings = settings
        self._store = store
        self._credentials = None if store is None else store.require()
        self._refreshing = asyncio.Lock()
        self._answered = False
        self._rate_limit = RateLimit(settings.rate_limit_seconds)
        self.api_bytes = 0
        """Bytes of request and answer bodies so far."""

    @property
    def credentials(self) -> DeviceCredentials:
        """The linked device; raises `LocalError` "not_signed_in" when there is none."""
        if self._credentials is None:
            raise LocalError(code="not_signed_in")
        return self._credentials

    async def send(self, call: Call) -> Answer:
        """Return a 2xx answer, repeating while that is safe, can help, and time is left.

        A server that says that it is asked too often is given the time that it wants. Raises the error
        that the server's problem document names, `UnavailableError` when there is no answer,
        `LocalError` "tls_invalid".
        """
        request_id = new_id()
        backoff, attempt, start = Backoff(0.2, 5.0), 0, time.monotonic()
        while True:
            try:
                answer = await self._authorized(call, request_id)
            except (UnavailableError, RateLimitedError) as error:
                delay = max(backoff.delay(attempt), float(error.extra.get("retry_after", 0.0)))
                if not _repeatable(call, error) or not self._waits(call, error, start, delay):
                    raise
            else:
                self._rate_limit.lifted()
                return answer
            attempt += 1
            await asyncio.sleep(delay)

    def _waits(self, call: Call, error: LockstepError, start: float, delay: float) -> bool:
        """Whether there is time to wait; whoever signs in or refreshes keeps others waiting: not for long."""
        if isinstance(error, RateLimitedError) and call.endpoint.auth:
            log.info("the server is asked too often", call=call.name, seconds=round(delay, 1))
            return self._rate_limit.lets_wait(start, delay)
        return time.monotonic() - start + delay <= self._patience(error)

    def _patience(self, error: LockstepError) -> float:
        """Return how long to repeat, in seconds; a server that was never reached gets little."""
        first = isinstance(error, NotSentError) and not self._answered
        return self._settings.first_contact_seconds if first else self._settings.retry_seconds

    async def _authorized(self, call: Call, request_id: str) -> Answer:
        if not call.endpoint.auth:
            return await self._once(call, request_id, None)
        token = await self.token()
        try:
            return await self._once(call, request_id, token)
        except UnauthenticatedError as error:
            if error.code != "token_expired":
                raise
        return await self._once(call, request_id, await self.renewed_token(token))

    async def _once(self, call: Call, request_id: str, token: str | None) -> Answer:
        body = None if call.body is None else _json(call.body)
        headers = _headers(request_id, token, has_body=body is not None)
        try:
            async with self._session.request(
                call.endpoint.method, call.url(self._server), params=call.params(), data=body,
                headers=headers, allow_redirects=False,
                timeout=self._timeout(self._settings.request_timeout),
            ) as response:  # fmt: skip
                content = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise connection_error(error) from error
        self._answered = True
        self.api_bytes += len(content) + len(body or b"")
        return _checked(response, content)

    @asynccontextmanager
    async def stream(
        self, call: Call, headers: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an unbounded answer; `silence` is how many seconds may pass without a byte.

        Not repeated. Raises as `send`; reading raises `aiohttp.ClientError` or `TimeoutError`.
        """
        sent = {**_headers(new_id(), await self.token(), has_body=False), **headers}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=silence
        )
        try:
            response = await self._session.request(
                call.endpoint.method, call.url(self._server), params=call.params(), headers=sent,
                allow_redirects=False, timeout=timeout,
            )  # fmt: skip
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise connection_error(error) from error
        async with response:
            self._answered = True
            if response.status != HTTPStatus.OK:
                _checked(response, await response.read())
                raise LocalError(code="not_lockstep")
            yield response.content

    def _timeout(self, total: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=total, sock_connect=self._settings.connect_timeout)

    # Tokens -------------------------------------------------------------------------------

    async def token(self) -> str:
        """Return an access token that does not end within the next seconds."""
        credentials = self.credentials
        if credentials.expires_at - time.time() > self._settings.refresh_margin_seconds:
            return credentials.access_token
        try:
            return await self.renewed_token(credentials.access_token)
        except (UnavailableError, RateLimitedError):
            return credentials.access_token

    async def renewed_token(self, stale: str) -> str:
        """Return another access token than `stale`, once for all tasks and processes.

        Under the lock the file is read again: whoever had the lock before may have refreshed.
        """
        store = self._store
        if store is None:
            raise LocalError(code="not_signed_in")
        async with self._refreshing:
            if self.credentials.access_token != stale:
                return self.credentials.access_token
            async with store.locked():
                current = self._same_device(store.require())
                if current.access_token == stale or current.expires_at <= time.time():
                    current = await self._refresh(current)
                    await asyncio.to_thread(store.save, current)
                self._credentials = current
        return current.access_token

    def _same_device(self, current: DeviceCredentials) -> DeviceCredentials:
        """Refuse to go on in the name of another account or device than this process began with."""
        if current.device_id != self.credentials.device_id:
            raise LocalError("Another device was linked here meanwhile", code="not_signed_in")
        return current

    async def _refresh(self, credentials: DeviceCredentials) -> DeviceCredentials:
        answer = await self.send(Call("refresh", body=_RefreshBody(refresh_token=credentials.refresh_token)))
        tokens = Tokens.model_validate_json(answer.content)
        return DeviceCredentials.of(credentials.server, tokens)


class _RefreshBody(BaseModel):
    """`api.RefreshRequest` as it is written: a secret's own JSON form hides it."""

    refresh_token: str


def _repeatable(call: Call, error: LockstepError) -> bool:
    if isinstance(error, (NotSentError, RateLimitedError)):
        return error.code != "too_many_sessions"
    return call.name not in _NOT_REPEATABLE


def _json(body: BaseModel) -> bytes:
    """Return a request's body; None is the same as absent in every request."""
    return body.model_dump_json(exclude_none=True).encode()


def _headers(request_id: str, token: str | None, *, has_body: bool) -> dict[str, str]:
    headers = {"X-Request-ID": request_id}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return {**headers, "Content-Type": "application/json"} if has_body else headers


def _checked(response: aiohttp.ClientResponse, content: bytes) -> Answer:
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise error_of(response.status, content, response.headers.get("Retry-After"))
    if response.status >= HTTPStatus.MULTIPLE_CHOICES:
        raise LocalError(
            f"The server answered {response.status}: use the URL it redirects to", code="not_lockstep"
        )
    return Answer(response.status, content)
