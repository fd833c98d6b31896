"""`python -m services.janitor` works; `python -m services.janitor sweep` looks at everything once."""

import argparse
import asyncio
import json
import sys

from libs.contracts.errors import LockstepError
from libs.runtime import logs
from libs.web.app import run
from services.janitor.app import build_app, sweep_once
from services.janitor.service.findings import Report
from services.janitor.settings import Settings


def main(arguments: list[str]) -> int:
    """Work until told to stop, or carry the named command out and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "sweep":
        return sweep(repair=options.repair, as_json=options.json)
    serve()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.janitor", description="The janitor.")
    commands = parser.add_subparsers(dest="command")
    once = commands.add_parser(
        "sweep",
        help="see whether documents and S3 belong together",
        description="Exit codes: 0 clean, 1 something was found, 2 halted or a backend is away.",
    )
    once.add_argument("--repair", action="store_true", help="mend what can be mended without losing anything")
    once.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def serve() -> None:
    """Read the settings and work until told to stop."""
    settings = Settings()
    logs.configure(level=settings.log_level, style=settings.log_format, service="janitor")
    run(build_app(settings), settings)


def sweep(*, repair: bool, as_json: bool) -> int:
    """Sweep once, print the report, return the exit code."""
    settings = Settings(port=0)
    logs.configure(level="error", style="console", service="janitor")
    try:
        report = asyncio.run(sweep_once(settings, repair=repair))
    except LockstepError as error:
        sys.stderr.write(f"error: {error.detail} ({error.code})\n")
        return 2
    sys.stdout.write((json.dumps(report.as_json()) if as_json else report.as_text()) + "\n")
    return _exit_code(report)


def _exit_code(report: Report) -> int:
    if report.halted is not None:
        return 2
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
