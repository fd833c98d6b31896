"""The systemd unit: what it says, how it is quoted, and who is asked to use it."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from agent.errors import LocalError
from agent.service import argument, find_program, quoted, unit_name, unit_text
from agent.settings import default_home
from tests.support.command_line import call
from tests.support.linked_home import linked_home

PROGRAM = Path("/opt/lockstep/bin/lockstep")


def text(home: str = "/home/u/.lockstep", folder: str = "/home/u/Lockstep", program: Path = PROGRAM) -> str:
    return unit_text(Path(home), Path(folder), program)


def test_a_unit_starts_the_agent_of_its_home_and_gives_up_where_a_restart_cannot_help() -> None:
    lines = text().splitlines()
    assert 'ExecStart="/opt/lockstep/bin/lockstep" start -- "/home/u/Lockstep"' in lines
    assert 'Environment="LOCKSTEP_HOME=/home/u/.lockstep"' in lines
    assert "Restart=on-failure" in lines
    assert "RestartPreventExitStatus=2 4" in lines
    assert "WantedBy=default.target" in lines


@pytest.mark.parametrize(
    ("given", "word", "in_a_command"),
    [
        ("/a b", '"/a b"', '"/a b"'),
        ("/100%", '"/100%%"', '"/100%%"'),
        ("/$HOME/${X}", '"/$HOME/${X}"', '"/$$HOME/$${X}"'),
        ('/q"q', '"/q\\"q"', '"/q\\"q"'),
        ("/b\\s", '"/b\\\\s"', '"/b\\\\s"'),
        ("/it's;#é", '"/it\'s;#é"', '"/it\'s;#é"'),
    ],
)
def test_paths_are_quoted_as_systemd_reads_them(given: str, word: str, in_a_command: str) -> None:
    assert quoted(given) == word
    assert argument(given) == in_a_command
    folder = next(line for line in text(folder=given).splitlines() if line.startswith("ExecStart="))
    assert folder.endswith(f" start -- {in_a_command}")


@pytest.mark.parametrize(
    ("home", "folder", "program"),
    [
        ("/a\nExecStartPre=/bin/x", "/f", PROGRAM),
        ("/h", "/f\x01", PROGRAM),
        ("/h", "/caf\udce9", PROGRAM),
        ("/h", "/f", Path('/a"b/lockstep')),
    ],
)
def test_what_a_unit_cannot_hold_is_refused(home: str, folder: str, program: Path) -> None:
    with pytest.raises(LocalError, match="unit_impossible"):
        text(home, folder, program)


def test_each_home_has_a_unit_of_its_own() -> None:
    homes = [Path("/home/u/.second"), Path("/home/v/.second"), Path("/x/a b%"), Path("/x/" + "n" * 300)]
    names = [unit_name(home) for home in [default_home(), *homes]]
    assert names[0] == "lockstep.service"
    assert len(set(names)) == len(names)
    assert all(len(name) < 80 and name.endswith(".service") for name in names)
    assert names[1].startswith("lockstep-second-")
    assert names[3].startswith("lockstep-a-b-")


def test_the_program_is_the_one_of_this_environment() -> None:
    assert find_program() == Path(sys.executable).with_name("lockstep")


# The commands -----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A linked device with a folder, whose systemctl is a script that notes what it was asked."""
    home, bin_folder = tmp_path / "home", tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "systemctl"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ ! -e {tmp_path}/no-bus ] || exit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    linked_home(home, tmp_path / "my folder")
    return home


def run(home: Path, *arguments: str, expect: int = 0) -> dict[str, object]:
    code, out, err = call(["service", *arguments, "--json"], home=home, cwd=home)
    assert code == expect, err
    value: dict[str, object] = json.loads((out or err).splitlines()[-1])
    return value


def asked(home: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (home.parent / "asked").read_text().splitlines()]


def test_installing_writes_the_unit_and_starts_it(home: Path) -> None:
    told = run(home, "install")
    unit = Path(str(told["path"]))
    assert unit.parent == home.parent / "config/systemd/user"
    assert unit.name == told["unit"] == unit_name(home)
    assert unit.read_text() == unit_text(home, home.parent / "my folder", find_program())
    assert (told["enabled"], told["by_hand"]) == (True, [])
    assert asked(home)[1:] == [
        ["--user", "daemon-reload"],
        ["--user", "enable", unit.name],
        ["--user", "restart", unit.name],
    ]


def test_without_a_user_bus_it_says_what_to_do_by_hand(home: Path) -> None:
    (home.parent / "no-bus").touch()
    told = run(home, "install", "other folder")
    assert told["enabled"] is False
    assert told["by_hand"] == [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {told['unit']}",
    ]
    assert f'start -- "{home}/other folder"' in Path(str(told["path"])).read_text()


def test_uninstalling_stops_and_removes_it_and_may_be_repeated(home: Path) -> None:
    unit = Path(str(run(home, "install")["path"]))
    assert run(home, "status")["installed"] is True
    assert (run(home, "uninstall")["removed"], unit.exists()) == (True, False)
    assert ["--user", "disable", "--now", unit.name] in asked(home)
    assert run(home, "uninstall")["removed"] is False
    assert run(home, "status")["installed"] is False


def test_there_must_be_a_folder_a_device_and_systemd(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "settings.json").unlink()
    assert run(home, "install", expect=2)["code"] == "no_folder"
    (home / "credentials.json").unlink()
    assert run(home, "install", "x", expect=4)["code"] == "not_signed_in"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run(home, "install", "x", expect=2)["code"] == "unsupported_platform"
