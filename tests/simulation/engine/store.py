"""The object store of the simulation: what presigned URLs allow, and what they do."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

URL = "http://127.0.0.1:1/s3/"
_LIFETIME = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Permit:
    """What one URL allows. `size` None: to read."""

    key: str
    expires_at: datetime
    size: int | None = None
    sha256: str | None = None
    part: int | None = None


@dataclass
class Store:
    """Objects and parts by key. Bytes are taken only when they have the signed length and hash."""

    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    permits: dict[str, Permit] = field(default_factory=dict)
    puts: int = 0
    gets: int = 0
    sent: int = 0
    given: int = 0
    """Payload bytes that were taken, and that were read."""
    _numbers: Any = field(default_factory=lambda: count(1))

    def sign(
        self,
        key: str,
        now: datetime,
        *,
        size: int | None = None,
        sha256: str | None = None,
        part: int | None = None,
    ) -> tuple[str, datetime]:
        """Return a URL and when it expires."""
        permit = Permit(key, now + _LIFETIME, size, sha256, part)
        url = f"{URL}{next(self._numbers)}"
        self.permits[url] = permit
        return url, permit.expires_at

    def size(self, key: str) -> int | None:
        """Return the size of an object; None when there is none."""
        return len(self.objects[key]) if key in self.objects else None

    def put(self, url: str, content: bytes, now: datetime) -> tuple[int, bytes]:
        """Return status and body."""
        permit = self.permits.get(url)
        if permit is None or permit.size is None or now > permit.expires_at:
            return 403, b"<Error><Code>AccessDenied</Code></Error>"
        if len(content) != permit.size or hashlib.sha256(content).hexdigest() != permit.sha256:
            return 400, b"<Error><Code>BadDigest</Code></Error>"
        self.puts += 1
        self.sent += len(content)
        if permit.part is None:
            self.objects[permit.key] = content
        elif permit.key not in self.objects:
            self.parts.setdefault(permit.key, {})[permit.part] = content
        return 200, b""

    def get(
        self, url: str, span: tuple[int, int | None] | None, now: datetime
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of a read: all, or from a byte on, or to a last one."""
        permit = self.permits.get(url)
        if permit is None or permit.size is not None or now > permit.expires_at:
            return 403, b"<Error><Code>AccessDenied</Code></Error>", {}
        if permit.key not in self.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        self.gets += 1
        content = self.objects[permit.key]
        if span is None:
            self.given += len(content)
            return 200, content, {}
        first, last = span[0], len(content) - 1 if span[1] is None else min(span[1], len(content) - 1)
        if first > last:
            return 416, b"<Error><Code>InvalidRange</Code></Error>", {}
        self.given += last + 1 - first
        whole = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1], {"Content-Range": whole}
