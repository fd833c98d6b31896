"""A plan that is shown: its exit code and what people read."""

from pathlib import Path

import pytest

from agent.guard import Halt
from agent.preview import Preview, folds_names, totals_of
from agent.status import PathProblem
from agent.wording import Step

PROBLEM = PathProblem("a", "locked", "It is locked")
UPLOAD = Step("upload", "caf\udce9", bytes=2048)


def shown(*steps: Step, whole: bool = True, **values: object) -> Preview:
    return Preview("/f", steps, totals=totals_of(steps), whole=whole, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (shown(), 0),
        (shown(Step("remember", "a"), Step("forget", "b")), 0),
        (shown(UPLOAD), 5),
        (shown(problems=(PROBLEM,)), 5),
        (shown(UPLOAD, problems=(PROBLEM,), halts=(Halt("disk_full", "No room"),)), 3),
    ],
)
def test_a_plan_is_in_step_exactly_when_its_code_is_0(plan: Preview, code: int) -> None:
    assert plan.exit_code == code
    assert plan.as_json()["in_step"] is (code == 0)


def test_people_read_every_step_problem_and_guard() -> None:
    text = shown(
        UPLOAD,
        Step("move_local", "a", "b"),
        Step("remember", "quiet"),
        problems=(PROBLEM,),
        halts=(Halt("disk_full", "No room"),),
        paused=True,
        whole=False,
    ).as_text()
    assert text.splitlines() == [
        "2 to do, at most 2.0 KiB to send and 0 B to fetch:",
        "  caf\ufffd: send",
        "  a -> b: move here, as on the server",
        "  a: It is locked (locked)",
        "Would halt: No room (disk_full)",
        "These are the next steps only: more would follow.",
        "This device is paused: nothing is done until `lockstep resume`.",
    ]
    assert shown().as_text() == "In step: nothing to do."
    many = shown(*(Step("upload", str(n), bytes=1) for n in range(300))).as_text()
    assert many.endswith("  and 100 more")


def test_totals_count_steps_bytes_and_files() -> None:
    totals = totals_of((UPLOAD, UPLOAD, Step("delete_remote", "d", files=7), Step("remember", "x")))
    assert (totals["upload"], totals["upload_bytes"], totals["deleted_files"], totals["download"]) == (
        2,
        4096,
        7,
        0,
    )
    assert "remember" not in totals


def test_this_disk_tells_spellings_apart_and_is_not_written_to(tmp_path: Path) -> None:
    assert not folds_names(tmp_path)
    (tmp_path / ".lockstep").mkdir()
    assert not folds_names(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lockstep"]
