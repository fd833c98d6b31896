"""An agent that dies at any step of anything: the next run goes on, and it ends as if nothing was.

`make sim` cuts off at each step, this at some.
"""

import pytest

from tests.simulation.engine.crashes import KINDS, WINDOWS, cut_off, edit_meanwhile, meddle, uncut
from tests.simulation.engine.play import quiet
from tests.simulation.engine.scripts import SCRIPTS

_STRIDE = 23


@pytest.mark.parametrize("who", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_agent_may_die_at_any_step(name: str, who: int) -> None:
    quiet()
    assert cut_off(SCRIPTS[name], KINDS["exchanging"], who, _STRIDE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_so_it_may_on_a_disk_without_conditional_renames(name: str) -> None:
    quiet()
    assert cut_off(SCRIPTS[name], KINDS["plain"], 1, 2 * _STRIDE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_user_may_act_before_any_call(name: str) -> None:
    quiet()
    assert meddle(SCRIPTS[name], KINDS["exchanging"], 1, 5 * _STRIDE)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_file_may_be_edited_in_any_instant_in_which_another_is_made_of_it(name: str) -> None:
    quiet()
    assert edit_meanwhile(WINDOWS[name], most=20) > 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_seed_gives_one_trace(name: str) -> None:
    quiet()
    assert uncut(SCRIPTS[name], KINDS["exchanging"], 1) == uncut(SCRIPTS[name], KINDS["exchanging"], 1)
