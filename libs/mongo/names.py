"""The collections and who writes them (the sole writer of each is named)."""

from typing import Final

USERS: Final = "users"  # gateway
DEVICES: Final = "devices"  # gateway
NAMESPACES: Final = "namespaces"  # metadata
COUNTERS: Final = "counters"  # metadata
NODES: Final = "nodes"  # metadata
VERSIONS: Final = "versions"  # metadata
OBJECTS: Final = "objects"  # metadata
COMMITS: Final = "commits"  # metadata: what became of each completion, for idempotency
USAGE: Final = "usage"  # metadata
UPLOADS: Final = "uploads"  # upload
UPLOAD_PARTS: Final = "upload_parts"  # upload
LEASES: Final = "leases"  # janitor
SCHEMA: Final = "schema"  # each service its own document


def outbox_of(service: str) -> str:
    """Return the name of a service's own outbox."""
    return f"outbox_{service}"
