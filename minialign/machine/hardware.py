"""What this machine is made of: its processor, its memory, how fast it multiplies.

Memory is told by psutil, on Linux and macOS alike; only what it does not know is asked for here.
"""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


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
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return said.strip() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.partition(":")[0].strip() in ("model name", "Model", "Hardware"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> tuple[int, int]:
    """(bytes of memory, bytes that programs can still get); the container's limit counts."""
    told = psutil.virtual_memory()
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return told.total, told.available
    if limit >= told.total:
        return told.total, told.available
    return limit, min(told.available, limit - used)


def most_resident(usage: resource.struct_rusage) -> int:
    """Most bytes that a process held, of its usage: Linux counts in kB, macOS in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak() -> float:
    """Most bytes that this process ever held."""
    try:  # Linux's ru_maxrss begins with that of the program that started this one
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(1024.0 * int(line.split()[1]) for line in lines if line[:6] == "VmHWM:")
    except (OSError, StopIteration):
        return float(most_resident(resource.getrusage(resource.RUSAGE_SELF)))


def best(call: Callable[[], Any], seconds: float, least: int = 2) -> float:
    """The shortest time of a call, of as many as fit into ``seconds``, after one to warm up."""
    call()
    shortest, start, count = float("inf"), time.perf_counter(), 0
    while count < least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - before)
        count += 1
    return shortest


def gemm_gflops(seconds: float) -> float:
    """The best of as many float32 matmuls as fit into ``seconds`` (at least one), in GFLOP/s."""
    import mlx.core as mx  # where it is broken, the doctor still tells the rest

    def measure(size: int, seconds: float, least: int) -> float:
        a, b = mx.ones((size, size)), mx.ones((size, size))
        return 2 * size**3 / 1e9 / best(lambda: mx.eval(a @ b), seconds, least)

    small = measure(256, seconds / 6, 4)
    if seconds * small < 2 * 768**3 / 1e9:  # a slow BLAS has no time for more
        return small
    return max(small, measure(768, 5 * seconds / 6, 1))
