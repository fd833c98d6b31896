"""How a round is played: what the agents and the servers do while users act. One function a mode."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Final

from tests.soak import server
from tests.soak.agents import Mortal, Running
from tests.soak.field import Field, difference, tree_of
from tests.soak.steps import Round, Step
from tests.soak.verbs import VERBS
from tests.support.stack import Stack
from tests.support.waiting import wait_until

REST_SECONDS: Final = 150.0
_CALM_SECONDS: Final = 2.5
"""For how long all must be equal to be at rest: files written just now are looked at once more."""

Mode = Callable[[Field, Round, Stack], None]


def offline(field: Field, played: Round, _stack: Stack) -> None:
    """All users act while no agent runs; then the agents sync in some order."""
    _act(field, played.steps)
    for who in played.agents:
        field.sync(who)
    field.settle()


def killed(field: Field, played: Round, _stack: Stack) -> None:
    """Agents are killed at any instant of their work, while users act."""
    rng = random.Random(f"kill/{played.number}/{len(played.steps)}")
    steps = list(played.steps)
    for who in (*played.agents, *range(len(field.devices))):
        _act(field, [steps.pop(0) for _ in range(min(len(steps), rng.randrange(6)))])
        agent = Mortal.start(field.devices[who], stays=rng.random() < 0.3)
        try:
            if rng.random() < 0.5:
                _act(field, [steps.pop(0) for _ in range(min(len(steps), rng.randrange(4)))])
        finally:
            seconds = 10 ** rng.uniform(-2.0, 0.1)
            was = agent.kill_after(seconds)
        field.trace.append(
            f"  {field.devices[who].name} {'killed' if was else 'ended'} within {seconds:.3f} s"
        )
    _act(field, steps)
    field.settle()


def live(field: Field, played: Round, _stack: Stack) -> None:
    """Agents run and users act at the same time."""
    _play_live(field, played, lambda _: None)


def restless(field: Field, played: Round, _stack: Stack) -> None:
    """As `live`, and running agents are killed and started again."""
    rng = random.Random(f"restless/{played.number}")

    def disturb(agents: list[Running]) -> None:
        for who in played.agents:
            _pause(rng.uniform(0.1, 1.5))
            agents[who].kill()
            field.trace.append(f"  {time.time():.3f} {field.devices[who].name} killed")
            agents[who].start()

    _play_live(field, played, disturb)


SERVICES: Final = ("gateway", "upload", "metadata", "download", "notification", "janitor")


def chaos(field: Field, played: Round, stack: Stack) -> None:
    """As `live`, and services are killed and started again."""
    rng = random.Random(f"chaos/{played.number}/{len(played.steps)}")

    def disturb(_agents: list[Running]) -> None:
        try:
            for name in rng.choices(SERVICES, k=2 + len(played.agents)):
                stack.kill(name)
                field.trace.append(f"  {time.time():.3f} {name} killed")
                _pause(rng.uniform(0.0, 1.0))
                stack.start(name)
                _pause(rng.uniform(0.0, 1.0))
        finally:
            stack.ensure_running()

    _play_live(field, played, disturb)


MODES: Final[dict[str, Mode]] = {
    "offline": offline, "kill": killed, "live": live, "restless": restless, "chaos": chaos, "relay": live,
}  # fmt: skip


def _act(field: Field, steps: Sequence[Step]) -> None:
    for step in steps:
        user = field.users[step.who]
        user.act(step, VERBS)
        field.trace.append(f"{user.name}: {user.journal[-1]}")


# Agents that run ------------------------------------------------------------------------------


def _play_live(field: Field, played: Round, disturb: Callable[[list[Running]], None]) -> None:
    agents = [Running(device) for device in field.devices]
    try:
        for agent in agents:
            agent.start()
        with ThreadPoolExecutor(len(agents) + 1) as threads:
            jobs = [threads.submit(_live_user, field, played, who) for who in range(len(agents))]
            jobs.append(threads.submit(disturb, agents))
            for job in jobs:
                job.result()
        for user in field.users:
            user.heal()
        _wait_for_rest(field, agents)
        for agent in agents:
            agent.stop()
    finally:
        for agent in agents:
            agent.kill()
    field.trace.append("  the agents stopped")


def _live_user(field: Field, played: Round, who: int) -> None:
    rng = random.Random(f"pace/{played.number}/{who}")
    for step in played.steps:
        if step.who == who:
            _act(field, [step])
            if rng.random() < 0.8:
                _pause(10 ** rng.uniform(-3.0, -0.3))


def _pause(seconds: float) -> None:
    """The pace of a user or of trouble; nothing waits for it."""
    time.sleep(seconds)


def _wait_for_rest(field: Field, agents: list[Running]) -> None:
    """Return when all are equal, say that they are in step, and stay so."""
    since = time.monotonic()
    last: list[str] = []

    def at_rest() -> bool:
        nonlocal since, last
        last = _apart(field, agents)
        if last:
            since = time.monotonic()
        return time.monotonic() - since > _CALM_SECONDS

    try:
        wait_until(at_rest, REST_SECONDS, "all are at rest", every=0.25)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {last[:12]}") from error


def _apart(field: Field, agents: list[Running]) -> list[str]:
    """Say what is not at rest."""
    late = [
        device.name for device, agent in zip(field.devices, agents, strict=True) if not agent.is_in_step()
    ]
    if late:
        return [f"not in step: {late}"]
    first: list[str] = ["a tree changes, or the server does not answer"]
    with suppress(OSError, HTTPException):  # a name that goes meanwhile, an answer that the network loses
        try:
            trees = [tree_of(device.folder) for device in field.devices]
        except AssertionError as error:
            return [str(error)]
        there = server.tree_of_rows(server.rows_of(field.devices[0]))
        first = next(filter(None, (difference(tree, there) for tree in trees)), [])
    return first
