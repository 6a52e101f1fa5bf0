"""Names the native modules, and what they need where they are built; everything else is in pyproject.toml."""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path
from runpy import run_path

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildNative(build_ext):
    """Says what is lacking before anything is compiled."""

    def run(self) -> None:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        header = Path(sysconfig.get_path("include"), "Python.h")
        lacking = []
        if shutil.which(compiler) is None:
            lacking.append(f"the C compiler {compiler} (Debian: apt-get install gcc libc6-dev)")
        if not header.exists():
            lacking.append(f"Python's headers, {header} (Debian: apt-get install python3-dev)")
        if lacking:
            raise SystemExit(
                f"pool-state-arena is compiled where it is installed, and {' and '.join(lacking)} "
                f"cannot be found. Install that, or bring a wheel that was built elsewhere (pip wheel .)"
            )
        super().run()


setup(
    cffi_modules=["arena/native/build.py:ffibuilder"],
    ext_modules=[run_path("arena/native/build.py")["handle"]],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
