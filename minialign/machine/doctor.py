"""What this machine has, what is missing for training on it, and what to do about that.

Each check is one line with a word of its own: "ok", "note" (works, but slower or with less) or
"problem" (training is impossible). Nothing here goes to the network, and no secret is read out.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minialign import __version__
from minialign.errors import UserError
from minialign.home import home, settings
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
class Check:
    """One line of the report."""

    name: str
    status: str  # "ok", "note" or "problem"
    found: str
    fix: str = ""  # what to do about it; a command where there is one
    data: dict[str, Any] = field(default_factory=dict)  # the same as numbers, for --json


def checks() -> Iterator[Check]:
    """All checks, one after the other; each says what it found even when the one before failed."""
    everything: list[Callable[[], Check]] = [
        _version, _system, _chip, _memory, _mlx, _mlx_lm, _blas, _kernels, _compiler, _home,
        _settings, _models, _hub, *(lambda name=name: _optional(name) for name in OPTIONAL),
    ]  # fmt: skip
    for check in everything:
        try:
            yield check()
        except Exception as reason:  # the report of a broken machine must not break
            name = getattr(check, "__name__", "check").strip("_<>")
            yield Check(name, "note", f"could not be checked: {reason!r}")


def _version() -> Check:
    return Check("minialign", "ok", f"{__version__} in {Path(__file__).parents[1]}")


def _system() -> Check:
    found = f"Python {platform.python_version()} on {platform.platform(aliased=True, terse=True)}"
    known = sys.platform in ("linux", "darwin")
    fix = "" if known else "minialign runs on Linux and macOS; on Windows use WSL"
    return Check("system", "ok" if known else "problem", f"{found}, {platform.machine()}", fix)


def _chip() -> Check:
    usable, present = usable_cores(), os.cpu_count() or 1
    quota = core_quota()
    found = f"{chip_name()}, {usable} of {present} cores may be used"
    data = {"cores": usable, "present": present, "quota": quota}
    wanted = os.environ.get("MINIALIGN_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted)):
        return Check(
            "chip", "note", f"{found}; MINIALIGN_THREADS={wanted!r} is ignored",
            "set it to a number of threads, or unset it", data,
        )  # fmt: skip
    if wanted:
        found += f", MINIALIGN_THREADS={wanted}"
    if quota is not None and quota < usable:
        fix = f"export MINIALIGN_THREADS={max(1, int(quota))}"
        found += f", but only {quota:g} cores' time is granted (cgroup)"
        return Check("chip", "note" if not wanted else "ok", found, "" if wanted else fix, data)
    return Check("chip", "ok", found, data=data)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_quota() -> float | None:
    """How many cores' time the container grants; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def chip_name() -> str:
    """The processor's marketing name."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.partition(":")[0].strip() in ("model name", "Model", "Hardware"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _sysctl(name: str) -> str:
    result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _memory() -> Check:
    total, free = memory()
    data = {"total": total, "free": free}
    if total is None:
        return Check("memory", "note", "could not be told", data=data)
    found = f"{total / GB:.1f} GB" + ("" if free is None else f", {free / GB:.1f} GB free")
    try:
        from minialign.cpu import kept_bits

        kept = kept_bits()
    except ImportError:  # another check says what is wrong with mlx
        kept = ()
    small = with_memory(catalog()[DEFAULT], kept)
    need = f"training {small.name} with --grad-checkpoint takes {small.train_bytes / GB:.1f} GB"
    if total < small.train_bytes / 2:
        return Check("memory", "problem", found, need, data)
    if total < small.train_bytes:
        return Check("memory", "note", found, f"{need}; with --batch-size 1 it takes less", data)
    if free is not None and free < small.train_bytes:
        return Check("memory", "note", found, f"close other programs: {need}", data)
    return Check("memory", "ok", found, data=data)


def memory() -> tuple[int | None, int | None]:
    """(bytes of memory, bytes that programs can still get); the container's limit counts."""
    if sys.platform == "darwin":
        total = int(_sysctl("hw.memsize") or 0) or None
        return total, None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    total, free = known.get("MemTotal"), known.get("MemAvailable")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return total, free
    if total is not None and limit < total:
        free = limit - used if free is None else min(free, limit - used)
        total = limit
    return total, free


def _mlx() -> Check:
    try:
        import mlx.core as mx
    except ImportError as reason:
        return Check(
            "mlx", "problem", f"does not load: {reason}", "pip install --force-reinstall minialign"
        )
    device = str(mx.default_device().type).rpartition(".")[2]
    version = _installed_version("mlx")
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return Check("mlx", "note", f"{version} under Rosetta", "use a native arm64 Python")
    return Check("mlx", "ok", f"{version}, device: {device}", data={"device": device})


