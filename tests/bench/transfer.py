"""One large file of random bytes up and down: `lockstep put` and `get` beside `rclone copyto`, on one S3."""

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.bench.child import Cost, measured, seconds_to_flush
from tests.bench.gateway_log import get_phases, put_phases, requests_between
from tests.bench.results import Results, Sample
from tests.bench.world import World
from tests.support.devices import LOCKSTEP
from tests.support.s3_client import s3_client

RCLONE: Final = LOCKSTEP.with_name("rclone")
CONCURRENCIES: Final = (4, 8)
YARDSTICK: Final = "rclone, 4 at once"
_BUCKET: Final = "bench"
_WARM_UP: Final = 64 << 20
COPIES: Final = 1 + len(CONCURRENCIES)
"""Of each round's file, in S3."""


@dataclass(frozen=True, slots=True)
class _Tool:
    """How a tool sends `file` under a name, and fetches the name into `file`."""

    name: str
    up: Callable[[Path, str], list[str | Path]]
    down: Callable[[str, Path], list[str | Path]]
    env: Mapping[str, str]


def run(world: World) -> Results:
    """Each round: a new file, sent and fetched by each tool; the tools take turns at being first."""
    results = Results(f"{world.size / 2**30:.2f} GiB of random bytes", YARDSTICK, _notes(world))
    _make_bucket(world)
    tools = [_lockstep(world), *(_rclone(world, number) for number in CONCURRENCIES)]
    for tool in tools[1:]:
        results.notes.append(shlex.join(map(str, tool.up(Path("FILE"), "NAME"))))
    _warm_up(world, tools)
    for number in range(world.rounds):
        turn = number % len(tools)
        _round(world, results, number, tools[turn:] + tools[:turn])
    return results


def _round(world: World, results: Results, number: int, tools: list[_Tool]) -> None:
    source = world.random_file(f"source-{number}", world.size)
    wanted = _sha256(source)
    for tool in tools:
        world.prepare(source)
        cost = _measure(world, tool, tool.up(source, source.name))
        _note(world, results, "up", tool, cost)
    for tool in tools:
        target = world.folder / "fetched"
        world.prepare()
        cost = _measure(world, tool, tool.down(source.name, target))
        flushed = replace(cost, seconds=cost.seconds + seconds_to_flush(target))
        if _sha256(target) != wanted:
            raise AssertionError(f"{tool.name} did not fetch what was sent")
        target.unlink()
        _note(world, results, "down", tool, cost)
        results.samples.append(Sample("on disk", tool.name, world.size, flushed))
    source.unlink()


def _warm_up(world: World, tools: list[_Tool]) -> None:
    """Let the store make room in each bucket, and each program be read from the disk, before it counts."""
    source, target = world.random_file("warm-up", _WARM_UP), world.folder / "fetched"
    for tool in tools:
        _measure(world, tool, tool.up(source, source.name))
        _measure(world, tool, tool.down(source.name, target))
        target.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measure(world: World, tool: _Tool, argv: list[str | Path]) -> Cost:
    return measured(argv, tool.env, world.folder / "tool.log")


def _note(world: World, results: Results, task: str, tool: _Tool, cost: Cost) -> None:
    results.samples.append(Sample(task, tool.name, world.size, cost))
    print(f"  {task:5}{tool.name:24}{cost.seconds:7.2f} s", flush=True)
    if tool.name == "lockstep":
        requests = requests_between(world.stack.log("gateway"), cost)
        phases = put_phases(requests, cost) if task == "up" else get_phases(requests, cost)
        results.phases[f"lockstep, {task}"].append(phases)


def _lockstep(world: World) -> _Tool:
    return _Tool(
        "lockstep",
        up=lambda file, name: [LOCKSTEP, "put", file, f"/{name}"],
        down=lambda name, file: [LOCKSTEP, "get", f"/{name}", file],
        env=world.device.environment(),
    )


def _rclone(world: World, concurrency: int) -> _Tool:
    remote = f"s3:{_BUCKET}/{concurrency}-"
    options = [
        *("--s3-chunk-size", "10M", "--s3-upload-concurrency", str(concurrency)),
        *("--multi-thread-streams", "4", "--s3-no-check-bucket"),
    ]
    return _Tool(
        f"rclone, {concurrency} at once",
        up=lambda file, name: [RCLONE, "copyto", *options, file, remote + name],
        down=lambda name, file: [RCLONE, "copyto", *options, remote + name, file],
        env=_rclone_env(world),
    )


def _rclone_env(world: World) -> dict[str, str]:
    """The remote `s3` by variables alone; no configuration of the user is read."""
    env = world.stack.env
    return {
        "HOME": str(world.folder),
        "RCLONE_CONFIG": str(world.folder / "rclone.conf"),
        "RCLONE_CONFIG_S3_TYPE": "s3",
        "RCLONE_CONFIG_S3_PROVIDER": "Other",
        "RCLONE_CONFIG_S3_ENDPOINT": env["LOCKSTEP_S3_ENDPOINT"],
        "RCLONE_CONFIG_S3_REGION": env["LOCKSTEP_S3_REGION"],
        "RCLONE_CONFIG_S3_ACCESS_KEY_ID": env["LOCKSTEP_S3_ACCESS_KEY"],
        "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": env["LOCKSTEP_S3_SECRET_KEY"],
        "RCLONE_CONFIG_S3_FORCE_PATH_STYLE": "true",
    }


def _make_bucket(world: World) -> None:
    s3_client(world.stack.env).create_bucket(Bucket=_BUCKET)


def _notes(world: World) -> list[str]:
    return [
        f"{world.rounds} rounds, each with a new file; the tools take turns at being first.",
        f"The source is {'not in' if world.cold else 'in'} the page cache; what S3 holds was just written.",
        "Client, services and S3 share this machine's processors; CPU seconds are the client's alone.",
        "put: hashes the file first, sends it with a SHA-256 for each part, and waits for the commit.",
        "get: verifies the SHA-256 of the whole and flushes the file to disk before it takes its name.",
        "rclone: hashes the file first (MD5), sends an MD5 with each part, checks the hash after a fetch.",
        "on disk: a fetch, and flushing the file where the tool has not done it.",
    ]
