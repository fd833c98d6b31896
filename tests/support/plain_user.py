"""Running as a user whom permissions bind, also where the tests run as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.devices import Device

NOBODY = 65534


@contextmanager
def plain_user(*devices: Device) -> Iterator[None]:
    """Let this process be a plain user, to whom the devices' homes and folders belong, in the body."""
    if os.geteuid() != 0:
        yield
        return
    for device in devices:
        for top in (device.home, device.folder):
            _give(top)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _give(top: Path) -> None:
    for path in [top, *top.rglob("*")]:
        os.lchown(path, NOBODY, NOBODY)
    for above in top.parents:
        if "pytest" in str(above) and above.stat().st_uid == 0:
            above.chmod(0o711)
