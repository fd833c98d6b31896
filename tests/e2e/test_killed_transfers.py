"""Scenarios 73, 74 and 81: the agent is killed at every step of a transfer, and the next run ends it.

A first run is recorded by a proxy before the gateway and S3 (`tests.support.step_proxy`). Then each of its
steps is where another run, of another content, is killed: before the request, in the middle of its body,
and when it was carried out but not answered. The steps are not listed here, so one that is added to a flow
is met, too.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

import pytest

from tests.support.agent_process import running
from tests.support.backends import Backends
from tests.support.devices import Account, Device, check_same, tree_of
from tests.support.settling import done_by, server_tree, versions
from tests.support.stack import Stack, running_stack
from tests.support.step_proxy import StepProxy, Stop, step_proxy, stops_of
from tests.support.waiting import wait_until

MIB = 1024 * 1024
PART = 5 * MIB
SIZE = 2 * PART + MIB
"""Three parts, the smallest content that the agent sends by parts."""
DIFFERENCE = 400_000
"""More than the delta object of a few edits has."""
FILES = 4
POLLED = {"GET /v1/uploads/{id}", "GET /v1/sync"}
"""What a run may do without, as it happens to be fast."""


@pytest.fixture(scope="module")
def proxy(backends: Backends) -> Iterator[StepProxy]:
    with step_proxy(backends.s3_endpoint, "") as running_proxy:
        yield running_proxy


@pytest.fixture(scope="module")
def stack(backends: Backends, proxy: StepProxy) -> Iterator[Stack]:
    """A stack of its own, whose devices reach gateway and S3 through the proxy."""
    settings = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": proxy.urls[0], "LOCKSTEP_PART_BYTES": str(PART)}
    with running_stack(backends, settings) as started:
        proxy.targets[1] = started.gateway_url
        yield started


@dataclass
class World:
    """Two devices behind the proxy."""

    proxy: StepProxy
    a: Device
    b: Device
    random: Random


Flow = Callable[["World"], dict[str, int]]
"""Changes files of A, and says which with how many bytes at most have to travel for each."""


@pytest.fixture
def world(proxy: StepProxy, account: Account) -> World:
    account.server = proxy.urls[1]
    a, b = account.link("A", register=True), account.link("B")
    for device in (a, b):
        # One at a time, so that a run is like the one before it.
        device.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1", "LOCKSTEP_AGENT_SMALL_PARALLEL": "1"}
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    return World(proxy, a, b, Random(seed))


# The flows ------------------------------------------------------------------------------------


def a_file_in_parts(world: World) -> dict[str, int]:
    world.a.write("big.bin", world.random.randbytes(SIZE))
    return {"big.bin": SIZE}


def a_difference(world: World) -> dict[str, int]:
    path = world.a.path("big.bin")
    if not path.exists():
        a_file_in_parts(world)
        for device in (world.a, world.b):
            device.quick_sync()
    content = bytearray(path.read_bytes())
    for quarter in range(1, 4):  # far from each other, so that a run has as many ranges as the one before
        at = quarter * len(content) // 4
        content[at : at + 200] = world.random.randbytes(200)
    world.a.write("big.bin", bytes(content))
    return {"big.bin": DIFFERENCE}


def a_batch(world: World) -> dict[str, int]:
    for number in range(FILES):
        world.a.write(f"small-{number}", world.random.randbytes(50_000 + number))
    return {f"small-{number}": 50_000 + number for number in range(FILES)}


# The rules ------------------------------------------------------------------------------------


def recorded(world: World, device: Device) -> list[Stop]:
    """Let a run of a device pass without harm; where later ones will be stopped."""
    world.proxy.begin()
    with running(device) as process:
        assert process.wait() == 0, process.log.read_text()
    print(f"{device.name}: {', '.join(map(str, world.proxy.steps))}")
    stops = stops_of(world.proxy.steps)
    assert any(stop.step.payload for stop in stops)
    return stops


def killed(world: World, device: Device, stop: Stop) -> bool:
    """Kill a run of a device at the stop; false when it ended without coming there."""
    world.proxy.begin(stop)
    with running(device) as process:
        wait_until(lambda: world.proxy.reached.is_set() or not process.running, 60, f"a run is {stop}")
        process.kill()
    wait_until(lambda: world.proxy.idle, 30, "the proxy has noticed that the agent is gone")
    return world.proxy.reached.is_set()


def check_continued(world: World, device: Device, whole: dict[str, int], stop: Stop) -> bool:
    """Kill a run there and have another end its work, without repeating it; whether the stop was met."""
    met = killed(world, device, stop)
    first = world.proxy.carried
    world.proxy.begin()
    report = device.quick_sync()
    second = world.proxy.carried
    again = 0 if len(whole) == 1 else sum(whole.values())  # nobody continues a batch: it is sent anew
    assert sum(second.up[one] for one in set(second.up) & set(first.up)) <= again, "sent twice"
    assert not second.again
    assert report["uploaded_bytes"] == sum(second.up.values())
    assert sum(first.up.values()) + sum(second.up.values()) <= sum(whole.values()) + again
    in_flight = sum(first.down) if len(whole) > 1 else 0  # small files on their way from wire to disk
    assert sum(first.down) + sum(second.down) <= sum(whole.values()) + in_flight, "fetched twice"
    check_nothing_left(world, device)
    return met


def check_nothing_left(world: World, device: Device) -> None:
    """Nothing is left of what was killed, and the folder is what the server has."""
    check_same(tree_of(device.folder), server_tree(device), f"{device.name} and the server")
    left = [path.name for path in (device.folder / ".lockstep" / "tmp").iterdir()]
    assert not left, f"left in .lockstep/tmp: {left}"
    assert not [name for name in device.names() if "conflicted" in name], "a conflicted copy"
    left_open = [upload["id"] for upload in device.get("/v1/uploads?state=open")["items"]]
    assert not left_open, f"left open: {left_open}"
    assert device is world.a or device.names() == world.a.names()


def check_round(world: World, flow: Flow, stops: tuple[Stop | None, Stop | None]) -> list[Stop]:
    """Have a change brought from A to B, each killed on the way; the stops that were not met."""
    whole, unmet = flow(world), list[Stop]()
    before = version_counts(world.a)
    for device, stop in zip((world.a, world.b), stops, strict=True):
        if stop is None:
            device.quick_sync()
        elif not check_continued(world, device, whole, stop):
            unmet.append(stop)
    assert version_counts(world.a) == before | {path: before.get(path, 0) + 1 for path in whole}
    return unmet


def version_counts(device: Device) -> dict[str, int]:
    """How many versions each file has."""
    return {path: len(versions(device, row["id"])) for path, row in device.ls().items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "flow", [a_file_in_parts, a_difference, a_batch], ids=lambda flow: flow.__name__.replace("_", " ")
)
def test_agents_that_are_killed_at_any_step_go_on_and_bring_one_version(flow: Flow, world: World) -> None:
    flow(world)
    stops = [recorded(world, device) for device in (world.a, world.b)]
    unmet, broken = list[Stop](), list[str]()
    for up, down in zip_longest(*stops):
        try:
            unmet += check_round(world, flow, (up, down))
        except AssertionError as error:
            broken.append(f"killed {up} and {down}: {error}")
            for device in (world.a, world.b):
                device.quick_sync()
    assert not broken, "\n\n".join(broken)
    planned = {stop for side in stops for stop in side}
    never = {stop.step.name for stop in planned} - {stop.step.name for stop in planned - {*unmet}}
    assert never <= POLLED, f"no run was killed at {never}"
    assert converged(world), "a further run has nothing to do"


def converged(world: World) -> bool:
    """Whether further runs do nothing."""
    return not done_by(world.a) and not done_by(world.b)
