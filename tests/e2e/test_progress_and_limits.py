"""Limits of speed and what is told of large files under way, on the real stack. No time is measured."""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agent.commands import places
from agent.remote import open_api
from agent.settings import Settings
from agent.transfer import LargeSource, open_transfer, wire
from agent.transfer.pace import Pace
from libs.contracts.tree import CommitTarget
from tests.support.command_line import call
from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

MIB = 1024 * 1024
SIZE = 24 * MIB + 12_345
RATE = 2 * MIB


class Clock:
    """It moves only by sleeping, so what sleeps is all that takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Counted(Pace):
    """A pace on such a clock that knows what passed."""

    def __init__(self, rate: float | None) -> None:
        self.clock = Clock()
        self.passed: list[int] = []
        super().__init__(rate, self.clock.time, self.clock.sleep)

    async def take(self, count: int) -> None:
        await super().take(count)
        self.passed.append(count)
        if self.rate is not None:
            assert sum(self.passed) <= self.clock.now * self.rate + self.burst + 1, "never ahead of its rate"


async def test_every_byte_of_a_file_asks_its_limit_in_both_directions(
    two: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    paces: list[Counted] = []

    def counted(rate: float | None) -> Counted:
        paces.append(Counted(rate))
        return paces[-1]

    monkeypatch.setattr(wire, "Pace", counted)
    settings = Settings(home=two[0].home, limit_up=float(RATE), limit_down=float(2 * RATE))
    content = os.urandom(SIZE)
    digest = hashlib.sha256(content).hexdigest()
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(content)
        source.flush()
        async with open_api(settings) as api, open_transfer(settings, api) as transfer:
            slot = await places.slot_for(api, "big.bin", "big.bin")
            row = await transfer.commit_large(
                LargeSource("big.bin", SIZE, digest, source.fileno()),
                CommitTarget(parent_id=slot.parent_id, name=slot.name, mtime_ns=0),
            )
            item = await api.download(row.id, None)
            assert await transfer.download(item, target.fileno()) == digest
        target.seek(0)
        assert target.read() == content
    by_rate = {pace.rate: pace for pace in paces if pace.rate is not None}
    assert set(by_rate) == {RATE, 2 * RATE}
    for pace in by_rate.values():
        assert sum(pace.passed) == SIZE
        assert max(pace.passed) <= 256 * 1024


def test_a_file_goes_there_and_back_under_a_limit(two: tuple[Device, Device], tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    local, back = tmp_path / "a.bin", tmp_path / "b.bin"
    local.write_bytes(content)
    two[0].run("put", str(local), "a.bin", "--limit-up", "40M")
    two[1].run("get", "a.bin", str(back), "--limit-down", "40M")
    assert back.read_bytes() == content
    assert two[0].run("put", str(local), "a.bin", "--limit-up", "fast", expect=2)["code"] == "usage"


def test_status_tells_how_far_a_large_file_is_in_each_direction(two: tuple[Device, Device]) -> None:
    a, b = two
    with a.started(LOCKSTEP_AGENT_LIMIT_UP="4M"), b.started(LOCKSTEP_AGENT_LIMIT_DOWN="4M"):
        a.write("big.bin", os.urandom(SIZE))
        sent, sender = moving(a)
        fetched, fetcher = moving(b)
    assert (sent["path"], sent["code"], sent["bytes_total"]) == ("big.bin", "uploading", SIZE)
    assert (fetched["path"], fetched["code"], fetched["bytes_total"]) == ("big.bin", "downloading", SIZE)
    assert (sent["resumed_bytes"], fetched["resumed_bytes"]) == (0, 0)
    for file, told in ((sent, sender), (fetched, fetcher)):
        assert isinstance(file["eta_seconds"], int)
        assert told["progress"]["bytes_total"] == SIZE
        assert told["progress"]["rate"] > 0
    assert (sender["rate_up"] > 0, sender["rate_down"]) == (True, 0)
    assert (fetcher["rate_up"], fetcher["rate_down"] > 0) == (0, True)


def moving(device: Device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wait until `status` tells of a large file in the middle; return that file, and all it says."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def look() -> bool:
        told = device.run("status", expect=None)
        seen.extend(
            (file, told)
            for file in told["transfers"]
            if 0 < file["bytes_done"] < file["bytes_total"] and file["rate"] > 0
        )
        return bool(seen)

    wait_until(look, 60, f"{device.name} tells of a large file")
    return seen[0]


def test_a_resumed_upload_says_how_much_was_there_and_the_list_how_far_it_is(
    two: tuple[Device, Device], tmp_path: Path
) -> None:
    a, _ = two
    local = tmp_path / "big.bin"
    local.write_bytes(os.urandom(8 * 10 * MIB))
    process = subprocess.Popen(
        [LOCKSTEP, "put", str(local), "big.bin"],
        env={**a.environment(), "LOCKSTEP_AGENT_PART_PARALLEL": "1"},
    )
    wait_until(lambda: parts_done(a) > 0, 60, "a part is there", every=0.01)
    process.kill()
    process.wait()
    (session,) = a.ask("uploads")["items"]
    code, out, _ = call(["uploads"], home=a.home, cwd=a.home)
    cells = out.decode().rstrip("\n").split("\t")
    percent = f"{session['parts_done'] * 100 // session['parts_total']} %"
    assert (code, cells[:4], cells[5]) == (0, [session["id"], percent, str(80 * MIB), "A"], "big.bin")
    done = subprocess.run(
        [LOCKSTEP, "uploads", "resume", session["id"], "--from", str(local), "--json"],
        env={**a.environment(), "LOCKSTEP_AGENT_LOG_LEVEL": "info"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = re.sub("\x1b\\[[0-9;]*m", "", done.stderr)
    sent = json.loads(done.stdout.splitlines()[-1])["uploaded_bytes"]
    assert sent < 80 * MIB
    assert re.search(rf"a large file goes on .*there='{(80 * MIB - sent) / MIB:.1f} MiB'", told), told
    assert re.search(rf"a large file ended .*moved='{sent / MIB:.1f} MiB'", told), told


def parts_done(device: Device) -> int:
    return max((u["parts_done"] for u in device.get("/v1/uploads?state=open")["items"]), default=0)
