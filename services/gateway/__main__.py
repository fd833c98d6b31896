"""`python -m services.gateway`."""

from libs.runtime import logs
from libs.web.app import run
from services.gateway.app import build_app
from services.gateway.settings import Settings


def main() -> None:
    """Read the settings and serve until told to stop."""
    settings = Settings()
    logs.configure(level=settings.log_level, style=settings.log_format, service="gateway")
    run(build_app(settings), settings)


if __name__ == "__main__":
    main()
