import asyncio
import io
import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer

from agent import cli
from agent.commands import account, places
from agent.commands.context import Context, run, until_interrupted
from agent.errors import AGENT_CODES, ExitCode, LocalError, exit_code_of, worst
from agent.status import AgentStatus, PathProblem, SyncReport, human_size, moment, mtime_text
from libs.contracts.errors import (
    CODES,
    ConflictError,
    LockstepError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    error_from_code,
)
from tests.support.command_line import call

COMMANDS = {
    "register", "login", "logout", "sync", "start", "status", "ls", "get", "put", "mv", "rm", "versions",
    "restore", "trash", "uploads", "usage", "devices", "events", "why", "plan", "ignored", "pause", "resume",
    "service",
}  # fmt: skip


def lockstep(*arguments: str, home: Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    return call(arguments, home=home, cwd=home, stdin=stdin)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A command sets logging up for its process; here that is the tests'."""
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


# Exit codes -------------------------------------------------------------------------------------


def test_the_exit_code_of_several_is_the_first_of_the_contracts_order() -> None:
    order = [ExitCode(code) for code in (2, 4, 3, 6, 1, 5, 0)]

    for place, code in enumerate(order):
        assert worst(*reversed(order[place:])) is code
    assert worst() is ExitCode.DONE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnauthenticatedError(code="device_revoked"), 4),
        (error_from_code("invalid_credentials"), 4),
        (LocalError(code="not_signed_in"), 4),
        (UnavailableError(), 6),
        (LocalError(code="usage"), 2),
        (LocalError(code="insecure_server"), 2),
        (LocalError(code="already_linked"), 2),
        (LocalError(code="tls_invalid"), 1),
        (LocalError(code="already_running"), 1),
        (NotFoundError(), 1),
        (ConflictError(), 1),
        (LockstepError(), 1),
        (ValueError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_means_an_exit_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_the_agents_codes_are_none_of_the_servers() -> None:
    assert not set(AGENT_CODES) & set(CODES)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (SyncReport(conflicts=2, deleted=1), 0),
        (SyncReport(problems=(PathProblem("a", "unreadable", "no"),)), 5),
        (SyncReport(halted="too many deletions", problems=(PathProblem("a", "b", "c"),)), 3),
        (SyncReport(failure=UnavailableError(), problems=(PathProblem("a", "b", "c"),)), 6),
        (SyncReport(failure=UnauthenticatedError(), halted="root missing"), 4),
        (SyncReport(failure=LockstepError()), 1),
        (SyncReport(paused=True), 0),
        (SyncReport(paused=True, problems=(PathProblem("a", "b", "c"),)), 5),
    ],
)
def test_a_run_is_in_step_exactly_when_its_code_is_0(report: SyncReport, code: int) -> None:
    assert report.exit_code == code
    assert report.as_json()["in_step"] is (code == 0)


def test_a_report_has_the_fields_of_the_contract() -> None:
    report = SyncReport(
        problems=(PathProblem("caf\udce9", "unreadable", "no", 0.5),), failure=UnavailableError("gone")
    )
    value = json.loads(json.dumps(report.as_json()))

    assert set(value) >= {
        "in_step", "uploaded_files", "downloaded_files", "uploaded_bytes", "downloaded_bytes", "api_bytes",
        "conflicts", "deleted", "moved", "problems", "seconds", "halted", "halt_code", "paused",
    }  # fmt: skip
    assert set(value["problems"][0]) == {"path", "code", "detail", "retry_at"}
    assert value["problems"][0]["retry_at"] == "1970-01-01T00:00:00.500000Z"
    assert value["error"] == {"code": "unavailable", "detail": "gone"}


