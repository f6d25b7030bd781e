"""Builds the optional native CPU kernels; everything else about the package is in pyproject.toml.

On Linux with a C++ compiler `minialign/cpu/_native*.so` is built by CMake against the pinned mlx.
Anywhere else, or when the build fails, the install succeeds without it and says so in one line.
`python setup.py build_ext --inplace` builds into the checkout, incrementally.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "minialign" / "cpu" / "native"


def reason_not_to_build() -> str | None:
    """Why this machine cannot build the kernels, or None."""
    if os.environ.get("MINIALIGN_NATIVE") == "0":
        return "MINIALIGN_NATIVE=0"
    if not sys.platform.startswith("linux"):
        return f"they are for Linux, this is {sys.platform}"
    compiler = os.environ.get("CXX", "").split()
    if not any(map(shutil.which, compiler[:1] or ["c++", "g++", "clang++"])):
        return "no C++ compiler found"
    if not shutil.which("cmake"):
        return "no cmake found"
    return None


class BuildKernels(build_ext):
    """Runs CMake; never fails the install."""

    def run(self):
        try:
            reason = reason_not_to_build()
            if reason is None:
                super().run()
        except Exception as error:  # a failed build must leave a working pure-Python install
            reason = f"the build failed: {error}"
        if reason is not None:
            self.extensions = []
            print(f"minialign: native CPU kernels not built ({reason}).", file=sys.stderr)

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "native"
        build.mkdir(parents=True, exist_ok=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        for command in (
            ["cmake", "-S", str(SOURCES), "-B", str(build), *generator, *options],
            ["cmake", "--build", str(build), "-j", jobs],
        ):
            subprocess.run(command, check=True)


sources = sorted(str(p.relative_to(HERE)) for p in SOURCES.rglob("*") if p.is_file())
setup(
    # `depends` puts the sources into the source distribution.
    ext_modules=[Extension("minialign.cpu._native", sources=[], depends=sources, optional=True)],
    cmdclass={"build_ext": BuildKernels},
)
