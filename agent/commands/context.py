"""What every command has: the settings, and one way to print and to fail."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from agent.commands.output import print_error, print_line, print_table, to_json
from agent.errors import ExitCode, exit_code_of
from agent.rates import parse_rate
from agent.remote import Api, open_api
from agent.settings import Settings, read_settings
from agent.transfer import Transfer, open_transfer
from libs.contracts.errors import LockstepError
from libs.contracts.ids import new_id
from libs.runtime import logs
from libs.runtime.loop import new_event_loop

log = logs.get_logger("cli")

T = TypeVar("T")
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Context:
    """One run of a command."""

    settings: Settings
    as_json: bool

    def api(self) -> AbstractAsyncContextManager[Api]:
        """Open the API in the name of the linked device (an async context manager)."""
        return open_api(self.settings)

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[tuple[Api, Transfer]]:
        """Open the API and transfers."""
        async with open_api(self.settings) as api, open_transfer(self.settings, api) as transfer:
            yield api, transfer

    def say(self, value: Mapping[str, Any], text: str | None) -> None:
        """Print the one object of `--json`, or the text for people."""
        if self.as_json:
            print_line(to_json(value))
        elif text is not None:
            print_line(text)

    def table(self, items: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
        """Print a list: one object with `items`, a table on a terminal, else lines with tabs."""
        if self.as_json:
            print_line(to_json({"items": items}))
        else:
            print_table(items, columns)


Command = Callable[[Context], Awaitable[int | None]]


Limits = tuple[str | None, str | None]
"""What the command line says of the rates to and from the store; None: what the settings say."""


def run(command: Command, *, as_json: bool, log_level: str = "error", limits: Limits = (None, None)) -> int:
    """Run a command to its end and return the exit code; errors go to standard error."""
    try:
        settings = _limited(read_settings(), limits)
        logs.configure(level=settings.log_level or log_level, style="console", service="agent")
        logs.bind_request(new_id())
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_finished(command, Context(settings, as_json))) or ExitCode.DONE
    except LockstepError as error:
        print_error(error.code, error.detail, as_json=as_json)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return ExitCode.ERROR
    except Exception as error:
        log.exception("the command failed")
        print_error("internal", f"{type(error).__name__}: {error}", as_json=as_json)
        return ExitCode.ERROR


def _limited(settings: Settings, limits: Limits) -> Settings:
    """Return the settings with the limits of the command line. Raises `LocalError` "usage"."""
    given = zip(("limit_up", "limit_down"), limits, strict=True)
    return settings.model_copy(update={name: parse_rate(text) for name, text in given if text is not None})


async def _finished(command: Command, context: Context) -> int | None:
    return await command(context)


async def until_interrupted(work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, or None when SIGINT or SIGTERM ended it: it is cancelled then."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        return None
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _close_stdout() -> None:
    """Forget what nobody reads any more, so that Python's own flush at exit does not fail."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
