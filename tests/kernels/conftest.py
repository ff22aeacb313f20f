"""What the kernels' tests share. tests/conftest.py has chosen Triton's interpreter."""

import importlib.util

import pytest

from golfpack.kernels.select import interpreted


@pytest.fixture(params=["plain", "kernel"])
def kernel(request: pytest.FixtureRequest) -> bool:
    """The plain twin, and Triton's kernel in the interpreter (skipped where triton is missing)."""
    if request.param == "kernel":
        needs_interpreter()
    return request.param == "kernel"


def needs_interpreter() -> None:
    """Skip a test that cannot run kernels."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton: pip install -c constraints.txt triton")
    if not interpreted():
        pytest.skip("needs TRITON_INTERPRET=1")
