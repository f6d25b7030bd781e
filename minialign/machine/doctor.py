"""What this machine has, what is missing for training on it, and what to do about that.

Each check is one line with a word of its own: "ok", "note" (works, but slower or with less) or
"problem" (training is impossible). Nothing here goes to the network, and no secret is read out.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minialign import __version__
from minialign.errors import UserError
from minialign.home import home, settings
from minialign.machine import hardware
from minialign.models.names import DEFAULT, catalog, with_memory

GB = 1e9
ROOM_TO_STORE = 1.0 * GB  # disk that the smallest model and a few runs need
MEASURE_SECONDS = 0.3
SLOW_GFLOPS = 10.0  # the reference BLAS gives 1.5 to 5, an optimized one about 50 a core
OPTIONAL = {
    "pyarrow": ("reads Parquet files", "pip install 'minialign[parquet]'"),
    "matplotlib": ("writes the pictures of `runs plot --out`", "pip install 'minialign[plot]'"),
}


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    status: str  # "ok", "note" or "problem"
    found: str
    fix: str = ""  # what to do about it; a command where there is one
    data: dict[str, Any] = field(default_factory=dict)  # the figures in it, for --json


def checks() -> Iterator[tuple[str, Finding]]:
    """(name, finding) of all checks, one after the other; each is made even when the one before
    failed."""
    everything: dict[str, Callable[[], Finding]] = {
        "minialign": _version,
        "system": _system,
        "chip": _chip,
        "memory": _memory,
        "mlx": _mlx,
        "mlx-lm": _mlx_lm,
        "matmul": _matmul,
        "kernels": _kernels,
        "compiler": _compiler,
        "home": _home,
        "settings": _settings,
        "models": _models,
        "hub": _hub,
        **{package: partial(_optional, package) for package in OPTIONAL},
    }
    for name, check in everything.items():
        try:
            yield name, check()
        except Exception as reason:  # the report of a broken machine must not break
            yield name, Finding("note", f"could not be checked: {reason!r}")


def _version() -> Finding:
    return Finding("ok", f"{__version__} in {Path(__file__).parents[1]}")


def _system() -> Finding:
    system = platform.platform(aliased=True, terse=True)
    said = f"Python {platform.python_version()} on {system}, {platform.machine()}"
    if sys.platform in ("linux", "darwin"):
        return Finding("ok", said)
    return Finding("problem", said, "minialign runs on Linux and macOS; on Windows use WSL")


def _chip() -> Finding:
    usable, present = hardware.usable_cores(), os.cpu_count() or 1
    quota = hardware.core_quota()
    said = f"{hardware.chip_name()}, {usable} of {present} cores may be used"
    data = {"cores": usable, "present": present, "quota": quota}
    wanted = os.environ.get("MINIALIGN_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted)):
        said += f"; MINIALIGN_THREADS={wanted!r} is ignored"
        return Finding("note", said, "set it to a number of threads, or unset it", data)
    if wanted:
        said += f", MINIALIGN_THREADS={wanted}"
    if quota is None or quota >= usable:
        return Finding("ok", said, data=data)
    said += f", but only {quota:g} cores' time is granted (cgroup)"
    if wanted:
        return Finding("ok", said, data=data)
    return Finding("note", said, f"export MINIALIGN_THREADS={max(1, int(quota))}", data)


def _memory() -> Finding:
    total, free = hardware.memory()
    data = {"total": total, "free": free}
    said = f"{total / GB:.1f} GB, {free / GB:.1f} GB free"
    try:
        from minialign.cpu import kept_bits

        kept = kept_bits()
    except ImportError:  # another check says what is wrong with mlx
        kept = ()
    small = with_memory(catalog()[DEFAULT], kept)
    need = f"training {small.name} with --grad-checkpoint takes {small.train_bytes / GB:.1f} GB"
    if total < small.train_bytes / 2:
        return Finding("problem", said, need, data)
    if total < small.train_bytes:
        return Finding("note", said, f"{need}; with --batch-size 1 it takes less", data)
    if free < small.train_bytes:
        return Finding("note", said, f"close other programs: {need}", data)
    return Finding("ok", said, data=data)


def _mlx() -> Finding:
    try:
        import mlx.core as mx
    except ImportError as reason:
        fix = "pip install --force-reinstall minialign"
        return Finding("problem", f"does not load: {reason}", fix)
    device = str(mx.default_device().type).rpartition(".")[2]
    version = _installed_version("mlx")
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return Finding("note", f"{version} under Rosetta", "use a native arm64 Python")
    return Finding("ok", f"{version}, device: {device}", data={"device": device})


def _mlx_lm() -> Finding:
    version = _installed_version("mlx-lm")
    if version is None:
        return Finding("problem", "not installed", "pip install minialign")
    return Finding("ok", version)


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _matmul() -> Finding:
    from minialign import cpu

    cpu.activate()
    status = cpu.status()
    speed = hardware.gemm_gflops(MEASURE_SECONDS)
    said = f"{status.blas}; {speed:.0f} GFLOP/s in a float32 matmul"
    data = {"gflops": round(speed, 1), "fast": status.blas_ok}
    if status.device == "cpu" and not status.blas_ok:
        fix = "pip install scipy-openblas32 (and unset MINIALIGN_BLAS); training is 30 times slower"
        return Finding("note", said, fix, data)
    if status.device == "cpu" and speed < SLOW_GFLOPS:
        return Finding("note", said, "the cores are busy with something else, or few", data)
    return Finding("ok", said, data=data)


def _kernels() -> Finding:
    from minialign import cpu

    status = cpu.status()
    fine = status.native or status.device != "cpu"
    return Finding("ok" if fine else "note", status.kernels, data={"native": status.native})


def _compiler() -> Finding:
    wanted = os.environ.get("CXX", "").split()[:1]
    for name in [*wanted, "c++", "g++", "clang++"]:
        if path := shutil.which(name):
            return Finding("ok", path)
    install = "xcode-select --install" if sys.platform == "darwin" else "e.g. apt install g++"
    said = "no C++ compiler: everything works, but some of it slower"
    return Finding("note", said, f"{install}, then reinstall minialign")


def _home() -> Finding:
    path = home()
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    data = {"path": str(path), "free": free}
    said = f"{path}{'' if path.exists() else ' (made when needed)'}, {free / GB:.1f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fix = "set MINIALIGN_HOME to a folder of yours"
        return Finding("problem", f"{path} cannot be written", fix, data)
    if free < ROOM_TO_STORE:
        fix = "make room, or set MINIALIGN_HOME to a folder on another disk"
        return Finding("note", said, fix, data)
    return Finding("ok", said, data=data)


def _settings() -> Finding:
    path = home() / "config.toml"
    try:
        keys = sorted(settings())
    except UserError as reason:
        return Finding("problem", reason.problem, reason.hint)
    if not path.exists():
        return Finding("ok", f"none ({path} would be read)")
    return Finding("ok", f"{path}: {', '.join(keys) or 'empty'}")


def _models() -> Finding:
    from minialign.models.library import installed

    models = installed()
    if not models:
        fix = f"minialign models pull {DEFAULT}   (minialign demo does it by itself)"
        return Finding("note", "none installed yet", fix, {"names": []})
    sizes = [f"{model.name} ({model.disk_bytes / 1e6:.0f} MB)" for model in models]
    return Finding("ok", ", ".join(sizes), data={"names": [model.name for model in models]})


def _hub() -> Finding:
    names = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE")
    said = [f"{name}={_hide_password(os.environ[name])}" for name in names if os.environ.get(name)]
    token = _has_token()
    said.append("a token is set" if token else "no token (only gated models need one)")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return Finding(
        "note" if offline else "ok",
        f"{', '.join(said)}; not asked whether it answers",
        "unset HF_HUB_OFFLINE to fetch models" if offline else "",
        {"token": token, "offline": offline},
    )


def _hide_password(value: str) -> str:
    """A URL without the user name and password that may stand in it."""
    try:
        address = urlsplit(value)
        if "@" not in address.netloc:
            return value
        return address._replace(netloc="…@" + address.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        return "(not a URL)"


def _has_token() -> bool:
    """Whether huggingface_hub would find a token; its text is not read."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    folder = Path(os.environ.get("HF_HOME") or cache).expanduser()
    path = Path(os.environ.get("HF_TOKEN_PATH") or folder / "token").expanduser()
    return path.is_file() and path.stat().st_size > 0


def _optional(package: str) -> Finding:
    purpose, install = OPTIONAL[package]
    if importlib.util.find_spec(package) is None:
        return Finding("note", f"not installed; it {purpose}", install)
    return Finding("ok", f"{_installed_version(package)}; {purpose}")