def _mlx_lm() -> Check:
    version = _installed_version("mlx-lm")
    if version is None:
        return Check("mlx-lm", "problem", "not installed", "pip install minialign")
    return Check("mlx-lm", "ok", version)


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> Check:
    from minialign import cpu

    cpu.activate()
    status = cpu.status()
    speed = gemm_gflops()
    found = f"{status.blas}; {speed:.0f} GFLOP/s in a float32 matmul"
    data = {"gflops": round(speed, 1), "fast": status.blas_ok}
    if status.device == "cpu" and not status.blas_ok:
        fix = "pip install scipy-openblas32 (and unset MINIALIGN_BLAS); training is 30 times slower"
        return Check("matmul", "note", found, fix, data)
    if status.device == "cpu" and speed < SLOW_GFLOPS:
        return Check(
            "matmul", "note", found, "the cores are busy with something else, or few", data
        )
    return Check("matmul", "ok", found, data=data)


def gemm_gflops(seconds: float = MEASURE_SECONDS) -> float:
    """The best of as many float32 matmuls as fit into ``seconds`` (at least one), in GFLOP/s."""
    import mlx.core as mx

    best, start = 0.0, time.perf_counter()
    # The small size warms up, and is all that a slow BLAS has time for.
    for size, least, until in ((256, 4, seconds / 6), (768, 1, seconds)):
        if 2 * size**3 / 1e9 > seconds * (best or float("inf")):
            break
        a, b = mx.ones((size, size)), mx.ones((size, size))
        mx.eval(a, b)
        count = 0
        while count < least or time.perf_counter() - start < until:
            before = time.perf_counter()
            mx.eval(a @ b)
            best = max(best, 2 * size**3 / (time.perf_counter() - before) / 1e9)
            count += 1
    return best


def _kernels() -> Check:
    from minialign import cpu

    status = cpu.status()
    fine = status.native or status.device != "cpu"
    return Check(
        "kernels", "ok" if fine else "note", status.kernels, data={"native": status.native}
    )


def _compiler() -> Check:
    wanted = os.environ.get("CXX", "").split()[:1]
    for name in [*wanted, "c++", "g++", "clang++"]:
        if path := shutil.which(name):
            return Check("compiler", "ok", path)
    install = "xcode-select --install" if sys.platform == "darwin" else "e.g. apt install g++"
    return Check(
        "compiler", "note", "no C++ compiler: everything works, but some of it slower",
        f"{install}, then reinstall minialign",
    )  # fmt: skip


def _home() -> Check:
    path = home()
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    data = {"path": str(path), "free": free}
    found = f"{path}{'' if path.exists() else ' (made when needed)'}, {free / GB:.1f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fix = "set MINIALIGN_HOME to a folder of yours"
        return Check("home", "problem", f"{path} cannot be written", fix, data)
    if free < ROOM_TO_STORE:
        fix = "make room, or set MINIALIGN_HOME to a folder on another disk"
        return Check("home", "note", found, fix, data)
    return Check("home", "ok", found, data=data)


def _settings() -> Check:
    path = home() / "config.toml"
    try:
        keys = sorted(settings())
    except UserError as reason:
        return Check("settings", "problem", reason.problem, reason.hint)
    if not path.exists():
        return Check("settings", "ok", f"none ({path} would be read)")
    return Check("settings", "ok", f"{path}: {', '.join(keys) or 'empty'}")


def _models() -> Check:
    from minialign.models.sources.fetch import installed

    models = installed()
    if not models:
        fix = f"minialign models pull {DEFAULT}   (minialign demo does it by itself)"
        return Check("models", "note", "none installed yet", fix, {"names": []})
    sizes = [f"{model.name} ({model.disk_bytes / 1e6:.0f} MB)" for model in models]
    names = [model.name for model in models]
    return Check("models", "ok", ", ".join(sizes), data={"names": names})


def _hub() -> Check:
    found = []
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        if value := os.environ.get(name):
            found.append(f"{name}={_without_password(value)}")
    token = _has_token()
    found.append("a token is set" if token else "no token (only gated models need one)")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    fix = "unset HF_HUB_OFFLINE to fetch models" if offline else ""
    status = "note" if offline else "ok"
    return Check("hub", status, f"{', '.join(found)}; not asked whether it answers", fix,
                 {"token": token, "offline": offline})  # fmt: skip


def _without_password(value: str) -> str:
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


def _optional(package: str) -> Check:
    purpose, install = OPTIONAL[package]
    if importlib.util.find_spec(package) is None:
        return Check(package, "note", f"not installed; it {purpose}", install)
    return Check(package, "ok", f"{_installed_version(package)}; {purpose}")
