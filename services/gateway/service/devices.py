"""Linked devices: tokens, their rotation, revocation."""

import time
from datetime import UTC, datetime
from typing import Final

from libs.contracts import api
from libs.contracts.errors import ConflictError, NotFoundError, UnauthenticatedError, UnavailableError
from libs.contracts.ids import new_id
from libs.runtime.logs import get_logger
from libs.web.auth import Authenticator, Caller
from services.gateway.domain.accounts import Device, User, device_name_key, free_device_name
from services.gateway.domain.refresh import (
    RefreshToken,
    Use,
    first_chain,
    judge,
    make_token,
    next_turn,
    read_token,
    rotated,
)
from services.gateway.store import Devices, NameTakenError

log = get_logger("devices")

_TRIES: Final = 10
_SEEN_ROWS: Final = 100_000


class DeviceLinks:
    """Use cases about devices. `key` is what tags of refresh tokens are made with."""

    def __init__(
        self, devices: Devices, auth: Authenticator, *, key: bytes, last_seen_interval: float
    ) -> None:
        self._devices = devices
        self._auth = auth
        self._key = key
        self._interval = last_seen_interval
        self._seen: dict[str, float] = {}

    async def link(self, user: User, name: str) -> api.Tokens:
        """Link a new device, its name made unique in the account."""
        for _ in range(_TRIES):
            device_id = new_id()
            token = make_token(device_id, self._key)
            device = Device(
                id=device_id,
                user_id=user.id,
                namespace_id=user.namespace_id,
                name=free_device_name(name, await self._names(user.id)),
                created_at=datetime.now(UTC),
                last_seen=datetime.now(UTC),
                refresh=first_chain(token),
            )
            try:
                await self._devices.link(device)
            except NameTakenError:
                continue
            return self._tokens(device, token)
        raise ConflictError("Other devices are being linked at the same time", code="conflict")

    async def _names(self, user_id: str) -> set[str]:
        devices = await self._devices.of_user(user_id)
        return {device_name_key(device.name) for device in devices if device.revoked_at is None}

    def _tokens(self, device: Device, token: RefreshToken) -> api.Tokens:
        signer = self._auth.signer
        return api.Tokens(
            access_token=signer.access_token(device.user_id, device.id, device.namespace_id),
            expires_in=signer.seconds,
            refresh_token=token.text,
            user_id=device.user_id,
            device_id=device.id,
            device_name=device.name,
            namespace_id=device.namespace_id,
        )

    async def refresh(self, text: str) -> api.Tokens:
        """Trade a refresh token for new tokens; safe for two at once.

        Raises "refresh_invalid", "device_revoked", and "refresh_reused" after revoking the device.
        """
        token = read_token(text, self._key)
        if token is None:
            raise UnauthenticatedError(code="refresh_invalid")
        for _ in range(_TRIES):
            tokens = await self._rotate(token)
            if tokens is not None:
                return tokens
        raise UnavailableError("The device's tokens are being refreshed elsewhere", retry_after=1)

    async def _rotate(self, token: RefreshToken) -> api.Tokens | None:
        """Do one compare-and-set; None when another refresh came first."""
        device = await self._devices.get(token.device_id)
        if device is None:
            raise UnauthenticatedError(code="refresh_invalid")
        if device.revoked_at is not None or device.refresh is None:
            raise UnauthenticatedError(code="device_revoked")
        match judge(device.refresh, token):
            case Use.INVALID:
                raise UnauthenticatedError(code="refresh_invalid")
            case Use.REUSED:
                log.warning("a refresh token was used again: the device is revoked", device_id=device.id)
                await self._revoke(device)
                raise UnauthenticatedError(code="refresh_reused")
            case Use.ROTATE:
                fresh = make_token(device.id, self._key, turn=next_turn(device.refresh, token))
                chain = rotated(device.refresh, token, fresh)
                done = await self._devices.replace_chain(device.id, device.refresh, chain)
                return self._tokens(device, fresh) if done else None

    async def listed(self, caller: Caller) -> api.Devices:
        """Return all devices of the caller's account."""
        devices = await self._devices.of_user(caller.user_id)
        return api.Devices(items=[_shown(device, caller) for device in devices])

    async def revoke(self, caller: Caller, device_id: str) -> None:
        """Revoke a device of the caller's account. Raises `NotFoundError`."""
        device = await self._devices.get(device_id)
        if device is None or device.user_id != caller.user_id:
            raise NotFoundError
        await self._revoke(device)

    async def revoke_all(self, user_id: str, *, but: str | None = None) -> None:
        """Revoke the account's devices, except one."""
        for device in await self._devices.of_user(user_id):
            if device.revoked_at is None and device.id != but:
                await self._revoke(device)

    async def forget_all(self, user_id: str) -> None:
        """Remove the rows of the account's devices."""
        await self._devices.remove_of_user(user_id)

    async def _revoke(self, device: Device) -> None:
        await self._devices.revoke(device)
        self._auth.forget_device(device.id)

    async def seen(self, caller: Caller) -> None:
        """Record, now and then, that the device was here; failing to is no harm."""
        now = time.monotonic()
        if now < self._seen.get(caller.device_id, 0.0):
            return
        if len(self._seen) >= _SEEN_ROWS:
            self._seen.clear()
        self._seen[caller.device_id] = now + self._interval
        try:
            await self._devices.touch(caller.device_id)
        except UnavailableError:
            return


def _shown(device: Device, caller: Caller) -> api.Device:
    return api.Device(
        id=device.id,
        name=device.name,
        current=device.id == caller.device_id,
        created_at=device.created_at,
        last_seen=device.last_seen,
        revoked=device.revoked_at is not None,
    )
