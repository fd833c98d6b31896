"""One running upload service for all tests of a file, where those of several files share one in this way."""

from collections.abc import AsyncIterator

import pytest

from tests.support.backends import Backends
from tests.support.upload_world import World, accept, upload_world


@pytest.fixture(scope="module")
async def shared_uploads(backends: Backends) -> AsyncIterator[World]:
    """The service and everything around it."""
    async with upload_world(backends) as world:
        yield world


@pytest.fixture
def uploads(shared_uploads: World) -> World:
    """The same, with a tree that accepts everything and was asked for nothing yet."""
    shared_uploads.tree.decide = accept
    shared_uploads.tree.asked.clear()
    return shared_uploads
