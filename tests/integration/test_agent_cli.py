"""The command line against the running services, as its users and their scripts see it."""

import asyncio
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.credentials import CredentialStore
from agent.remote import open_api
from agent.settings import Settings
from libs.contracts.api import UploadRequest
from tests.support.command_line import call
from tests.support.stack import Stack

PASSWORD = "correct horse battery"
LOCKSTEP = Path(sys.executable).with_name("lockstep")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Device:
    """One LOCKSTEP_HOME and a folder to work in."""

    server: str
    email: str
    home: Path
    cwd: Path

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a command as a process."""
        environment = {**os.environ, "LOCKSTEP_HOME": str(self.home)}
        return subprocess.Popen(
            [LOCKSTEP, *arguments],
            cwd=self.cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        return call(arguments, home=self.home, cwd=self.cwd, stdin=stdin)

    def json(self, *arguments: str, stdin: bytes = b"") -> Any:
        """The object that a command prints that succeeds."""
        code, out, err = self.run(*arguments, "--json", stdin=stdin)
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    def refused(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and error code of a command that fails."""
        code, out, err = self.run(*arguments, "--json", stdin=stdin)
        assert out == b""
        return code, json.loads(err)["code"]

    def link(self, verb: str, name: str) -> Any:
        to = ("--server", self.server, "--email", self.email, "--device", name, "--password-stdin")
        return self.json(verb, *to, stdin=PASSWORD.encode() + b"\n")

    def paths(self, path: str = "/") -> list[str]:
        return [item["path"] for item in self.json("ls", path)["items"]]

    def make_folder(self, name: str) -> None:
        async def make() -> None:
            async with open_api(self.settings) as api:
                await api.create_folder(api.credentials.namespace_id, name)

        asyncio.run(make())


def new_device(stack: Stack, folder: Path, email: str | None = None) -> Device:
    home, cwd = folder / "home", folder / "work"
    cwd.mkdir(parents=True)
    return Device(stack.gateway_url, email or f"{secrets.token_hex(8)}@example.org", home, cwd)


@pytest.fixture
def device(stack: Stack, tmp_path: Path) -> Device:
    """A device that is linked to an account of its own."""
    linked = new_device(stack, tmp_path)
    linked.link("register", "A")
    return linked


def test_a_file_goes_there_and_back(device: Device) -> None:
    content = os.urandom(1000)
    (device.cwd / "a.bin").write_bytes(content)
    (device.cwd / "a.bin").chmod(0o755)
    os.utime(device.cwd / "a.bin", ns=(1, 1_700_000_000_123_456_789))

    put = device.json("put", "a.bin", "/b.bin")
    (listed,) = device.json("ls", "b.bin")["items"]
    got = device.json("get", "b.bin", "c.bin")

    assert put == listed
    assert (listed["path"], listed["kind"], listed["size"], listed["executable"]) == (
        "b.bin",
        "file",
        1000,
        True,
    )
    assert listed["mtime"] == "2023-11-14T22:13:20.123456Z"
    assert got["content_hash"] == listed["content_hash"]
    fetched = device.cwd / "c.bin"
    assert fetched.read_bytes() == content
    assert fetched.stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert os.access(fetched, os.X_OK)
    assert device.run("get", "b.bin", "-") == (0, content, b"")


def test_a_file_of_several_parts_goes_there_and_back(device: Device) -> None:
    content = os.urandom(21 * MIB + 1)
    (device.cwd / "large").write_bytes(content)

    device.json("put", "large", "/")
    device.json("get", "large", "back")

    assert (device.cwd / "back").read_bytes() == content
    assert device.json("uploads") == {"items": []}
    assert device.json("usage")["used_bytes"] == len(content)


def _open_session(device: Device, content: bytes, path: str) -> str:
    """Begin an upload and send nothing of it."""

    async def begin() -> str:
        async with open_api(device.settings) as api:
            digest = hashlib.sha256(content).hexdigest()
            return (
                await api.create_upload(UploadRequest(content_hash=digest, size=len(content), path=path))
            ).id

    return asyncio.run(begin())


