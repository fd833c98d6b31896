"""Users and devices in MongoDB; the gateway is their sole writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from libs.contracts.errors import ConflictError, UnauthenticatedError
from libs.contracts.events import DeviceLinked, DeviceRevoked
from libs.mongo.client import Database, Document, translated
from libs.mongo.names import DEVICES, USERS, outbox_of
from libs.mongo.outbox import Outbox, Transaction
from libs.mongo.schema import create_indexes
from services.gateway.domain.accounts import Device, User, device_name_key
from services.gateway.domain.refresh import Chain

MIGRATIONS: Final = (
    create_indexes(USERS, [IndexModel([("email", ASCENDING)], unique=True)]),
    create_indexes(
        DEVICES,
        [
            IndexModel([("user_id", ASCENDING)]),
            IndexModel(
                [("user_id", ASCENDING), ("name_key", ASCENDING)],
                name="live_names",
                unique=True,
                partialFilterExpression={"linked": True},
            ),
        ],
    ),
    create_indexes(outbox_of("gateway"), [IndexModel([("created_at", ASCENDING)])]),
)


class EmailTakenError(Exception):
    """Another account has this email."""


class NameTakenError(Exception):
    """Another linked device of the account took the name meanwhile."""


class Users:
    """The accounts."""

    def __init__(self, database: Database) -> None:
        self._rows = database[USERS]

    async def insert(self, user: User) -> None:
        """Add an account. Raises `EmailTakenError`."""
        document = {
            "_id": user.id,
            "email": user.email,
            "password_hash": user.password_hash,
            "namespace_id": user.namespace_id,
            "created_at": user.created_at,
            "namespace_ready": user.namespace_ready,
        }
        with translated(), _unique(EmailTakenError):
            await self._rows.insert_one(document)

    async def by_email(self, email: str) -> User | None:
        """Return the account with this (normalised) email, or None."""
        with translated():
            return _user(await self._rows.find_one({"email": email}))

    async def by_id(self, user_id: str) -> User | None:
        """Return the account, or None."""
        with translated():
            return _user(await self._rows.find_one({"_id": user_id}))

    async def mark_ready(self, user_id: str) -> None:
        """Record that metadata has made the root namespace."""
        await self._set({"_id": user_id}, {"namespace_ready": True})

    async def mark_deleting(self, user_id: str) -> None:
        """Record that the account is to go."""
        await self._set({"_id": user_id}, {"deleting": True})

    async def replace_hash(self, user_id: str, old: str, new: str) -> None:
        """Set the password's hash. Raises `ConflictError` when it is no longer `old`."""
        if not await self._set({"_id": user_id, "password_hash": old}, {"password_hash": new}):
            raise ConflictError("The password was changed meanwhile")

    async def remove(self, user_id: str) -> None:
        """Remove the account's row."""
        with translated():
            await self._rows.delete_one({"_id": user_id})

    async def _set(self, query: Document, fields: Document) -> bool:
        with translated():
            return (await self._rows.update_one(query, {"$set": fields})).matched_count == 1


class Devices:
    """The linked devices. Linking and revoking are announced in the same transaction."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._rows = database[DEVICES]
        self._users = database[USERS]
        self._outbox = outbox

    async def link(self, device: Device) -> None:
        """Add a device and announce it.

        Raises `NameTakenError`, and `UnauthenticatedError` when the account is being deleted:
        the write to its row keeps a device from being linked behind the deletion's back.
        """
        document = _device_document(device)
        event = DeviceLinked(
            namespace_id=device.namespace_id,
            user_id=device.user_id,
            device_id=device.id,
            device_name=device.name,
        )

        async def body(transaction: Transaction) -> None:
            query = {"_id": device.user_id, "deleting": {"$ne": True}}
            change = {"$set": {"linked_at": device.created_at}}
            if not (await self._users.update_one(query, change, session=transaction.session)).matched_count:
                raise UnauthenticatedError(code="invalid_credentials")
            await self._rows.insert_one(document, session=transaction.session)
            await transaction.emit(event)

        with _unique(NameTakenError):
            await self._outbox.transact(body)

    async def get(self, device_id: str) -> Device | None:
        """Return a device, revoked or not, or None."""
        with translated():
            row = await self._rows.find_one({"_id": device_id})
        return None if row is None else _device(row)

    async def of_user(self, user_id: str) -> list[Device]:
        """Return all devices of the account, oldest first, revoked ones too."""
        with translated():
            rows = await self._rows.find({"user_id": user_id}).to_list(None)
        return sorted((_device(row) for row in rows), key=lambda device: device.created_at)

    async def replace_chain(self, device_id: str, old: Chain, new: Chain) -> bool:
        """Set the refresh chain; False when it is no longer `old` or the device was revoked."""
        query = {"_id": device_id, "linked": True, "refresh.turn": old.turn}
        with translated():
            result = await self._rows.update_one(query, {"$set": {"refresh": _chain_document(new)}})
        return bool(result.matched_count == 1)

    async def revoke(self, device: Device) -> None:
        """Revoke and announce it; done before counts as done."""
        event = DeviceRevoked(namespace_id=device.namespace_id, user_id=device.user_id, device_id=device.id)
        change = {"$set": {"revoked_at": datetime.now(UTC)}, "$unset": {"linked": "", "refresh": ""}}

        async def body(transaction: Transaction) -> None:
            query = {"_id": device.id, "linked": True}
            result = await self._rows.update_one(query, change, session=transaction.session)
            if result.matched_count:
                await transaction.emit(event)

        await self._outbox.transact(body)

    async def touch(self, device_id: str) -> None:
        """Record that the device was seen now."""
        with translated():
            await self._rows.update_one({"_id": device_id}, {"$set": {"last_seen": datetime.now(UTC)}})

    async def remove_of_user(self, user_id: str) -> None:
        """Remove the rows of all devices of the account."""
        with translated():
            await self._rows.delete_many({"user_id": user_id})


@contextmanager
def _unique(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except DuplicateKeyError as error:
        raise kind from error


def _user(row: Document | None) -> User | None:
    if row is None:
        return None
    return User(
        id=row["_id"],
        email=row["email"],
        password_hash=row["password_hash"],
        namespace_id=row["namespace_id"],
        created_at=row["created_at"],
        namespace_ready=row["namespace_ready"],
        deleting=row.get("deleting", False),
    )


def _device_document(device: Device) -> Document:
    return {
        "_id": device.id,
        "user_id": device.user_id,
        "namespace_id": device.namespace_id,
        "name": device.name,
        "name_key": device_name_key(device.name),
        "created_at": device.created_at,
        "last_seen": device.last_seen,
        "revoked_at": None,
        "linked": True,
        "refresh": _chain_document(device.refresh),
    }


def _device(row: Document) -> Device:
    return Device(
        id=row["_id"],
        user_id=row["user_id"],
        namespace_id=row["namespace_id"],
        name=row["name"],
        created_at=row["created_at"],
        last_seen=row["last_seen"],
        revoked_at=row["revoked_at"],
        refresh=_chain(row.get("refresh")),
    )


def _chain_document(chain: Chain | None) -> Document | None:
    if chain is None:
        return None
    return {"turn": chain.turn, "pending": list(chain.pending), "previous": chain.previous}


def _chain(row: dict[str, Any] | None) -> Chain | None:
    return None if row is None else Chain(row["turn"], tuple(row["pending"]), row["previous"])
