"""Scenarios 78 to 85: large files over lines that break, lie, stall, and come and go.

A proxy between the devices and S3 makes the line bad and counts what passes (`tests.support.faulty_store`).
In each case the file arrives whole, is committed once, and no byte that the store acknowledged to the
device is sent again.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.backends import Backends
from tests.support.devices import Account, Device, new_account
from tests.support.faulty_store import FaultyStore, faulty_store
from tests.support.line_faults import (
    ERROR_IN_SUCCESS,
    EXPIRED,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    MIB,
    REQUEST_TIMEOUT,
    SLOW_DOWN,
    Chance,
    Fault,
    FlippedDown,
    FlippedUp,
    Latency,
    OtherRange,
    Page,
    Redirect,
    Reset,
    Rule,
    Stalled,
    Truncated,
    joining,
    part,
    read,
    tally_of,
)
from tests.support.stack import Stack, running_stack

PART = 10 * MIB
SIZE = 6 * PART + 3 * MIB + 17
PARTS = 7
LIMITS: dict[str, Any] = {"stall_seconds": 2.0}
"""So that a stall is noticed soon."""
NAME = "big.bin"


@pytest.fixture(scope="module")
def proxy(backends: Backends) -> Iterator[FaultyStore]:
    with faulty_store(backends.s3_endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def stack(backends: Backends, proxy: FaultyStore) -> Iterator[Stack]:
    """A stack of its own, whose devices and services reach S3 through the proxy."""
    addresses = {"LOCKSTEP_S3_ENDPOINT": proxy.url, "LOCKSTEP_S3_PUBLIC_ENDPOINT": proxy.url}
    with running_stack(backends, addresses) as running:
        yield running


@pytest.fixture
def line(proxy: FaultyStore) -> Iterator[FaultyStore]:
    proxy.reset()
    yield proxy
    proxy.reset()


@pytest.fixture
def sender(account: Account) -> Device:
    """The first device of the account, with a large file that nobody has yet."""
    device = account.link("A", register=True)
    device.write(NAME, Random(account.email).randbytes(SIZE))
    return device


def content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def send(device: Device, **limits: Any) -> dict[str, Any]:
    report: dict[str, Any] = device.quick_sync(**LIMITS, **limits)
    return report


def check_sent(line: FaultyStore, device: Device, report: dict[str, Any]) -> None:
    """Everything of the file was taken by the store, and nothing was sent without need."""
    parts = {one.asked.part: one for one in line.parts()}
    assert sorted(filter(None, parts)) == list(range(1, PARTS + 1))
    for number, one in parts.items():
        assert one.delivered == 1, f"part {number} was sent again after its receipt was acknowledged: {one}"
        assert one.requests <= 1 + one.spoilt, f"part {number} was sent more often than needed: {one}"
    assert report["in_step"]
    assert line.trapped == 0
    row = device.ls()[NAME]
    assert (row["size"], row["content_hash"]) == (SIZE, content_hash(device.path(NAME)))
    assert len(device.ask("versions", NAME)["items"]) == 1
    states = [item["state"] for item in device.get("/v1/uploads?state=all")["items"]]
    assert states == ["committed"]


def check_stored(line: FaultyStore, device: Device) -> None:
    """What the store gives back, over a good line, is the file."""
    line.reset()
    link = device.get(f"/v1/files/{device.ls()[NAME]['id']}/download")["url"]
    with urlopen(link, timeout=60) as answer:  # noqa: S310 - our own store
        assert hashlib.file_digest(answer, "sha256").hexdigest() == content_hash(device.path(NAME))


def check_arrives(line: FaultyStore, account: Account, device: Device) -> None:
    """Another device gets the same bytes, over a good line."""
    line.reset()
    other = account.link("B")
    other.quick_sync()
    assert content_hash(other.path(NAME)) == content_hash(device.path(NAME))


UP: dict[str, Fault] = {
    "connections break before a byte": Reset("before"),
    "connections break in the middle": Reset("middle"),
    "answers are lost": Reset("after"),
    "the store is busy": SLOW_DOWN,
    "the store fails": INTERNAL_ERROR,
    "the store waited too long for the body": REQUEST_TIMEOUT,
    "answers never come": Stalled(),
    "bytes are flipped": FlippedUp(),
    "URLs expire": EXPIRED,
    "URLs expire and the store does not read the body": EXPIRED_TOKEN,
    "a captive portal answers": Page(),
    "a captive portal wants a sign-in": Page(511),
    "redirects lead elsewhere": Redirect(),
}


@pytest.mark.parametrize("what", UP)
def test_an_upload_arrives_once_though(what: str, line: FaultyStore, sender: Device) -> None:
    line.play(*(Rule(part(number), UP[what]) for number in (2, 5, PARTS)))
    report = send(sender)
    assert sum(one.spoilt for one in line.parts()) >= 3, "the faults were met"
    check_sent(line, sender, report)
    check_stored(line, sender)


def test_78_a_url_that_expires_under_a_part_is_asked_for_anew_and_other_parts_are_kept(
    line: FaultyStore, sender: Device
) -> None:
    line.play(Rule(part(3), Reset("middle")), Rule(part(3), EXPIRED))
    report = send(sender)
    again = {one.asked.part: one.requests for one in line.parts() if one.requests > 1}
    assert again == {3: 3}, "only this part was repeated: broken off, expired, then sent as a whole"
    check_sent(line, sender, report)


@pytest.mark.parametrize("seed", [790, 802, 822])
def test_79_an_upload_succeeds_though_a_third_of_the_requests_fail(
    seed: int, line: FaultyStore, sender: Device, account: Account
) -> None:
    faults: list[Fault] = [INTERNAL_ERROR, SLOW_DOWN, REQUEST_TIMEOUT, Latency(0.2)]
    faults += [Reset("before"), Reset("middle"), Reset("after")]
    line.play(Chance(seed, 0.3, faults, part()))
    report = send(sender)
    print(f"seed {seed}: {tally_of(line.parts())}")
    assert sum(one.spoilt for one in line.parts()) >= 3, "this seed has something to tell"
    check_sent(line, sender, report)
    check_arrives(line, account, sender)


def test_80_an_error_inside_a_success_of_joining_the_parts_is_no_success(
    line: FaultyStore, sender: Device
) -> None:
    line.play(Rule(joining, ERROR_IN_SUCCESS, times=4))
    report = send(sender)
    assert sum(len(one.faults) for one in line.others()) == 4, "the driver's own repeats did not hide it"
    check_sent(line, sender, report)
    check_stored(line, sender)


def test_81_when_the_answer_of_joining_the_parts_is_lost_one_version_comes_of_it(
    line: FaultyStore, sender: Device
) -> None:
    line.play(Rule(joining, Reset("after"), times=3))
    report = send(sender)
    assert sum(len(one.faults) for one in line.others()) >= 1
    check_sent(line, sender, report)
    check_stored(line, sender)


def test_83_bits_flipped_on_the_way_up_never_become_a_part_of_the_file(
    line: FaultyStore, sender: Device
) -> None:
    line.play(Chance(83, 0.4, [FlippedUp()], part()), Rule(part(1), FlippedUp()))
    report = send(sender)
    damaged = [one for one in line.parts() if one.faults]
    assert damaged
    assert all(one.acknowledged == 1 for one in line.parts()), "the store took no damaged part"
    check_sent(line, sender, report)
    check_stored(line, sender)


def test_85_when_the_network_comes_and_goes_what_the_store_acknowledged_is_not_sent_again(
    line: FaultyStore, stack: Stack, account: Account
) -> None:
    with faulty_store(stack.gateway_url) as gateway:
        account.server = gateway.url
        device = account.link("A", register=True)
        device.write(NAME, Random(account.email).randbytes(12 * PART))
        line.come_and_go(int(2.6 * PART), 0.5)
        gateway.follow(line)
        report = send(device, part_parallel=2)
        outages, passed = line.outages, sum(one.up for one in line.parts())
        print(f"{outages} outages, {passed / MIB:.0f} MiB for 120")
        assert outages >= 3
        assert report["in_step"]
        assert report["uploaded_bytes"] == 12 * PART
        assert [one.delivered for one in line.parts()] == [1] * 12
        assert passed - 12 * PART <= outages * 2 * PART, "an outage costs at most the parts under way"
        gateway.reset()
        check_arrives(line, account, device)
        assert len(device.ask("versions", NAME)["items"]) == 1


def test_a_store_that_stays_away_is_an_error_of_this_run_and_the_next_one_sends_the_rest(
    line: FaultyStore, sender: Device
) -> None:
    line.play(Rule(part(*range(4, PARTS + 1)), INTERNAL_ERROR, times=10_000))
    report = send(sender, expect=None, transfer_retry_seconds=2.0)
    assert not report["in_step"]
    assert sender.ls() == {}, "nothing is visible of a file that is not whole"
    held = {one.asked.part for one in line.parts() if one.delivered}
    assert held, "some parts had arrived"
    line.play()
    report = send(sender)
    assert report["uploaded_bytes"] == SIZE - sum(PART for number in held if number != PARTS)
    assert all(one.delivered == 1 for one in line.parts())
    assert len(sender.ask("versions", NAME)["items"]) == 1
    check_stored(line, sender)


# Down -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent(stack: Stack, proxy: FaultyStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Account, Path]:
    """An account whose first device has sent the file over a good line, and that file."""
    proxy.reset()
    account = new_account(stack.gateway_url, tmp_path_factory.mktemp("sent"))
    device = account.link("A", register=True)
    path = device.write(NAME, Random(account.email).randbytes(SIZE))
    device.quick_sync()
    return account, path


@pytest.fixture
def receiver(line: FaultyStore, sent: tuple[Account, Path]) -> Device:
    """A new device that has yet to fetch the file."""
    account, _ = sent
    return account.link(f"B{len(account.devices)}")


@pytest.fixture
def wanted(sent: tuple[Account, Path]) -> str:
    """The SHA-256 of the file."""
    return content_hash(sent[1])


@contextmanager
def watching_whole(device: Device, wanted: str) -> Iterator[None]:
    """Raise at the end when the file was visible and not whole at any look while the body ran."""
    path, found, done = device.path(NAME), set[str](), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            if path.exists() and path.stat().st_size != SIZE:
                found.add(f"{path.stat().st_size} bytes")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    assert not found, f"a file that was not whole was visible: {found}"
    assert not path.exists() or content_hash(path) == wanted


def fetch(line: FaultyStore, receiver: Device, wanted: str) -> None:
    """Fetch the file over the bad line; it must arrive, and no byte travel twice without a reason."""
    with watching_whole(receiver, wanted):
        report = receiver.quick_sync(**LIMITS)
    assert report["in_step"]
    assert content_hash(receiver.path(NAME)) == wanted
    assert line.trapped == 0
    assert len(receiver.ask("versions", NAME)["items"]) == 1
    again = sum(one.down for one in line.reads()) - SIZE
    spoilt = sum(one.spoilt for one in line.reads())
    print(f"{spoilt} faults cost {again / MIB:.1f} MiB: {tally_of(line.reads())}")
    assert again <= spoilt * PART, "a fault costs at most the range that it spoilt"


DOWN: dict[str, Fault] = {
    "connections break before a byte": Reset("before"),
    "connections break in the middle": Reset("middle"),
    "answers are cut short": Truncated(),
    "answers stall": Stalled(),
    "the store is busy": SLOW_DOWN,
    "the store fails": INTERNAL_ERROR,
    "URLs expire": EXPIRED,
    "URLs expire and the connection is closed": EXPIRED_TOKEN,
    "a captive portal answers": Page(),
    "a captive portal claims to send the range": Page(206, {"Content-Range": "bytes 0-91/92"}),
    "the answer is of another range": OtherRange(),
    "bytes are flipped": FlippedDown(),
    "redirects lead elsewhere": Redirect(),
}


@pytest.mark.parametrize("what", DOWN)
def test_a_download_arrives_whole_though(what: str, line: FaultyStore, receiver: Device, wanted: str) -> None:
    line.play(Rule(read, DOWN[what]))
    fetch(line, receiver, wanted)
    assert sum(one.spoilt for one in line.reads()) >= 1, "the fault was met"


@pytest.mark.parametrize("seed", [790, 809])
def test_79_a_download_succeeds_though_a_third_of_the_requests_fail(
    seed: int, line: FaultyStore, receiver: Device, wanted: str
) -> None:
    faults: list[Fault] = [
        INTERNAL_ERROR,
        SLOW_DOWN,
        Latency(0.2),
        Reset("before"),
        Reset("middle"),
        Truncated(),
    ]
    line.play(Chance(seed, 0.3, faults, read))
    fetch(line, receiver, wanted)
    assert sum(one.spoilt for one in line.reads()) >= 3, "this seed has something to tell"


def test_85_when_the_line_comes_and_goes_what_has_arrived_is_not_fetched_again(
    line: FaultyStore, receiver: Device, wanted: str
) -> None:
    line.come_and_go(int(2.6 * PART), 0.5)
    with watching_whole(receiver, wanted):
        report = receiver.quick_sync(**LIMITS)
    assert report["in_step"]
    assert line.outages >= 2
    assert content_hash(receiver.path(NAME)) == wanted
    again = sum(one.down for one in line.reads()) - SIZE
    print(f"{line.outages} outages cost {again / MIB:.1f} MiB")
    assert again <= line.outages * PART, "an outage costs at most what was on its way, not what had arrived"
