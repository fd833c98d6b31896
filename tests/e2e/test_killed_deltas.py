"""A large difference goes on after any interruption: with the parts that S3 lacks, never with the whole."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from agent.transfer import spool
from tests.support.agent_process import AgentProcess, running
from tests.support.backends import Backends
from tests.support.devices import Account, Device, check_same, hash_of, tree_of
from tests.support.faulty_store import FaultyStore, faulty_store
from tests.support.s3_client import s3_client
from tests.support.settling import server_tree, versions
from tests.support.stack import Stack, running_stack
from tests.support.step_proxy import Carried, Step, StepProxy, Stop, When, step_proxy
from tests.support.waiting import wait_until

MIB = 1024 * 1024
PART = 5 * MIB
NAME = "disk.img"
SETTINGS = {
    "LOCKSTEP_PART_BYTES": str(PART),
    "LOCKSTEP_COMMIT_WAIT": "1",
    "LOCKSTEP_LEASE_SECONDS": "3",
    "LOCKSTEP_REDRIVE_SECONDS": "2",
    "LOCKSTEP_JANITOR_REDRIVE_INTERVAL": "0.5",
}


@pytest.fixture(scope="module")
def inner(backends: Backends) -> Iterator[StepProxy]:
    """What the services ask of S3 passes here."""
    with step_proxy(backends.s3_endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def line(backends: Backends) -> Iterator[FaultyStore]:
    """What lies between the devices' proxy and S3."""
    with faulty_store(backends.s3_endpoint) as store:
        yield store


@pytest.fixture(scope="module")
def proxy(line: FaultyStore) -> Iterator[StepProxy]:
    """What the devices ask of S3 and of the gateway passes here."""
    with step_proxy(line.url, "") as running_proxy:
        yield running_proxy


@pytest.fixture(scope="module")
def stack(backends: Backends, proxy: StepProxy, inner: StepProxy) -> Iterator[Stack]:
    addresses = {"LOCKSTEP_S3_ENDPOINT": inner.urls[0], "LOCKSTEP_S3_PUBLIC_ENDPOINT": proxy.urls[0]}
    with running_stack(backends, SETTINGS | addresses) as started:
        proxy.targets[1] = started.gateway_url
        yield started


@dataclass
class Edited:
    """A device whose large file has `new` bytes of its second half changed, and is not sent yet."""

    device: Device
    account: Account
    new: int
    before: bytes
    content: bytes

    def link(self, name: str, **env: str) -> Device:
        """Another device of the account."""
        device = self.account.link(name)
        device.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1"} | env
        return device

    @property
    def sessions(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.device.get("/v1/uploads?state=open")["items"]
        return items

    def check(self, *carried: Carried) -> None:
        """One version more with the right bytes, the difference was sent once, and nothing is left."""
        sent = [digest for one in carried for digest in one.up]
        assert len(sent) == len(set(sent)), "what S3 held was sent again"
        assert not [digest for one in carried for digest in one.again]
        total = sum(size for one in carried for size in one.up.values())
        assert self.new <= total < self.new + 2 * MIB, f"{total / MIB:.1f} MiB for a difference"
        rows = self.device.ls()
        assert rows[NAME]["content_hash"] == hash_of(self.content)
        assert len(versions(self.device, rows[NAME]["id"])) == 2
        assert self.sessions == []
        assert list((self.device.home / spool.FOLDER).iterdir()) == []
        check_same(tree_of(self.device.folder), server_tree(self.device), "device and server")


@pytest.fixture(autouse=True)
def nothing_left_at_s3(stack: Stack) -> Iterator[None]:
    """No test leaves parts behind, or an object that no version has."""
    yield
    bucket, client = stack.env["LOCKSTEP_S3_BUCKET"], s3_client(stack.env)
    begun = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [one["Key"] for one in begun] == []
    listed = client.list_objects_v2(Bucket=bucket, Prefix="t/").get("Contents", [])
    assert [one["Key"] for one in listed if one["Key"].endswith(".delta")] == []


@pytest.fixture
def edited(request: pytest.FixtureRequest, proxy: StepProxy, account: Account) -> Edited:
    """The parameter is how many MiB are new."""
    new = request.param * MIB
    account.server = proxy.urls[1]
    device = account.link("A", register=True)
    device.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "1"}
    before = os.urandom(2 * new + 8 * MIB)
    device.write(NAME, before)
    proxy.begin()
    assert device.quick_sync()["uploaded_bytes"] == len(before)
    content = before[: new + 4 * MIB] + os.urandom(new) + before[2 * new + 4 * MIB :]
    device.write(NAME, content)
    return Edited(device, account, new, before, content)


def killed(proxy: StepProxy, device: Device, step: str, when: When) -> Carried:
    """Kill a run of a device there."""
    proxy.begin(Stop(Step(step), when))
    with running(device) as process:
        wait_until(proxy.reached.is_set, 120, f"a run is {when} {step}")
        process.kill()
    wait_until(lambda: proxy.idle, 30, "the proxy has noticed that the agent is gone")
    return proxy.carried


