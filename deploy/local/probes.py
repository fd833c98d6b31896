"""Is a server ready? One look each, with the standard library only; who waits is the caller's business."""

import http.client
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

LOOK_SECONDS = 2.0


class Probe(Protocol):
    """One look at a server."""

    def ready(self) -> bool:
        """Whether the server does its work now. Never raises; takes a few seconds at most."""

    def __str__(self) -> str:
        """Where it looks, for messages."""


@dataclass(frozen=True, slots=True)
class AmqpProbe:
    """Ready when the broker answers the protocol header by `Connection.Start`."""

    host: str
    port: int

    def ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), LOOK_SECONDS) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def __str__(self) -> str:
        return f"amqp on {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Ready when connections are accepted: for servers that listen last."""

    host: str
    port: int

    def ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), LOOK_SECONDS):
                return True
        except OSError:
            return False

    def __str__(self) -> str:
        return f"tcp on {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Ready when a GET is answered with one of `statuses`."""

    url: str
    statuses: frozenset[int] = frozenset({200})

    def ready(self) -> bool:
        return self.status() in self.statuses

    def status(self) -> int | None:
        """The status of the answer; None when there is none."""
        try:
            with urllib.request.urlopen(self.url, timeout=LOOK_SECONDS) as answer:  # noqa: S310 - built from our ports
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except (OSError, http.client.HTTPException):
            return None

    def __str__(self) -> str:
        return self.url


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True
