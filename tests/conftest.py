"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and checkpoints beside the repository; skips where it is absent."""
    if not (SHARED / "checkpoints").is_dir():
        pytest.skip("needs ../shared (real checkpoints and shards), which is not beside this clone")
    return SHARED
