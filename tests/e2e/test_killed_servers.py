"""Scenarios 94, 97 and 133: services and backends are killed in the middle of large transfers.

Also what an agent that died for good leaves behind, and two that die again and again over one session. The
backends are this file's own, and steps of agents and of the upload service are where they are killed
(`tests.support.step_proxy`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.support.agent_process import AgentProcess, running
from tests.support.backends import Backends, LocalBackends
from tests.support.devices import Account, Device, check_same, hash_of, tree_of
from tests.support.s3_client import s3_client
from tests.support.settling import server_tree, versions
from tests.support.stack import Stack, running_stack
from tests.support.step_proxy import Step, StepProxy, Stop, When, step_proxy
from tests.support.waiting import wait_until

MIB = 1024 * 1024
PART = 5 * MIB
SIZE = 2 * PART + MIB
"""Three parts, the smallest content that the agent sends by parts."""
SERVICES = ("gateway", "upload", "download", "metadata", "notification")
BACKENDS = ("s3", "mongo", "rabbitmq")
MOST_KILLS = 40
ENDS = 120
"""Seconds that a transfer may take after a kill; the longest pause of a repeating agent is far below."""
SETTINGS = {
    "LOCKSTEP_PART_BYTES": str(PART),
    "LOCKSTEP_COMMIT_WAIT": "1",
    "LOCKSTEP_LEASE_SECONDS": "3",
    "LOCKSTEP_REDRIVE_SECONDS": "2",
    "LOCKSTEP_JANITOR_REDRIVE_INTERVAL": "0.5",
    "LOCKSTEP_JANITOR_EXPIRE_INTERVAL": "0.5",
}


@pytest.fixture(scope="module")
def backends() -> Iterator[Backends]:
    """Backends that may be killed: nobody else uses them."""
    with LocalBackends() as found:
        yield found


@pytest.fixture(scope="module")
def inner(backends: Backends) -> Iterator[StepProxy]:
    """What the services ask of S3 passes here."""
    with step_proxy(backends.s3_endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def proxy(backends: Backends) -> Iterator[StepProxy]:
    """What the devices ask of S3 and of the gateway passes here."""
    with step_proxy(backends.s3_endpoint, "") as running_proxy:
        yield running_proxy


@pytest.fixture(scope="module")
def stack(backends: Backends, proxy: StepProxy, inner: StepProxy) -> Iterator[Stack]:
    addresses = {"LOCKSTEP_S3_ENDPOINT": inner.urls[0], "LOCKSTEP_S3_PUBLIC_ENDPOINT": proxy.urls[0]}
    with running_stack(backends, SETTINGS | addresses) as started:
        proxy.targets[1] = started.gateway_url
        yield started


@pytest.fixture
def account(stack: Stack, proxy: StepProxy, account: Account) -> Account:
    account.server = proxy.urls[1]
    return account


@pytest.fixture
def kill(stack: Stack, backends: Backends) -> Callable[[str], None]:
    """Kill a service or a backend as `kill -9` does."""
    return lambda name: backends.kill(name) if name in BACKENDS else stack.kill(name)


@pytest.fixture
def start(stack: Stack, backends: Backends) -> Callable[[str], None]:
    """Start it again; returns when all are ready."""

    def run(name: str) -> None:
        if name in BACKENDS:
            backends.start(name)
        stack.ensure_running()

    return run


def live(device: Device) -> list[dict[str, Any]]:
    """The sessions that have not ended."""
    items: list[dict[str, Any]] = device.get("/v1/uploads?state=open")["items"]
    return items


def is_there(device: Device, path: str) -> bool:
    """Whether the server has the file as the device has it."""
    row = device.ls().get(path)
    return row is not None and row["content_hash"] == hash_of(device.path(path).read_bytes())


def check_one_version(device: Device, path: str) -> None:
    """The server has what the device has, once, and no session is left that holds bytes.

    An agent may have died with one open that it needed none for, its content having just been committed.
    """
    assert is_there(device, path)
    assert len(versions(device, device.ls()[path]["id"])) == 1
    assert {entry["mode"] for session in live(device) for entry in session["entries"]} <= {"stored"}
    assert device.names() == set(device.ls()), "no conflicted copy"


# Kills during transfers -------------------------------------------------------------------------

UP_AND_DOWN = (Stop(Step("PUT part 2"), "after"), Stop(Step("GET range", 2), "before"))
"""A part is with S3 and the agent does not know it; another device is fetching ranges."""


@pytest.mark.timeout(600)
def test_a_transfer_survives_the_kill_of_each_server_and_repeats_nothing(
    account: Account, proxy: StepProxy, kill: Callable[[str], None], start: Callable[[str], None]
) -> None:
    """A keeps its folder in step and sends a file, while B fetches by `sync` another that A has sent."""
    a, b = account.link("A", register=True), account.link("B")
    a.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1"}
    b.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "2"}  # with one, all ranges would come in one request
    with running(a, "start") as agent:
        for name in (*SERVICES, *BACKENDS):
            a.write(f"before {name}", os.urandom(SIZE))
            wait_until(partial(is_there, a, f"before {name}"), ENDS, "there is something to fetch")
            proxy.begin(*UP_AND_DOWN)
            a.write(name, os.urandom(SIZE))
            with running(b) as fetching:
                assert proxy.reached.wait(ENDS), f"both are under way before {name} is killed"
                kill(name)
                proxy.go_on()
                start(name)
                wait_until(partial(is_there, a, name), ENDS, f"A is done though {name} was killed")
                fetching.wait()
            b.quick_sync()
            assert proxy.carried.again == [], f"sent twice because {name} was killed"
            assert sum(proxy.carried.down) == 2 * SIZE, "fetched twice"
            check_one_version(a, name)
            check_same(tree_of(b.folder), server_tree(b), f"B and the server after a kill of {name}")
        assert agent.interrupt() == 0
    assert tree_of(a.folder) == tree_of(b.folder)


# Kills during the commit ------------------------------------------------------------------------

JOINING: list[tuple[str, When]] = [
    ("upload", "before"),
    ("upload", "after"),
    ("s3", "before"),
    ("mongo", "after"),
    ("rabbitmq", "after"),
    ("metadata", "after"),
]


@pytest.mark.timeout(600)
def test_a_session_whose_commit_is_under_way_ends_once_whatever_is_killed(
    account: Account,
    proxy: StepProxy,
    inner: StepProxy,
    kill: Callable[[str], None],
    start: Callable[[str], None],
) -> None:
    """The kill comes while the parts are joined: before S3 has done it, and after it has, unheard."""
    a = account.link("A", register=True)
    a.quick_sync()
    with running(a, "start") as agent:
        for name, when in JOINING:
            path = f"{name} {when}"
            proxy.begin()
            inner.begin(Stop(Step("join"), when))
            a.write(path, os.urandom(SIZE))
            assert inner.reached.wait(ENDS), f"the parts of {path} are being joined"
            assert [session["state"] for session in live(a)] == ["completing"]
            kill(name)
            inner.go_on()
            start(name)
            wait_until(partial(is_there, a, path), ENDS, f"A is done though {name} was killed")
            wait_until(lambda: not live(a), ENDS, "the session is closed")
            assert proxy.carried.again == [], f"sent twice because {name} was killed"
            assert sum(proxy.carried.up.values()) == SIZE
            check_one_version(a, path)
        assert agent.interrupt() == 0
    b = account.link("B")
    b.quick_sync()
    assert tree_of(a.folder) == tree_of(b.folder)


def test_a_commit_without_metadata_is_accepted_and_made_when_it_is_back_though_upload_dies_meanwhile(
    account: Account, stack: Stack, proxy: StepProxy, start: Callable[[str], None]
) -> None:
    a = account.link("A", register=True)
    a.quick_sync()
    proxy.begin(Stop(Step("POST /v1/uploads/{id}/complete"), "before"))
    a.write("big.bin", os.urandom(SIZE))
    with running(a) as agent:
        assert proxy.reached.wait(ENDS), "all bytes are there"
        stack.kill("metadata")
        proxy.go_on()
        wait_until(lambda: [s["state"] for s in live(a)] == ["committing"], ENDS, "it is accepted")
        stack.kill("upload")
        start("upload")
        agent.wait()
    if not is_there(a, "big.bin"):
        a.quick_sync()
    assert proxy.carried.again == []
    wait_until(lambda: not live(a), ENDS, "the session is closed")
    check_one_version(a, "big.bin")


# Agents that die --------------------------------------------------------------------------------


@contextmanager
def expiring_soon(stack: Stack) -> Iterator[None]:
    """While the body runs, sessions that nobody touches for some seconds expire."""
    server = stack._servers["upload"]
    usual = server.command
    server.command = replace(usual, env={**usual.env, "LOCKSTEP_SESSION_SECONDS": "3"})
    stack.restart("upload")
    try:
        yield
    finally:
        server.command = usual
        stack.restart("upload")


def test_the_session_of_an_agent_that_stays_dead_expires_and_the_file_is_sent_anew_when_it_is_back(
    account: Account, stack: Stack, proxy: StepProxy
) -> None:
    a = account.link("A", register=True)
    a.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1"}
    a.write("big.bin", os.urandom(SIZE))
    proxy.begin(Stop(Step("PUT part 2"), "after"))
    with expiring_soon(stack):
        with running(a):
            assert proxy.reached.wait(ENDS), "two parts are with S3"
        wait_until(lambda: not live(a), ENDS, "the janitor has ended the session")
    assert {session["state"] for session in ended(a)} == {"expired"}
    wait_until(lambda: not multiparts(stack), ENDS, "S3 is rid of the parts")
    report = a.quick_sync()
    assert report["uploaded_bytes"] == SIZE
    check_one_version(a, "big.bin")
    assert [session["state"] for session in ended(a)].count("committed") == 1


def ended(device: Device) -> list[dict[str, Any]]:
    """The sessions that have ended."""
    items: list[dict[str, Any]] = device.get("/v1/uploads?state=all")["items"]
    return [session for session in items if session not in live(device)]


def multiparts(stack: Stack) -> list[str]:
    """The multipart uploads that S3 holds."""
    listed = s3_client(stack.env).list_multipart_uploads(Bucket=stack.env["LOCKSTEP_S3_BUCKET"])
    return [row["UploadId"] for row in listed.get("Uploads", [])]


@pytest.mark.timeout(300)
def test_two_devices_that_are_killed_again_and_again_bring_one_file_once(
    account: Account, proxy: StepProxy
) -> None:
    devices = account.link("A", register=True), account.link("B")
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    random = Random(seed)
    content = random.randbytes(12 * PART + 17)
    for device in devices:
        device.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1", "LOCKSTEP_AGENT_URL_BATCH": "1"}
        device.write("big.bin", content)
        os.utime(device.path("big.bin"), (1_700_000_000, 1_700_000_000))
    with ExitStack() as stack:
        agents = {device.name: stack.enter_context(running(device)) for device in devices}
        kills = 0
        while kills < MOST_KILLS and "big.bin" not in devices[0].ls():
            steps = random.randint(2, 8)
            proxy.begin()
            wait_until(partial(came_far, proxy, steps, list(agents.values())), ENDS, "they come so far")
            device = random.choice(devices)
            agents[device.name].kill()
            kills += 1
            print(f"{kills}: {device.name} dies after {steps} steps more")
            agents[device.name] = stack.enter_context(running(device))
        for name, agent in agents.items():
            assert agent.wait() == 0, f"{name}: {agent.log.read_text()[-2000:]}"
    assert kills >= 3, "they died before it was done"
    for device in devices:
        assert device.quick_sync()["conflicts"] == 0
        assert device.path("big.bin").read_bytes() == content
        check_one_version(device, "big.bin")
    # The one who only waited may have found the content there, and then the file: that takes no bytes.
    sent = [session for session in ended(devices[0]) if session["entries"][0]["mode"] != "stored"]
    assert [session["state"] for session in sent] == ["committed"]


def came_far(proxy: StepProxy, steps: int, agents: list[AgentProcess]) -> bool:
    """Whether the agents have made so many steps, or have nothing left to do."""
    return len(proxy.steps) >= steps or not any(agent.running for agent in agents)