def test_a_report_for_people_names_what_was_done_and_every_problem() -> None:
    text = SyncReport(
        uploaded_files=1200, uploaded_bytes=2048, problems=(PathProblem("a/b", "locked", "It is locked"),)
    ).as_text()

    assert "1,200 sent (2.0 KiB)" in text
    assert "a/b: It is locked (locked)" in text
    assert "In step" in SyncReport().as_text()
    assert SyncReport(paused=True).as_text().startswith("Paused")
    assert SyncReport(halted="the folder is empty").as_text() == "Halted: the folder is empty"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (AgentStatus(), 4),
        (AgentStatus(device_id="d"), 5),
        (AgentStatus(device_id="d", synced=True), 0),
        (AgentStatus(device_id="d", synced=True, pending=1), 5),
        (AgentStatus(device_id="d", synced=True, pending=1, paused=True), 0),
        (AgentStatus(device_id="d", paused=True, halted="no room"), 3),
        (AgentStatus(device_id="d", synced=True, problems=(PathProblem("a", "b", "c"),)), 5),
    ],
)
def test_a_status_is_in_step_exactly_when_its_code_is_0(status: AgentStatus, code: int) -> None:
    assert status.exit_code == code
    assert status.as_json()["in_step"] is (code == 0)
    assert status.as_text()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (50 * 2**30, "50.0 GiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_sizes_are_shown_with_binary_units(size: int, text: str) -> None:
    assert human_size(size) == text


def test_times_are_shown_in_utc() -> None:
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(None) is None


# The grammar ------------------------------------------------------------------------------------


def test_the_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, typer.Exit)):
        raise SystemExit(cli.app(["--help"], standalone_mode=False))
    shown = capsys.readouterr().out

    listed = [
        line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.startswith("  ")
    ]
    assert [name for name in COMMANDS if name not in listed] == []
    assert "server unreachable" in shown


def test_the_help_imports_none_of_what_commands_need(tmp_path: Path) -> None:
    script = (
        "import sys; from agent import cli; cli.app(['--help'], standalone_mode=False); "
        "heavy = {'aiohttp', 'pydantic', 'sqlite3', 'structlog', 'rich'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bogus"],
        ["nonsense"],
        ["ls", "--bogus"],
        ["get", "only-one"],
        ["sync"],
        ["trash", "restore"],
        ["register", "--email", "a@example.org"],
        ["restore", "a.txt"],
        ["why"],
        ["plan"],
        ["ignored"],
        ["service", "start"],
        ["pause", "now"],
        ["sync", "folder", "--limit-up", "fast"],
        ["start", "folder", "--limit-down", "-1"],
        ["get", "a", "b", "--limit-down", "10"],
        ["put", "a", "b", "--limit-up", "1e9"],
        ["uploads", "resume", "id", "--from", "a", "--limit-up", ""],
        ["ls", "--limit-up", "1M"],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: Sequence[str], tmp_path: Path) -> None:
    code, out, err = lockstep(*arguments, "--json", home=tmp_path)

    assert (code, out) == (2, b"")
    assert json.loads(err)["code"] == "usage"


def test_a_rate_that_cannot_be_read_is_told_with_one_that_can(tmp_path: Path) -> None:
    code, _, err = lockstep("put", "a", "b", "--limit-up", "fast", home=tmp_path)

    assert (code, b"'fast' is no rate" in err, b"2M" in err) == (2, True, True)


def test_the_command_line_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_AGENT_LIMIT_UP", "1M")
    monkeypatch.setenv("LOCKSTEP_AGENT_LIMIT_DOWN", "2M")
    seen: list[tuple[float, float]] = []

    async def look(context: Context) -> None:
        seen.append((context.settings.limit_up, context.settings.limit_down))

    assert run(look, as_json=False, limits=("0", None)) == 0
    assert run(look, as_json=False, limits=(None, "4M")) == 0
    assert seen == [(0.0, 2 * 1024 * 1024), (1024 * 1024, 4 * 1024 * 1024)]


def test_no_arguments_show_the_help_on_standard_error(tmp_path: Path) -> None:
    code, out, err = lockstep(home=tmp_path)

    assert (code, out) == (2, b"")
    assert err.startswith(b"Usage: ")


