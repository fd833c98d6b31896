"""Becomes the server it starts, after writing down its process id.

Supervisor starts `python -m deploy.local.launcher SPEC`. The id in the file is the real process's, after a
restart too, because starting a program over this one keeps it. The specification is a file so that secrets
stand in no argument list and nothing needs quoting.
"""

import json
import os
import sys
from pathlib import Path


def main(spec_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    pid_path = Path(spec["pid_file"])
    draft = pid_path.with_suffix(".new")
    draft.write_text(f"{os.getpid()}\n", encoding="ascii")
    draft.replace(pid_path)
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])


if __name__ == "__main__":
    main(sys.argv[1])
