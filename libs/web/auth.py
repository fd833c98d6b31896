"""Who asks, and may they: the check that every service makes itself.

A token names a user and a device. Rows of devices and members are read by id, believed for at
most `auth_cache_seconds`, and forgotten at once when the device is revoked. The services' own
calls to each other carry a short-lived token of another audience.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import jwt
from aiohttp import web

from libs.contracts.errors import NotFoundError, UnauthenticatedError
from libs.contracts.events import DeviceRevoked, Envelope
from libs.messaging.rabbit import Listener, RabbitBus
from libs.mongo.views import DeviceView, Views
from libs.runtime.settings import TokenSettings

_ALGORITHM: Final = "HS256"
_USER_AUDIENCE: Final = "lockstep"
_SERVICE_AUDIENCE: Final = "lockstep-internal"
_SERVICE_TOKEN_SECONDS: Final = 60
_CACHE_ROWS: Final = 50_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """The device that asks and its user."""

    user_id: str
    device_id: str
    device_name: str
    namespace_id: str
    """The user's root namespace."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says."""

    user_id: str
    device_id: str
    namespace_id: str
    expires_at: int


class TokenSigner:
    """Makes and reads tokens. HMAC with the secret that all services share."""

    def __init__(self, settings: TokenSettings) -> None:
        self._secret = settings.token_secret.get_secret_value()
        self.seconds = settings.access_token_seconds

    def access_token(self, user_id: str, device_id: str, namespace_id: str) -> str:
        """Return a token of this user and device."""
        now = int(time.time())
        claims = {"sub": user_id, "did": device_id, "ns": namespace_id, "iat": now, "exp": now + self.seconds}
        return jwt.encode({**claims, "aud": _USER_AUDIENCE}, self._secret, algorithm=_ALGORITHM)

    def read(self, token: str) -> Claims:
        """Return the claims or raise `UnauthenticatedError` ("token_expired" when only too old)."""
        claims = self._decode(token, _USER_AUDIENCE, ["sub", "did", "ns", "exp"])
        return Claims(claims["sub"], claims["did"], claims["ns"], claims["exp"])

    def service_token(self, service: str) -> str:
        """Return the token with which a service calls another one."""
        claims = {"sub": service, "aud": _SERVICE_AUDIENCE, "exp": int(time.time()) + _SERVICE_TOKEN_SECONDS}
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)

    def check_service(self, token: str) -> str:
        """Return the calling service's name or raise `UnauthenticatedError`."""
        return str(self._decode(token, _SERVICE_AUDIENCE, ["sub", "exp"])["sub"])

    def _decode(self, token: str, audience: str, required: list[str]) -> dict[str, Any]:
        try:
            return dict(
                jwt.decode(
                    token,
                    self._secret,
                    algorithms=[_ALGORITHM],
                    audience=audience,
                    options={"require": required},
                )
            )
        except jwt.ExpiredSignatureError as error:
            raise UnauthenticatedError(code="token_expired") from error
        except jwt.InvalidTokenError as error:
            raise UnauthenticatedError from error


class _Cache(Generic[T]):
    """Values that are believed for some seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._rows: dict[str, tuple[float, T]] = {}

    def get(self, key: str) -> T | None:
        row = self._rows.get(key)
        return row[1] if row is not None and row[0] > self._clock() else None

    def put(self, key: str, value: T) -> None:
        if len(self._rows) >= _CACHE_ROWS:
            self._rows.clear()
        self._rows[key] = (self._clock() + self._seconds, value)

    def forget(self, key: str) -> None:
        self._rows.pop(key, None)


class Authenticator:
    """Checks tokens, devices and membership."""

    def __init__(self, settings: TokenSettings, views: Views) -> None:
        self.signer = TokenSigner(settings)
        self._views = views
        self._devices: _Cache[DeviceView] = _Cache(settings.auth_cache_seconds)
        self._members: _Cache[dict[str, str]] = _Cache(settings.auth_cache_seconds)

    async def caller(self, authorization: str | None) -> Caller:
        """Return who asks or raise `UnauthenticatedError`."""
        claims = self.signer.read(bearer(authorization))
        device = await self._device(claims.device_id)
        if device is None or device.user_id != claims.user_id:
            raise UnauthenticatedError
        if device.revoked:
            raise UnauthenticatedError(code="device_revoked")
        return Caller(claims.user_id, device.id, device.name, claims.namespace_id)

    async def check_member(self, caller: Caller, namespace_id: str) -> None:
        """Return when the caller is a member of the namespace, else raise `NotFoundError`."""
        members = self._members.get(namespace_id)
        if members is None:
            members = await self._views.members(namespace_id)
            if members:
                self._members.put(namespace_id, members)
        if caller.user_id not in members:
            raise NotFoundError

    async def _device(self, device_id: str) -> DeviceView | None:
        device = self._devices.get(device_id)
        if device is None:
            device = await self._views.device(device_id)
            if device is not None:
                self._devices.put(device_id, device)
        return device

    def forget_device(self, device_id: str) -> None:
        """Read the device's row anew next time."""
        self._devices.forget(device_id)

    def forget_namespace(self, namespace_id: str) -> None:
        """Read the namespace's members anew next time."""
        self._members.forget(namespace_id)

    async def follow(self, bus: RabbitBus) -> Listener:
        """Forget rows as events revoke them."""

        async def on_event(envelope: Envelope) -> None:
            revoked = DeviceRevoked.model_validate(envelope.data)
            self.forget_device(str(revoked.device_id))
            self.forget_namespace(revoked.namespace_id)

        return await bus.listen((f"{DeviceRevoked.topic}.*",), on_event)


def bearer(authorization: str | None) -> str:
    """Return the token of an Authorization header or raise `UnauthenticatedError`."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError
    return token.strip()


AUTH: Final = web.AppKey("auth", Authenticator)


async def caller_of(request: web.Request) -> Caller:
    """Return who makes this request or raise `UnauthenticatedError`."""
    return await request.app[AUTH].caller(request.headers.get("Authorization"))


async def namespace_of(request: web.Request, caller: Caller, namespace_id: str | None) -> str:
    """Return the namespace asked for (the caller's own by default), membership checked."""
    chosen = namespace_id or caller.namespace_id
    await request.app[AUTH].check_member(caller, chosen)
    return chosen


def require_service(request: web.Request) -> str:
    """Return the name of the calling service or raise `UnauthenticatedError`."""
    return request.app[AUTH].signer.check_service(bearer(request.headers.get("Authorization")))