def test_windows_is_refused_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")

    assert cli.main() == 2
    assert "Windows" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "ls", "usage", "devices", "logout", "trash", "uploads", "events", "status", "pause", "resume",
        "why x", "plan x", "sync x", "start x", "service install",
    ],
)  # fmt: skip
def test_a_device_that_is_not_linked_ends_with_4(command: str, tmp_path: Path) -> None:
    code, out, err = lockstep(*command.split(), "--json", home=tmp_path)

    assert code == 4
    if command == "status":
        assert json.loads(out)["linked"] is False
    else:
        assert (out, json.loads(err)["code"]) == (b"", "not_signed_in")


def test_an_error_for_people_is_one_line(tmp_path: Path) -> None:
    _, _, err = lockstep("ls", home=tmp_path)

    assert err.count(b"\n") == 1
    assert err.endswith(b"(not_signed_in)\n")


def test_a_server_in_the_clear_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    code, _, err = lockstep(
        "login", "--server", "http://example.org", "--email", "a@example.org", "--password-stdin", "--json",
        home=tmp_path, stdin=b"password\n",
    )  # fmt: skip

    assert (code, json.loads(err)["code"]) == (2, "insecure_server")


def test_a_server_that_is_not_there_ends_with_6(tmp_path: Path) -> None:
    code, _, err = lockstep(
        "login", "--server", "http://127.0.0.1:9", "--email", "a@example.org", "--password-stdin", "--json",
        home=tmp_path, stdin=b"password\n",
    )  # fmt: skip

    assert (code, json.loads(err)["code"]) == (6, "unavailable")
    assert not (tmp_path / "credentials.json").exists()


def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_AGENT_SMALL_PARALLEL", "many")
    code, _, err = lockstep("ls", home=tmp_path)

    assert code == 2
    assert b"SMALL_PARALLEL" in err


# Pieces of commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"secret\n", b"secret\r\n", b"secret", b"secret\nmore\n"])
def test_the_password_is_one_line(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))

    assert account.read_password(from_stdin=True) == "secret"


@pytest.mark.parametrize("line", [b"", b"\n", b"\xff\n", b"a\0b\n"])
def test_no_password_is_a_usage_error(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))

    with pytest.raises(LocalError, match="usage"):
        account.read_password(from_stdin=True)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("laptop.example.org", "laptop"),
        ("", "device"),
        ("a" * 60, "a" * 40),
        ("é" * 30, "é" * 20),
        ("a/b", "device"),
    ],
)
def test_a_device_is_called_as_its_machine(machine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: machine)

    assert account.default_device_name() == name


@pytest.mark.parametrize(
    ("given", "tidy"), [("/", ""), ("", ""), ("a", "a"), ("/a//b/", "a/b"), ("/a b/é", "a b/é")]
)
def test_a_remote_path_may_have_a_leading_slash(given: str, tidy: str) -> None:
    assert places.tidy(given) == tidy


@pytest.mark.parametrize("path", ["..", "a/../b", "./a", ".lockstep/x", "a\0b", "a\udce9"])
def test_a_remote_path_never_leaves_the_root(path: str) -> None:
    with pytest.raises(LockstepError, match="invalid_name"):
        places.tidy(path)


@pytest.mark.parametrize(
    ("mtime_ns", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775Z"),
    ],
)
def test_modification_times_are_shown_where_a_calendar_holds_them(
    mtime_ns: int | None, text: str | None
) -> None:
    assert mtime_text(mtime_ns) == text


async def test_an_interrupt_ends_work_and_is_no_error() -> None:
    async def interrupted() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(3600)
        return 1

    async def done() -> int:
        return 7

    assert await until_interrupted(interrupted()) is None
    assert await until_interrupted(done()) == 7


def test_what_a_command_raises_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails(_context: Context) -> None:
        raise ConflictError("taken", code="name_taken")

    assert run(fails, as_json=True) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.err) == {"code": "name_taken", "detail": "taken"}
    assert printed.out == ""


def test_names_that_no_terminal_can_spell_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    async def shows(context: Context) -> None:
        context.table([{"path": "caf\udce9"}], ["path"])

    assert run(shows, as_json=False) == 0
    assert capsys.readouterr().out == "caf\\udce9\n"
    assert run(shows, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"items": [{"path": "caf\udce9"}]}
