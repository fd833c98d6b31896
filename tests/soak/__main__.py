"""`python -m tests.soak`: rounds of random operations on real devices, until one fails or all are done."""

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.soak.faults import Faults, disturbed, faulty
from tests.soak.field import Field, new_field, told
from tests.soak.rounds import MODES
from tests.soak.steps import Round, generate
from tests.support.backends import Backends, find_backends
from tests.support.devices import new_account
from tests.support.stack import Stack, running_stack

PER_RUN = 6
"""Rounds of one account: enough for what one round leaves behind to matter in the next."""


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seed: int
    devices: int
    mode: str
    length: int
    goes_on: bool = False
    guest_every: int = 3


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="how many (default 60)")
    parser.add_argument("--seed", type=int, help="where to begin; a random one when absent")
    parser.add_argument(
        "--devices", type=int, default=0, choices=(0, 2, 3, 4), help="0: two and three in turn"
    )
    parser.add_argument("--mode", default="all", choices=("all", *MODES), help="default: each in turn")
    parser.add_argument("--length", type=int, default=20, help="most steps of each user in a round")
    parser.add_argument("--go-on", action="store_true", help="play the other seeds after one that failed")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    return Options(given.rounds, seed, given.devices, given.mode, given.length, given.go_on)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    started, done, run, failed = time.monotonic(), 0, 0, list[int]()
    with Places() as places:
        while done < options.rounds and (options.goes_on or not failed):
            one = _options_of(options, run, options.rounds - done)
            print(f"seed {one.seed}: {one.rounds} rounds, {one.devices} devices, {one.mode}", flush=True)
            if not _run(one, places.of(one.mode)):
                failed.append(one.seed)
            done, run = done + one.rounds, run + 1
    print(f"{done} rounds in {time.monotonic() - started:.0f} s; seeds that failed: {failed or 'none'}")
    return 1 if failed else 0


def _options_of(options: Options, run: int, left: int) -> Options:
    seed = options.seed + run
    mode = list(MODES)[run % len(MODES)] if options.mode == "all" else options.mode
    return Options(min(PER_RUN, left), seed, options.devices or 2 + seed % 2, mode, options.length)


@dataclass(frozen=True, slots=True)
class Place:
    """The services, the address at which agents find them, and the network in between."""

    stack: Stack
    url: str
    faults: Faults | None = None


class Places(ExitStack):
    """The stacks of this process: one for all modes, one behind relays. Started on first use."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[bool, Place] = {}
        self._backends: list[Backends] = []

    def of(self, mode: str) -> Place:
        """Return where a mode is played."""
        relayed = mode == "relay"
        if not self._backends:
            self._backends.append(self.enter_context(find_backends()))
        if relayed not in self._open:
            self._open[relayed] = self._relayed() if relayed else self._plain()
        return self._open[relayed]

    def _plain(self) -> Place:
        stack = self.enter_context(running_stack(self._backends[0]))
        return Place(stack, stack.gateway_url)

    def _relayed(self) -> Place:
        return Place(*self.enter_context(faulty(self._backends[0])))


def _run(options: Options, place: Place) -> bool:
    """Play the rounds of one seed; keep everything when one fails."""
    root = Path(tempfile.mkdtemp(prefix=f"lockstep-soak-{options.seed}-"))
    rounds = generate(str(options.seed), options.devices, options.rounds, options.length)
    fields: list[Field] = []
    try:
        account = new_account(place.url, root)
        field = new_field(account, options.devices, str(options.seed), strict=options.mode == "offline")
        fields.append(field)
        with told(field):
            _play(field, rounds, options, place)
    except Exception:  # noqa: BLE001 - any error at all is the finding
        traceback.print_exc()
        _keep(root, fields, rounds, place.stack)
        _say_how_to_repeat(options, root)
        return False
    for note in dict.fromkeys(field.notes):
        print(f"  note: {note}")
    shutil.rmtree(root)
    return True


def _play(field: Field, rounds: tuple[Round, ...], options: Options, place: Place) -> None:
    for played in rounds:
        started = time.monotonic()
        field.trace.append(f"round {played.number}")
        with disturbed(place.faults, f"{options.seed}/{played.number}"):
            MODES[options.mode](field, played, place.stack)
        field.check()
        if (played.number + 1) % options.guest_every == 0:
            field.check_from_nothing()
        print(
            f"  round {played.number}: {len(played.steps)} steps, {time.monotonic() - started:.1f} s",
            flush=True,
        )


def _keep(root: Path, fields: list[Field], rounds: tuple[Round, ...], stack: Stack) -> None:
    """Write down beside the folders and homes what was done, and what the services said."""
    steps = [asdict(step) for played in rounds for step in played.steps]
    (root / "steps.json").write_text(json.dumps(steps, indent=1))
    for field in fields:
        (root / "trace.txt").write_text("\n".join(field.trace))
    for name, log in stack.logs(100_000).items():
        (root / f"{name}.log").write_text(log)


def _say_how_to_repeat(options: Options, root: Path) -> None:
    print(f"\nkept: {root}")
    print(
        f"again: make soak SEED={options.seed} ROUNDS={options.rounds} DEVICES={options.devices} "
        f"MODE={options.mode} ARGS='--length {options.length}'"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
