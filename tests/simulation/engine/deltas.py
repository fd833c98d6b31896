"""Differences as the simulation's server makes them and carries them out: the real formats and checks."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from libs.contracts import recipe as recipes
from libs.contracts.binary import MalformedError
from libs.contracts.chunks import Manifest
from libs.contracts.recipe import Copy, Op, Recipe, recipe_of
from libs.delta.content import ContentReader
from libs.delta.package import Reader
from services.download.domain import worth_it
from services.upload.domain.session import DeltaSource, Entry

_PIECE: Final = 16


def composed(entry: Entry, source: DeltaSource, objects: Mapping[str, bytes]) -> bytes | None:
    """Return the content of an entry put together of base and delta object; None when they do not give it."""
    base = objects.get(source.base_key)
    if base is None:
        return None
    try:
        recipe, literals = _unpacked(objects[source.key])
        recipes.check(recipe, len(base), entry.size)
        content = _carried_out(recipe, base, literals)
    except MalformedError:
        return None
    return content if hashlib.sha256(content).hexdigest() == entry.content_hash else None


def _unpacked(sent: bytes) -> tuple[Recipe, bytes]:
    reader, literals = Reader(), bytearray()
    for at in range(0, len(sent), _PIECE):
        for literal in reader.feed(sent[at : at + _PIECE]):
            literals += literal
    reader.finish()
    assert reader.recipe is not None
    return reader.recipe, bytes(literals)


def _carried_out(recipe: Recipe, base: bytes, literals: bytes) -> bytes:
    content, used = bytearray(), 0
    for op in recipe.ops:
        if isinstance(op, Copy):
            content += base[op.offset : op.offset + op.length]
        else:
            content += literals[used : used + op.length]
            used += op.length
    return bytes(content)


def difference(old: bytes, new: bytes) -> Recipe | None:
    """Return how one content is made of another; None when that saves too little."""
    before, after = _manifest(old), _manifest(new)
    if before is None or after is None or before.average != after.average:
        return None
    recipe = recipe_of(before, after)
    return recipe if worth_it(recipe, len(new)) else None


def _manifest(content: bytes) -> Manifest | None:
    reader = ContentReader(len(content))
    reader.update(content)
    return reader.manifest()


def told(recipe: Recipe) -> str:
    """Return a recipe as it travels."""
    return base64.b64encode(recipes.encode(recipe)).decode("ascii")


def lie(recipe: Recipe, base_size: int) -> Recipe:
    """Return a recipe that can be carried out, and gives other bytes: each copy is taken from beside."""
    return Recipe(tuple(_beside(op, base_size) for op in recipe.ops))


def _beside(op: Op, base_size: int) -> Op:
    if not isinstance(op, Copy):
        return op
    beside = op.offset + 1 if op.offset + op.length < base_size else max(0, op.offset - 1)
    return Copy(beside, op.length)
