"""Ignore rules: gitignore's syntax, editors' temporary files, and a reason for every match."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ignore import BUILT_IN, IgnoreRules


@pytest.mark.parametrize(
    ("rules", "path", "is_dir", "ignored"),
    [
        ("*.log", "a.log", False, True),
        ("*.log", "d/e/a.log", False, True),
        ("/a.log", "d/a.log", False, False),
        ("build/", "build", True, True),
        ("build/", "build", False, False),
        ("build/", "build/deep/x", False, True),
        ("build/\n!build/keep", "build/keep", False, True),
        ("*.log\n!keep.log", "keep.log", False, False),
        ("a\n!keep", "keep/a", True, True),
        ("d/**\n!d/a", "d/a", False, False),
        ("doc/**/x", "doc/a/b/x", False, True),
        ("# comment\n\n", "# comment", False, False),
        ("\\#x", "#x", False, True),
        ("a b", "a b", False, True),
        ("*", "caf\udce9", False, True),
    ],
)
def test_the_rules_file_means_what_gitignore_means(
    rules: str, path: str, is_dir: bool, ignored: bool
) -> None:
    assert IgnoreRules(rules).ignores(path, is_dir) is ignored


@pytest.mark.parametrize(
    "name",
    [
        ".~lock.report.odt#", "~$report.docx", "~WRL0001.tmp", "notes.txt.swp", ".notes.txt.swp",
        ".notes.txt.swo",
        "4913", "notes.txt~", ".#notes.txt", "#notes.txt#", ".goutputstream-X1Y2Z3",
        "a.txt.sb-12ab34cd-56ef78",
        ".DS_Store", "Thumbs.db", "desktop.ini", ".nfs000000000012345600000001", "a.py___jb_tmp___",
        ".lockstep-get-0123456789abcdef-0123456789abcdef0123456789abcdef",
        ".lockstep-get-0123456789abcdef-0123456789abcdef0123456789abcdef.ranges",
    ],
)  # fmt: skip
def test_temporary_files_of_programs_are_left_alone_and_named(name: str) -> None:
    rules = IgnoreRules()
    for path in (name, f"some/folder/{name}"):
        assert (rules.match(path, False) or "").startswith("built in: ")
    assert not rules.ignores(name, True), "a folder of that name is the user's"


@pytest.mark.parametrize(
    "name",
    [
        "film.part", "x.tmp", "x.bak", "x.crdownload", "a.swatch", ".hidden", "49130", "lock", "#1 song.mp3",
        "~", "a~b", ".env", "core", "desktop.init", ".lockstep-get-it", ".lockstep-get-notes-of-a-trip.txt",
    ],
)  # fmt: skip
def test_what_people_keep_is_not_ignored(name: str) -> None:
    assert IgnoreRules().ignores(name, False) is (name == "~")


def test_a_negation_brings_a_built_in_name_back() -> None:
    rules = IgnoreRules("!*.swp")
    assert not rules.ignores("game.swp", False)
    assert rules.ignores("x~", False)


def test_a_match_names_the_rule_and_where_it_stands() -> None:
    rules = IgnoreRules("# mine\nnode_modules/\n*.o\n")
    assert rules.match("a/x.o", False) == ".lockstepignore:3: *.o"
    assert (
        rules.match("a/node_modules/b/c", False) == ".lockstepignore:2: node_modules/ (folder a/node_modules)"
    )
    assert rules.match("x~", False) == "built in: *~ (backup file of an editor)"
    assert rules.match("x", False) is None


def test_a_line_that_is_not_understood_is_reported_and_spoils_no_other() -> None:
    rules = IgnoreRules("!\n*.log\n")
    assert [bad.line for bad in rules.bad] == [1]
    assert rules.ignores("a.log", False)


def test_every_built_in_pattern_has_a_reason() -> None:
    assert all(pattern and why for pattern, why in BUILT_IN)


_NAMES = st.sampled_from(["a", "b", "build", "x.log", "keep.log", "d"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_RULES = st.lists(
    st.sampled_from(["a", "/a", "build/", "*.log", "!keep.log", "d/**", "!d/a", "**/b", "/d/*", "!/d/b/"]),
    max_size=4,
).map("\n".join)


@given(rules=_RULES, paths=st.lists(_PATHS, min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_git_itself_agrees(tmp_path_factory: pytest.TempPathFactory, rules: str, paths: list[str]) -> None:
    repository: Path = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", str(repository)], check=True)  # noqa: S607  git is on PATH
    (repository / ".gitignore").write_text(rules + "\n")
    asked = "\0".join(paths) + "\0"
    answer = subprocess.run(
        ["git", "-C", str(repository), "check-ignore", "-z", "--no-index", "--stdin"],  # noqa: S607
        input=asked.encode(),
        capture_output=True,
        check=False,
    )
    ignored = set(answer.stdout.decode().split("\0")) - {""}
    for path in paths:
        assert IgnoreRules(rules).ignores(path, False) is (path in ignored), path
