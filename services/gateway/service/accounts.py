"""Accounts: sign up, sign in, change the password, delete.

The account's row is written first and its root namespace asked of metadata afterwards; whoever
signs in next completes what was left undone.
"""

from datetime import UTC, datetime

from libs.contracts.api import Credentials, PasswordChange, Tokens
from libs.contracts.errors import ConflictError, UnauthenticatedError
from libs.contracts.ids import new_id
from libs.contracts.limits import MAX_PASSWORD_CHARS
from libs.web.auth import Caller
from services.gateway.domain.accounts import User, check_device_name, check_password
from services.gateway.service.devices import DeviceLinks
from services.gateway.service.namespaces import Namespaces
from services.gateway.service.passwords import Passwords
from services.gateway.store import EmailTakenError, Users


class Accounts:
    """Use cases about accounts."""

    def __init__(
        self, users: Users, links: DeviceLinks, namespaces: Namespaces, passwords: Passwords
    ) -> None:
        self._users = users
        self._links = links
        self._namespaces = namespaces
        self._passwords = passwords

    async def register(self, credentials: Credentials) -> Tokens:
        """Create an account and link a device.

        Raises `ConflictError` "email_taken". When metadata was away the account stays half made,
        and a repeat with the same password completes it.
        """
        name = check_device_name(credentials.device_name)
        user = await self._new_user(credentials)
        try:
            await self._users.insert(user)
        except EmailTakenError:
            user = await self._claimed(credentials, user)
        return await self._enter(user, name)

    async def _new_user(self, credentials: Credentials) -> User:
        password = check_password(credentials.password.get_secret_value())
        password_hash = await self._passwords.hash(password)
        return User(new_id(), credentials.email, password_hash, new_id(), datetime.now(UTC))

    async def _claimed(self, credentials: Credentials, fresh: User) -> User:
        """Return the half-made account of this email, or `fresh` after finishing a deletion."""
        user = await self._users.by_email(credentials.email)
        if user is None or (user.namespace_ready and not user.deleting):
            raise ConflictError(code="email_taken")
        if not await self._passwords.verify(user.password_hash, credentials.password.get_secret_value()):
            raise ConflictError(code="email_taken")
        if not user.deleting:
            return user
        await self._finish_deletion(user)
        await self._users.insert(fresh)
        return fresh

    async def login(self, credentials: Credentials) -> Tokens:
        """Link a device. Raises `UnauthenticatedError` "invalid_credentials"."""
        name = check_device_name(credentials.device_name)
        password = credentials.password.get_secret_value()
        user = await self._checked(await self._users.by_email(credentials.email), password)
        if user.deleting:
            await self._finish_deletion(user)
            raise UnauthenticatedError(code="invalid_credentials")
        await self._renew_hash(user, password)
        return await self._enter(user, name)

    async def _checked(self, user: User | None, password: str) -> User:
        known = user.password_hash if user is not None else None
        right = len(password) <= MAX_PASSWORD_CHARS and await self._passwords.verify(known, password)
        if user is None or not right:
            raise UnauthenticatedError(code="invalid_credentials")
        return user

    async def _enter(self, user: User, device_name: str) -> Tokens:
        if not user.namespace_ready:
            await self._namespaces.ensure(user.namespace_id, user.id)
            await self._users.mark_ready(user.id)
        return await self._links.link(user, device_name)

    async def _renew_hash(self, user: User, password: str) -> None:
        if self._passwords.is_outdated(user.password_hash):
            try:
                await self._users.replace_hash(
                    user.id, user.password_hash, await self._passwords.hash(password)
                )
            except ConflictError:  # changed in this instant: that hash is fresh
                return

    async def change_password(self, caller: Caller, change: PasswordChange) -> None:
        """Set a new password. Raises "invalid_credentials", "weak_password"."""
        new = check_password(change.new_password.get_secret_value())
        user = await self._owner(caller, change.old_password.get_secret_value())
        await self._users.replace_hash(user.id, user.password_hash, await self._passwords.hash(new))
        if change.revoke_others:
            await self._links.revoke_all(user.id, but=caller.device_id)

    async def delete(self, caller: Caller, password: str) -> None:
        """Delete the account and everything in it.

        The asking device is revoked last, so that it can repeat the call until it succeeds.
        """
        user = await self._owner(caller, password)
        await self._users.mark_deleting(user.id)
        await self._links.revoke_all(user.id, but=caller.device_id)
        await self._finish_deletion(user)

    async def _owner(self, caller: Caller, password: str) -> User:
        return await self._checked(await self._users.by_id(caller.user_id), password)

    async def _finish_deletion(self, user: User) -> None:
        await self._namespaces.remove(user.namespace_id, user.id)
        await self._links.revoke_all(user.id)
        await self._links.forget_all(user.id)
        await self._users.remove(user.id)
