"""An optimized BLAS behind MLX's CPU matmuls, without root rights and without a compiler.

MLX's Linux wheel calls ``cblas_sgemm`` of the reference BLAS: 2 to 5 GFLOP/s, where OpenBLAS
gives about 100 a core. The ``scipy-openblas32`` wheel carries OpenBLAS under prefixed names. Here
the three entries for ``cblas_?gemm`` in the jump table of the loaded ``libmlx.so`` (its lazy
binding slots, which are writable) are pointed at those functions. That works whether ``mlx.core``
was imported before or after, and touches nothing but this process.
"""

import ctypes
import functools
import os
import sys
from pathlib import Path

GEMMS = (b"cblas_sgemm", b"cblas_dgemm", b"cblas_cgemm")

# ELF constants (System V ABI): the tags of the dynamic section that are read here.
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_JMPREL = 2, 5, 6, 23
RELA_SIZE = SYM_SIZE = 24

_state: tuple[bool, str] = (False, "not installed yet")


class _LinkMap(ctypes.Structure):
    """The head of glibc's ``struct link_map``, which is what a ``dlopen`` handle points to."""

    _fields_ = (("base", ctypes.c_uint64), ("name", ctypes.c_char_p), ("dynamic", ctypes.c_uint64))


def _jump_slots(library: Path) -> dict[bytes, int]:
    """Find the jump-table entries of a loaded shared library: addresses by symbol name."""
    handle = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)._handle
    link_map = _LinkMap.from_address(handle)
    tags: dict[int, int] = {}
    entry = link_map.dynamic
    while (pair := (ctypes.c_uint64 * 2).from_address(entry))[0]:
        tags[pair[0]] = pair[1]
        entry += 16
    slots = {}
    for rela in range(tags[DT_JMPREL], tags[DT_JMPREL] + tags[DT_PLTRELSZ], RELA_SIZE):
        offset, info, _ = (ctypes.c_uint64 * 3).from_address(rela)
        symbol = tags[DT_SYMTAB] + SYM_SIZE * (info >> 32)
        name = ctypes.string_at(tags[DT_STRTAB] + ctypes.c_uint32.from_address(symbol).value)
        slots[name] = link_map.base + offset
    return slots


@functools.cache  # keeps the library loaded
def openblas() -> ctypes.CDLL | None:
    """Load the OpenBLAS of the ``scipy-openblas32`` wheel; None where it is not installed."""
    try:
        import scipy_openblas32
    except ImportError:
        return None
    return ctypes.CDLL(str(Path(scipy_openblas32.get_lib_dir()) / "libscipy_openblas.so"))


def threads() -> int:
    """Count the threads to use: ``MINIALIGN_THREADS``, else the process's CPU affinity."""
    wanted = os.environ.get("MINIALIGN_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))


def install() -> tuple[bool, str]:
    """Point MLX at OpenBLAS; returns (whether it is in force, a sentence that says so)."""
    global _state
    if not _state[0]:
        try:
            _state = _install()
        except (OSError, KeyError, AttributeError) as reason:
            _state = (False, f"MLX's reference BLAS, 30 times slower ({reason!r})")
    return _state


def _install() -> tuple[bool, str]:
    if sys.platform != "linux":
        return True, "the system's (Accelerate)"
    if os.environ.get("MINIALIGN_BLAS") == "0":
        return False, "MLX's reference BLAS (MINIALIGN_BLAS=0)"
    library = openblas()
    if library is None:
        return False, "MLX's reference BLAS, 30 times slower; pip install scipy-openblas32"
    import mlx.core as mx

    slots = _jump_slots(Path(mx.__file__).parent / "lib" / "libmlx.so")
    # All are looked up before the first is written: a missing name leaves MLX as it was.
    entries = [(slots[name], getattr(library, f"scipy_{name.decode()}")) for name in GEMMS]
    for slot, function in entries:
        address = ctypes.cast(function, ctypes.c_void_p)
        ctypes.c_void_p.from_address(slot).value = address.value
    library.scipy_openblas_set_num_threads(threads())
    return True, f"OpenBLAS (scipy-openblas32), {threads()} threads"


def status() -> tuple[bool, str]:
    """Return (whether an optimized BLAS is in force, a sentence that says so)."""
    return _state