def test_an_upload_is_continued_by_another_device_from_a_file_of_the_same_content(
    stack: Stack, device: Device, tmp_path: Path
) -> None:
    content = os.urandom(11 * MIB)
    session = _open_session(device, content, "big.bin")
    other = new_device(stack, tmp_path / "other", device.email)
    other.link("login", "B")
    (other.cwd / "copy").write_bytes(content)
    (other.cwd / "another").write_bytes(b"another")

    assert [item["id"] for item in other.json("uploads")["items"]] == [session]
    assert other.refused("uploads", "resume", session, "--from", "another") == (1, "other_content")
    told = other.json("uploads", "resume", session, "--from", "copy")

    assert (told["committed"], told["path"], told["uploaded_bytes"]) == (True, "big.bin", len(content))
    assert device.run("get", "big.bin", "-")[1] == content
    assert other.refused("uploads", "resume", session, "--from", "copy") == (1, "upload_not_open")
    assert other.refused("uploads", "resume", "0" * 24, "--from", "copy") == (1, "not_found")


def test_an_upload_whose_place_is_taken_is_sent_and_left_to_whom_it_belongs(device: Device) -> None:
    """It may be a new version of what is there, or not: only the device that began knows."""
    content = os.urandom(11 * MIB)
    (device.cwd / "there").write_bytes(b"there")
    device.json("put", "there", "/big.bin")
    (device.cwd / "copy").write_bytes(content)
    session = _open_session(device, content, "big.bin")

    told = device.json("uploads", "resume", session, "--from", "copy")

    assert (told["committed"], told["uploaded_bytes"]) == (False, len(content))
    assert device.run("get", "big.bin", "-")[1] == b"there"
    (device.cwd / "copy").rename(device.cwd / "big.bin")
    device.json("put", "big.bin", "/big.bin")
    assert device.json("usage")["used_bytes"] == len(content) + 5


def test_putting_on_a_name_that_is_there_is_a_new_version(device: Device) -> None:
    file = device.cwd / "a.txt"
    file.write_bytes(b"first")
    first = device.json("put", "a.txt", "/")
    file.write_bytes(b"second")
    second = device.json("put", "a.txt", "/a.txt")

    versions = device.json("versions", "a.txt")["items"]
    assert first["id"] == second["id"]
    assert [(v["id"], v["size"], v["device"], v["current"]) for v in versions] == [
        (second["version_id"], 6, "A", True),
        (first["version_id"], 5, "A", False),
    ]
    assert device.run("get", "a.txt", "-", "--version", first["version_id"])[1] == b"first"

    device.json("restore", "a.txt", "--version", first["version_id"])
    assert device.run("get", "a.txt", "-")[1] == b"first"
    assert len(device.json("versions", "a.txt")["items"]) == 3


def test_moving_is_as_with_mv(device: Device) -> None:
    device.make_folder("folder")
    (device.cwd / "a").write_bytes(b"a")
    (device.cwd / "b").write_bytes(b"b")
    a = device.json("put", "a", "/a")
    device.json("put", "b", "/b")

    assert device.json("mv", "a", "/folder")["path"] == "folder/a"
    assert device.json("mv", "folder/a", "renamed")["id"] == a["id"]
    device.json("mv", "renamed", "b")

    assert device.paths() == ["b", "folder"]
    assert device.run("get", "b", "-")[1] == b"a"
    assert [item["path"] for item in device.json("trash")["items"]] == ["b"]
    assert device.refused("mv", "folder", "folder/inside") == (1, "cycle")
    assert device.refused("mv", "b", "missing/x") == (1, "not_found")


def test_a_folder_is_deleted_whole_and_comes_back_whole(device: Device) -> None:
    device.make_folder("folder")
    (device.cwd / "a").write_bytes(b"a")
    device.json("put", "a", "/folder/a")

    device.json("rm", "/folder")
    assert device.paths() == []
    (trashed,) = device.json("trash")["items"]
    assert set(trashed) >= {"id", "path", "deleted_at"}

    assert device.json("trash", "restore", "/folder")["path"] == "folder"
    assert device.paths("folder") == ["folder/a"]
    assert device.refused("trash", "restore", "folder") == (1, "not_found")


