"""Names the native modules; everything else is in pyproject.toml."""

from runpy import run_path

from setuptools import setup

setup(
    cffi_modules=["arena/native/build.py:ffibuilder"],
    ext_modules=[run_path("arena/native/build.py")["handle"]],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
