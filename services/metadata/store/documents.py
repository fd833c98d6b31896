"""Nodes, versions and objects as MongoDB documents."""

import dataclasses
from typing import Any

from libs.contracts.paths import name_key
from libs.contracts.tree import BaseVersion, Kind
from libs.mongo.client import Document
from services.metadata.domain.model import Node, Object, Version, from_micros

_APART = {"id", "kind", "damaged", "base", "purging"}
_NODE_FIELDS = tuple(field.name for field in dataclasses.fields(Node) if field.name not in _APART)
_VERSION_FIELDS = tuple(field.name for field in dataclasses.fields(Version) if field.name not in _APART)


def node_document(node: Node) -> Document:
    """Return the whole document. Times are kept in microseconds: `changed_us` is what orders.

    `deleted_in` is the folder of a deleted node. `deleted_at` queues it for its purge: since when it
    is deleted, or out of sight below a folder that was deleted later. `purging` replaces it when that
    time is over.
    """
    document: dict[str, Any] = {"_id": node.id, "kind": node.kind.value, "name_key": name_key(node.name)}
    document.update({name: getattr(node, name) for name in _NODE_FIELDS})
    if node.damaged:
        document["damaged"] = list(node.damaged)
    document.update(_base_fields(node.base))
    if node.deleted:
        document["deleted_in"] = node.parent_id
    if node.purging:
        document["purging"] = True
    elif node.deleted:
        document["deleted_at"] = from_micros(node.changed_us)
    return document


def node_of(document: Document) -> Node:
    """Return the node of a document."""
    fields = {name: document[name] for name in _NODE_FIELDS}
    return Node(
        id=document["_id"],
        kind=Kind(document["kind"]),
        damaged=tuple(document.get("damaged", ())),
        base=_base_of(document),
        purging=document.get("purging", False),
        **fields,
    )


def version_document(version: Version) -> Document:
    """Return the whole document, with the time also as one that people and views can read."""
    document: dict[str, Any] = {"_id": version.id, "created_at": from_micros(version.created_us)}
    document.update({name: getattr(version, name) for name in _VERSION_FIELDS})
    document.update(_base_fields(version.base))
    return document


def version_of(document: Document) -> Version:
    """Return the version of a document."""
    fields = {name: document[name] for name in _VERSION_FIELDS}
    return Version(id=document["_id"], base=_base_of(document), **fields)


def _base_fields(base: BaseVersion | None) -> Document:
    """Return what is there only of a content that was put together."""
    return {} if base is None else {"base": base.model_dump()}


def _base_of(document: Document) -> BaseVersion | None:
    base = document.get("base")
    return None if base is None else BaseVersion.model_validate(base)


def object_document(item: Object, now: Any) -> Document:
    """Return the document of a new object. `unverified_since` is there while the hash is only claimed."""
    document = {
        "_id": item.id,
        "namespace_id": item.namespace_id,
        "key": item.key,
        "size": item.size,
        "content_hash": item.content_hash,
        "state": "live",
        "verified": item.verified,
        "corrupt": False,
        "manifest": None,
        "created_at": now,
        "last_ref_at": now,
    }
    return document if item.verified else {**document, "unverified_since": now}


def object_of(document: Document) -> Object:
    """Return the object of a document."""
    return Object(
        id=document["_id"],
        namespace_id=document["namespace_id"],
        key=document["key"],
        size=document["size"],
        content_hash=document["content_hash"],
        live=document["state"] == "live",
        verified=document["verified"],
        corrupt=document["corrupt"],
    )