def test_the_newest_of_a_path_is_restored_from_the_trash(device: Device) -> None:
    for content in (b"older", b"newer"):
        (device.cwd / "a").write_bytes(content)
        device.json("put", "a", "/a")
        device.json("rm", "a")

    device.json("trash", "restore", "a")

    assert device.run("get", "a", "-")[1] == b"newer"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "missing", "x"], (1, "not_found")),
        (["get", "folder", "x"], (1, "not_a_file")),
        (["ls", "missing"], (1, "not_found")),
        (["put", "missing", "/x"], (1, "unreadable")),
        (["put", ".", "/x"], (2, "usage")),
        (["put", "a", "/missing/x"], (1, "not_found")),
        (["put", "a", "/a/x"], (1, "not_a_folder")),
        (["get", "a", "missing/x"], (1, "unwritable")),
        (["get", "a", "-"], (2, "usage")),
        (["rm", "/"], (2, "usage")),
        (["mv", "/", "a"], (2, "usage")),
        (["versions", "folder"], (1, "not_a_file")),
        (["restore", "a", "--version", "0" * 24], (1, "not_found")),
        (["devices", "revoke", "0" * 24], (1, "not_found")),
        (["ls", "../x"], (1, "invalid_name")),
    ],
)
def test_what_cannot_be_done_says_so(shared: Device, arguments: list[str], code: tuple[int, str]) -> None:
    assert shared.refused(*arguments) == code


@pytest.fixture(scope="module")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device with a file and a folder, which its tests leave as they are."""
    linked = new_device(stack, tmp_path_factory.mktemp("shared"))
    linked.link("register", "A")
    linked.make_folder("folder")
    (linked.cwd / "a").write_bytes(b"a")
    linked.json("put", "a", "/a")
    return linked


def test_a_home_is_one_device_until_it_is_signed_out(device: Device) -> None:
    to = ("--server", device.server, "--email", device.email, "--password-stdin")
    first = CredentialStore(device.settings).require()

    assert device.refused("login", *to, stdin=PASSWORD.encode()) == (2, "already_linked")
    assert device.json("logout") == {"device_id": first.device_id, "linked": False}
    assert device.refused("ls") == (4, "not_signed_in")
    assert device.refused("login", *to, stdin=b"wrong password\n") == (4, "invalid_credentials")
    assert device.link("login", "A")["device_id"] != first.device_id


def test_damaged_credentials_can_be_replaced_by_signing_in(device: Device) -> None:
    device.settings.credentials_path.write_bytes(b"{")

    assert device.refused("ls") == (4, "not_signed_in")
    device.link("login", "A")
    assert device.paths() == []


def test_a_revoked_device_is_told_so_and_can_sign_out_and_in_again(
    stack: Stack, device: Device, tmp_path: Path
) -> None:
    other = new_device(stack, tmp_path / "other", device.email)
    linked = other.link("login", "B")

    device.json("devices", "revoke", linked["device_id"])

    listed = {item["name"]: item for item in device.json("devices")["items"]}
    assert (listed["A"]["current"], listed["A"]["revoked"], listed["B"]["revoked"]) == (True, False, True)
    code, error = other.refused("ls")
    assert (code, error) == (4, "device_revoked")
    assert CredentialStore(other.settings).load() is not None, "nothing local is thrown away"
    other.json("logout")
    other.link("login", "B")
    assert other.paths() == []


def test_processes_that_refresh_at_once_all_go_on(device: Device) -> None:
    store = CredentialStore(device.settings)
    store.save(store.require().model_copy(update={"expires_at": 0.0}))

    running = [device.start("usage", "--json") for _ in range(4)]
    for process in running:
        with process:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err

    assert device.paths() == []


def test_events_are_one_object_a_line_until_interrupted(device: Device) -> None:
    (device.cwd / "a").write_bytes(b"a")
    with device.start("events", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "heads"
        put = device.json("put", "a", "/a")
        changes = next(event for line in process.stdout if (event := json.loads(line))["event"] == "changes")
        assert [row["id"] for row in changes["rows"]] == [put["id"]]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 0


def test_a_synced_folder_is_in_step_and_status_says_so(device: Device) -> None:
    folder = device.cwd / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"content")
    assert device.run("status", "--json")[0] == 5

    report = device.json("sync", "folder")

    assert report["in_step"] is True
    assert (report["uploaded_files"], report["uploaded_bytes"], report["problems"]) == (1, 7, [])
    assert report["api_bytes"] > 0
    assert device.paths() == ["a.txt"]
    status = device.json("status")
    assert (status["in_step"], status["folder"], status["running"]) == (True, str(folder), False)
    again = device.json("sync", "folder")
    assert (again["uploaded_files"], again["uploaded_bytes"], again["downloaded_bytes"]) == (0, 0, 0)
