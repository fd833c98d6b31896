"""Two releases of a package, fetched by pip's ordinary client, as tar files: real material.

A release's wheel is packed anew without compression, its members in order and without times: what a
source tree, an image or a backup looks like.
"""

import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 300
_ANY_MACHINE: Final = (
    *("--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"),
    *("--platform", "manylinux2014_x86_64"),
)
"""One file for every machine that measures."""


class NoReleaseError(RuntimeError):
    """A release cannot be fetched: no network, or no such release."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two consecutive releases, and what kind of material they are."""

    package: str
    old: str
    new: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.package} {self.old} → {self.new} ({self.kind})"


PAIRS: Final = (
    Pair("Django", "5.1.3", "5.1.4", "source"),
    Pair("numpy", "2.1.2", "2.1.3", "compiled"),
)


def tar_of(package: str, version: str, folder: Path) -> Path:
    """Return a release as a tar file in `folder`; raise `NoReleaseError`."""
    fetched = folder / f"{package}-{version}"
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*argv, *_ANY_MACHINE, "--dest", fetched, f"{package}=={version}"],
            check=False, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NoReleaseError(f"{package} {version} was not fetched within {_SECONDS} s") from error
    wheels = list(fetched.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines()[-1:] or ["pip gave no wheel"]
        raise NoReleaseError(f"{package} {version} cannot be fetched: {said[0]}")
    return repacked(wheels[0], folder / f"{package}-{version}.tar")


def repacked(wheel: Path, target: Path) -> Path:
    """Write the members of a zip as a tar file that depends on their names and contents alone."""
    with zipfile.ZipFile(wheel) as source, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(source.namelist()):
            content = source.read(name)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target
