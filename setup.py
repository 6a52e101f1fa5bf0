"""Names the native module; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["arena/native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
