"""`python -m services.janitor`."""

from libs.runtime import logs
from libs.web.app import run
from services.janitor.app import build_app
from services.janitor.settings import Settings


def main() -> None:
    """Read the settings and work until told to stop."""
    settings = Settings()
    logs.configure(level=settings.log_level, style=settings.log_format, service="janitor")
    run(build_app(settings), settings)


if __name__ == "__main__":
    main()
