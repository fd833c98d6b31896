"""How services call each other: one session, a service token, the request id handed on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from pydantic import BaseModel

from libs.contracts.api import Problem
from libs.contracts.errors import LockstepError, UnavailableError, error_from_code
from libs.runtime.logs import current_request_id
from libs.web.app import REQUEST_ID_HEADER
from libs.web.auth import TokenSigner

Model = TypeVar("Model", bound=BaseModel)


@asynccontextmanager
async def open_client(
    signer: TokenSigner, service: str, *, timeout: float = 10
) -> AsyncIterator["ServiceClient"]:
    """Open a client for calls that `service` makes; `timeout` in seconds for each."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session:
        yield ServiceClient(session, signer, service)


class ServiceClient:
    """Calls of internal endpoints (`/internal/…`)."""

    def __init__(self, session: aiohttp.ClientSession, signer: TokenSigner, service: str) -> None:
        self._session = session
        self._signer = signer
        self._service = service

    async def call(self, method: str, url: str, body: BaseModel | None = None) -> bytes:
        """Return the body of a 2xx answer.

        Raises the error that the problem document names, `UnavailableError` when the service
        does not answer.
        """
        try:
            async with self._session.request(
                method, url, data=_json(body), headers=self._headers()
            ) as answer:
                content = await answer.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise UnavailableError("A service does not answer", retry_after=2) from error
        if answer.status >= 400:
            raise _error_of(content, answer.status)
        return content

    async def fetch(self, method: str, url: str, model: type[Model], body: BaseModel | None = None) -> Model:
        """Call and parse the answer as `model`."""
        return model.model_validate_json(await self.call(method, url, body))

    def _headers(self) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self._signer.service_token(self._service)}",
            "Content-Type": "application/json",
        }
        request_id = current_request_id()
        return {**headers, REQUEST_ID_HEADER: request_id} if request_id else headers


def _json(body: BaseModel | None) -> bytes | None:
    return None if body is None else body.model_dump_json().encode()


def _error_of(content: bytes, status: int) -> LockstepError:
    try:
        problem = Problem.model_validate_json(content)
    except ValueError:
        return UnavailableError(f"A service answered {status} without a problem document")
    extra: dict[str, Any] = {} if problem.retry_after is None else {"retry_after": problem.retry_after}
    return error_from_code(problem.code, problem.detail, **extra)
