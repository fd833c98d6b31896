"""The upload: killed at a quarter, the half and three quarters, and once more while it completes."""

import hashlib
import signal
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from agent.settings import Settings
from tests.large.agent import AgentRuns
from tests.large.observer import Observer, Sent
from tests.large.size import Shape
from tests.large.source import MIB, Source
from tests.large.summary import Summary
from tests.support.devices import Device
from tests.support.stack import Stack
from tests.support.waiting import wait_until

NAME: Final = "large.bin"
SHARES: Final = (0.25, 0.5, 0.75)
_JITTER: Final = 0.03
_COMPLETING: Final = frozenset({"completing", "committing", "committed"})
_NEAR: Final = 24
"""Parts before the end at which what follows is held: more than are sent between two looks."""
_UNRECORDED: Final = 60
"""Parts that S3 holds and the session does not count, because the agent died before it said so."""
_VERIFIED: Final = 'lockstep_objects_verified_total{result="ok"}'
_STALL: Final = 120.0
_SLOWEST: Final = 20 * MIB
"""Bytes a second that hashing, reading and verifying are given time for."""


@dataclass
class Upload:
    """One file from a device into S3."""

    device: Device
    observer: Observer
    stack: Stack
    source: Source
    shape: Shape
    summary: Summary

    def run(self, random: Random) -> AgentRuns:
        """Send the file over kills, and check what of it had to be sent again."""
        runs = AgentRuns(self.device)
        before: dict[int, Sent] = {}
        for share in SHARES:
            before = self._killed_at(runs, share + random.uniform(-_JITTER, _JITTER), before)
        self._killed_while_completing(runs, before)
        self._finished(runs)
        return runs

    # Kills ------------------------------------------------------------------------------------

    def _killed_at(self, runs: AgentRuns, share: float, before: dict[int, Sent]) -> dict[int, Sent]:
        target = max(1, int(self.shape.parts * share))
        with runs.running() as run:
            run.until(lambda: self._session() is not None, lambda: None, self._reading_seconds())
            opened = time.monotonic()
            run.until(lambda: self._done() >= target, self._done, _STALL)
            seconds = time.monotonic() - opened
            run.kill()
        held = self._settled()
        self._check_kept(before, held)
        sent = (len(held) - len(before)) * self.shape.part_size
        self.summary.phase(
            f"sync until killed with {len(held)} of {self.shape.parts} parts at S3", sent, seconds
        )
        if not before:
            self.summary.line(f"    {opened - run.started:.1f} s before, to hash it and open the session")
        return held

    def _killed_while_completing(self, runs: AgentRuns, before: dict[int, Sent]) -> None:
        """Kill it when the parts are being joined or the commit awaited.

        The service that commits is held while the last parts travel, so that this cannot be missed.
        """
        near = max(1, self.shape.parts - max(_NEAR, self.shape.parts // 100))
        held: dict[int, Sent] = before

        def is_near() -> bool:
            nonlocal held
            if self._done() + _UNRECORDED >= near:  # S3 is asked for thousands of parts only near the end
                held = self._held_if_open() or held
            sending = len(held) > len(before)  # so it has read all that it asks that service for
            return (sending and len(held) >= near) or self._state() in _COMPLETING

        with runs.running() as run:
            run.until(is_near, lambda: (self._done(), len(held)), _STALL)
            self.stack.kill("metadata", signal.SIGSTOP)
            try:
                run.until(lambda: self._state() in _COMPLETING, self._done, self._reading_seconds())
                state = self._state()
                run.kill()
            finally:
                self.stack.kill("metadata", signal.SIGCONT)
        self._check_kept(before, held)
        if state == "committed":
            raise AssertionError("the commit was through before the kill")
        self.summary.line(f"  killed once more while the session was {state}")

    def _finished(self, runs: AgentRuns) -> None:
        started = time.monotonic()
        with runs.running() as run:
            report = run.report(self._reading_seconds())
        self.summary.phase("last sync until in step", report["uploaded_bytes"], time.monotonic() - started)
        # All parts were at S3 when it was killed last, so what it sends is sent again.
        self.summary.expect(
            report["uploaded_bytes"] <= self._in_flight_bytes(),
            f"the last run sent {report['uploaded_bytes']} bytes though S3 held all {self.shape.size}",
        )
        self.summary.expect(report["in_step"], f"the last run was not in step: {report}")

    # What S3 holds ----------------------------------------------------------------------------

    def _settled(self) -> dict[int, Sent]:
        """The parts at S3 once nothing more arrives of what was on its way."""
        looks: list[dict[int, Sent]] = [{}]

        def same() -> bool:
            looks.append(self.observer.parts())
            return looks[-1] == looks[-2]

        wait_until(same, 60, "what was on its way to S3 has arrived", every=0.5)
        return looks[-1]

    def _held_if_open(self) -> dict[int, Sent]:
        return self.observer.parts() if self._state() == "open" else {}

    def _check_kept(self, before: dict[int, Sent], held: dict[int, Sent]) -> None:
        """No part that S3 held may be put again, and none may be gone."""
        if not held:
            return
        again = [number for number, part in before.items() if held.get(number) != part]
        self.summary.resent_parts += len(again)
        self.summary.expect(not again, f"parts {again[:10]} were at S3 before the kill and are sent again")

    def _in_flight_bytes(self) -> int:
        return Settings(home=self.device.home).part_parallel * self.shape.part_size

    def _session(self) -> dict[str, Any] | None:
        return self.observer.session()

    def _done(self) -> int:
        session = self._session()
        return 0 if session is None else int(session["parts_done"])

    def _state(self) -> str:
        session = self._session()
        return "" if session is None else str(session["state"])

    def _reading_seconds(self) -> float:
        return _STALL + self.shape.size / _SLOWEST


def check_stored(upload: Upload, kills: int) -> None:
    """One version, one object, and its bytes are those of the source."""
    observer, summary, shape = upload.observer, upload.summary, upload.shape
    versions = upload.device.ask("versions", NAME)["items"]
    summary.expect(len(versions) == 1, f"{len(versions)} versions, not one")
    summary.expect(observer.objects() == [shape.size], f"S3 holds objects of {observer.objects()} bytes")
    summary.resent_bytes = max(0, observer.stored_bytes() - shape.size)
    allowed = kills * upload._in_flight_bytes() + shape.size // 100 + 64 * MIB
    summary.expect(
        summary.resent_bytes <= allowed,
        f"S3's data are {summary.resent_bytes} bytes larger than the file; {allowed} are explained",
    )
    started = time.monotonic()
    wanted = upload.source.sha256()
    summary.phase("making the content again, hashed", shape.size, time.monotonic() - started)
    started = time.monotonic()
    found = _hash_at_s3(observer, upload.device.ls()[NAME]["id"])
    summary.phase("reading the object back as a stream, hashed", shape.size, time.monotonic() - started)
    summary.expect(found == (shape.size, wanted), f"the object is {found}, the source {(shape.size, wanted)}")


def wait_verified(upload: Upload) -> None:
    """The janitor has read the object and found it to be what the commit says."""
    started = time.monotonic()
    wait_until(upload.observer.verified, upload._reading_seconds(), "the object is verified", every=0.5)
    upload.summary.line(f"  verified by the janitor {time.monotonic() - started:.1f} s after the last sync")
    upload.summary.expect(_verifications(upload.stack) >= 1, "the janitor has not read it to know so")


def _verifications(stack: Stack) -> float:
    """How many objects the janitor has read and found to be right, by its metrics."""
    with urllib.request.urlopen(f"{stack.url('janitor')}/metrics", timeout=10) as answer:  # noqa: S310 - ours
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(_VERIFIED))


def _hash_at_s3(observer: Observer, node_id: str) -> tuple[int, str]:
    """Read by the presigned URL, which is valid only for the start of a read."""
    url = observer.get(f"/v1/files/{node_id}/download")["url"]
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_STALL) as answer:  # noqa: S310 - our own S3
        while piece := answer.read(MIB):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def shares_text(shares: Sequence[float]) -> str:
    """The shares for people."""
    return ", ".join(f"{share:.0%}" for share in shares)
