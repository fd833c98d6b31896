from libs.runtime import logs
from libs.web.app import run
from services.download.app import build_app
from services.download.settings import Settings


def main() -> None:
    settings = Settings()
    logs.configure(level=settings.log_level, style=settings.log_format, service="download")
    run(build_app(settings), settings)


if __name__ == "__main__":
    main()
