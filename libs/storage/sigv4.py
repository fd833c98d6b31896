"""Presigned URLs by AWS Signature Version 4 (query form), pure arithmetic.

The S3 driver's own presigner walks its whole machinery of endpoints and serialisers for each
URL, about half a millisecond on the event loop; batches need hundreds. This is the algorithm of
"Authenticating Requests: Using Query Parameters" (Amazon S3 API Reference) alone. A test holds
its URLs equal to the driver's.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_UNRESERVED: Final = "-._~"


@dataclass(frozen=True, slots=True)
class Presigner:
    """Signs requests to one bucket, addressed by path, below `endpoint`."""

    endpoint: str
    region: str
    bucket: str
    access_key: str
    secret_key: str

    def url(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        now: datetime,
        seconds: int,
    ) -> str:
        """Return a URL valid from `now` (UTC) for `seconds`.

        `headers` (lower-case names) are bound: the request must carry exactly these values.
        """
        scope = f"{now:%Y%m%d}/{self.region}/s3/aws4_request"
        host, base = _address(self.endpoint)
        bound = {**headers, "host": host}
        signed = {
            **query,
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": ";".join(sorted(bound)),
        }
        path = f"{base}/{quote(f'{self.bucket}/{key}', safe=_UNRESERVED + '/')}"
        text = _canonical_query(signed)
        request = "\n".join((method, path, text, _canonical_headers(bound)))
        signature = _sign(self._key(now), _to_sign(signed["X-Amz-Date"], scope, request))
        return f"{urlsplit(self.endpoint).scheme}://{host}{path}?{text}&X-Amz-Signature={signature.hex()}"

    def _key(self, now: datetime) -> bytes:
        return _signing_key(self.secret_key, f"{now:%Y%m%d}", self.region)


@lru_cache(maxsize=16)
def _address(endpoint: str) -> tuple[str, str]:
    """Return what the Host header will say, and the path below which the endpoint lies."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    visible = host if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{port}"
    return visible, parts.path.rstrip("/")


@lru_cache(maxsize=16)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = _sign(f"AWS4{secret_key}".encode(), day)
    for step in (region, "s3", "aws4_request"):
        key = _sign(key, step)
    return key


def _canonical_query(query: Mapping[str, str]) -> str:
    pairs = sorted(
        (quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query.items()
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def _canonical_headers(bound: Mapping[str, str]) -> str:
    lines = "".join(f"{name}:{bound[name].strip()}\n" for name in sorted(bound))
    return f"{lines}\n{';'.join(sorted(bound))}\nUNSIGNED-PAYLOAD"


def _to_sign(date: str, scope: str, request: str) -> str:
    return "\n".join((_ALGORITHM, date, scope, hashlib.sha256(request.encode()).hexdigest()))


def _sign(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