def ended(proxy: StepProxy, device: Device) -> Carried:
    """Let a run end."""
    proxy.begin()
    with running(device) as process:
        assert process.wait() == 0, process.log.read_text()
    return proxy.carried


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [60], indirect=True, ids=["60 MiB of 128"])
def test_a_large_difference_is_continued_by_the_parts_that_s3_lacks_however_often_the_agent_is_killed(
    edited: Edited, proxy: StepProxy, inner: StepProxy
) -> None:
    device = edited.device
    first = killed(proxy, device, "PUT part 6", "middle")
    (session,) = edited.sessions
    assert session["entries"][0]["mode"] == "delta"
    assert (session["parts_total"], session["part_size"]) == (13, PART)
    assert 4 <= session["parts_done"] <= 5, "other devices see it come"
    kept = {path.name for path in (device.home / spool.FOLDER).iterdir()}
    assert kept == {hash_of(edited.content)}
    carried = [
        first,
        killed(proxy, device, "PUT part 9", "after"),
        killed(proxy, device, "PUT part 12", "before"),
    ]
    carried.append(killed(proxy, device, "POST /v1/uploads/{id}/complete", "before"))
    carried.append(ended(proxy, device))

    edited.check(*carried)
    assert sum(len(one.up) for one in carried) == 13
    other = edited.link("B")
    assert other.quick_sync()["in_step"]
    assert hash_of(other.path(NAME).read_bytes()) == hash_of(edited.content)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [16], indirect=True, ids=["16 MiB of 40"])
def test_without_its_spool_and_with_it_a_difference_is_the_same_bytes(
    edited: Edited, proxy: StepProxy
) -> None:
    carried = [killed(proxy, edited.device, "PUT part 3", "before")]
    (kept,) = (edited.device.home / spool.FOLDER).iterdir()
    kept.unlink()
    carried.append(ended(proxy, edited.device))
    edited.check(*carried)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [16], indirect=True, ids=["16 MiB of 40"])
@pytest.mark.parametrize("step", ["PUT part 3", "join", "part of the content", "last join"])
def test_the_kill_of_the_upload_service_costs_no_part(
    edited: Edited, proxy: StepProxy, inner: StepProxy, stack: Stack, step: str
) -> None:
    """While parts are sent; when the delta object's are joined; while the content is made, and joined."""
    if step == "PUT part 3":
        where, stop = proxy, Stop(Step("PUT part 3"), "after")
    elif step == "part of the content":
        bucket = stack.env["LOCKSTEP_S3_BUCKET"]
        where, stop = inner, Stop(Step(f"PUT /{bucket}/t/{{id}}/{{id}}"), "before")
    else:
        where, stop = inner, Stop(Step("join", 1 if step == "join" else 2), "after")
    proxy.begin()
    inner.begin()
    where.begin(stop)
    with running(edited.device) as process:
        wait_until(where.reached.is_set, 120, f"it comes to {stop}")
        stack.kill("upload")
        where.go_on()
        stack.ensure_running()
        assert process.wait() == 0, process.log.read_text()

    edited.check(proxy.carried)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [60], indirect=True, ids=["60 MiB of 128"])
def test_on_a_line_that_breaks_now_and_then_a_difference_costs_no_more_than_what_was_under_way(
    edited: Edited, proxy: StepProxy, line: FaultyStore
) -> None:
    line.reset()
    line.come_and_go(int(2.6 * PART), 0.3)
    carried = ended(proxy, edited.device)
    outages, passed = line.outages, sum(one.up for one in line.parts())
    line.reset()

    assert outages >= 3
    assert passed - edited.new <= outages * PART + 2 * MIB
    edited.check(carried)


# Two devices ----------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [16], indirect=True, ids=["16 MiB of 40"])
def test_another_device_with_the_same_versions_ends_what_a_dead_one_began(
    edited: Edited, proxy: StepProxy
) -> None:
    other = edited.link("B")
    other.quick_sync()
    carried = [killed(proxy, edited.device, "PUT part 3", "before")]
    other.write(NAME, edited.content)

    carried.append(ended(proxy, other))

    assert {len(one.up) for one in carried} == {2}, "two parts each"
    carried.append(ended(proxy, edited.device))
    edited.check(*carried)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edited", [16], indirect=True, ids=["16 MiB of 40"])
def test_a_device_that_could_only_send_the_whole_waits_and_sends_nothing(
    edited: Edited, proxy: StepProxy
) -> None:
    other = edited.link("B", LOCKSTEP_AGENT_DELTA="false")
    other.quick_sync()
    proxy.begin(Stop(Step("PUT part 2"), "before"))
    with running(edited.device) as sender:
        wait_until(proxy.reached.is_set, 120, "a part is on its way")
        other.write(NAME, edited.content)
        with running(other) as waiting:
            wait_until(lambda: is_refused(waiting, proxy), 60, "the other one is told to wait")
            proxy.go_on()
            assert sender.wait() == 0, sender.log.read_text()
            assert waiting.wait() == 0, waiting.log.read_text()

    edited.check(proxy.carried)


def is_refused(process: AgentProcess, proxy: StepProxy) -> bool:
    """Whether the second device has asked for the session more than once."""
    assert process.running, process.log.read_text()
    return proxy.steps.count(Step("POST /v1/uploads", 3)) == 1
