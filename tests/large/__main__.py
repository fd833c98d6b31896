"""`python -m tests.large --size 50G`: a large file through the real stack, with an agent that is killed."""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from deploy.local.commands import SERVICES
from tests.large.agent import AgentRuns
from tests.large.download import Fetch
from tests.large.observer import Observer
from tests.large.size import NoRoomError, Shape, bytes_of, check_room, shape_of
from tests.large.source import MIB, Source
from tests.large.summary import Summary
from tests.large.upload import NAME, SHARES, Upload, check_stored, shares_text, wait_verified
from tests.support.backends import Backends, LocalBackends
from tests.support.devices import new_account
from tests.support.memory import MB, peak_of
from tests.support.stack import Stack, running_stack

MOST_MEMORY = 200 * MB
"""Of the agent, whatever the size of the file."""
KILLS = len(SHARES) + 1

EPILOG = """\
A session has at most 9,500 parts, so that S3's 10,000 are never reached, and S3 takes no parts below 5 MiB.
  --size 50G                         50 GiB in 5,120 parts of 10 MiB, the usual size
  --parts 9500                       9,500 parts of 5 MiB, the most there can be: 46.4 GiB, which are 49.8 GB
  --parts 9500 --part-size 6M        both at once: 9,500 parts and 55.7 GiB (59.8 GB)
Sizes: 50G is 50 * 2^30, 50GB is 50 * 10^9. Everything is made in the folder for temporary files (TMPDIR) and
removed at the end. With --download a second device fetches the file, which needs as much room again.
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.large", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--size", type=bytes_of, help="of the file; 3G when neither it nor --parts is given")
    parser.add_argument("--parts", type=int, help="so many parts of 5 MiB, or of --part-size")
    parser.add_argument("--part-size", type=bytes_of, help="smallest part (default 10M; 5M with --parts)")
    parser.add_argument("--seed", type=int, help="of the content and the kills; a random one when absent")
    parser.add_argument("--download", action="store_true", help="fetch it with a second device, too")
    given = parser.parse_args(arguments)
    size = given.size if given.size or given.parts else bytes_of("3G")
    try:
        given.shape = shape_of(size, given.parts, given.part_size)
    except ValueError as error:
        parser.error(str(error))
    given.base = given.part_size or given.shape.part_size
    given.seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    return given


def main(arguments: list[str]) -> int:
    """Run all phases. 0: every rule held; 1: one did not; 2: there is no room."""
    given = parse(arguments)
    shape: Shape = given.shape
    try:
        said = check_room(shape, Path(tempfile.gettempdir()), download=given.download)
    except NoRoomError as error:
        print(error, file=sys.stderr)
        return 2
    parts = f"{shape.parts} parts of {shape.part_size / MIB:.0f} MiB"
    print(f"seed {given.seed}: {shape.size / MIB:.0f} MiB in {parts}. {said}", flush=True)
    summary = Summary()
    with world(given.base) as (backends, stack, folder):
        _play(given, backends, stack, folder, summary)
    for failure in summary.failures:
        print(f"FAILED: {failure}")
    return 1 if summary.failures else 0


@contextmanager
def world(part_bytes: int) -> Iterator[tuple[Backends, Stack, Path]]:
    """A stack of its own and a folder for the devices, both removed afterwards."""
    settings = {"LOCKSTEP_PART_BYTES": str(part_bytes), "LOCKSTEP_JANITOR_VERIFY_INTERVAL": "5"}
    with (
        LocalBackends() as backends,
        running_stack(backends, settings) as stack,
        tempfile.TemporaryDirectory(prefix="lockstep-large-") as folder,
    ):
        yield backends, stack, Path(folder)


def _play(
    given: argparse.Namespace, backends: Backends, stack: Stack, folder: Path, summary: Summary
) -> None:
    started, random = time.monotonic(), Random(given.seed)
    account = new_account(stack.gateway_url, folder)
    sender, watcher = account.link("sender", register=True), account.link("observer")
    source = Source(given.seed, given.shape.size)
    source.write(sender.path(NAME))
    s3_folder = backends.servers["s3"].log_path.parent / "s3"
    upload = Upload(sender, Observer(watcher, stack, s3_folder), stack, source, given.shape, summary)
    print(f"Upload, killed at about {shares_text(SHARES)}, and while it completes:")
    runs = upload.run(random)
    print("What is stored:")
    wait_verified(upload)
    check_stored(upload, KILLS)
    _memory(runs, "the agent that sent", summary)
    if given.download:
        print("Download:")
        fetch = Fetch(account.link("receiver"), source, given.shape, summary)
        _memory(fetch.run(random), "the agent that fetched", summary)
    _report(backends, stack, summary)
    print(f"{KILLS} kills of the upload; {summary.resent_parts} parts sent again that S3 held;")
    print(f"{summary.resent_bytes / MIB:.0f} MiB at S3 beyond the file, sent again or broken off;")
    print(f"{time.monotonic() - started:.0f} s in all.")


def _memory(runs: AgentRuns, whose: str, summary: Summary) -> None:
    print(f"  most memory of {whose}: {runs.peak.bytes / MB:.0f} MB", flush=True)
    summary.expect(0 < runs.peak.bytes < MOST_MEMORY, f"{whose} held {runs.peak.bytes / MB:.0f} MB")


def _report(backends: Backends, stack: Stack, summary: Summary) -> None:
    services = {name: peak_of(stack.pid(name)) for name in SERVICES}
    servers = {name: peak_of(server.pid) for name, server in backends.servers.items()}
    said = ", ".join(f"{name} {size / MB:.0f} MB" for name, size in (services | servers).items())
    summary.line(f"Most memory of each server: {said}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
