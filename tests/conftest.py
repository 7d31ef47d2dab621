"""Property-based tests draw the same examples on every CI run, and new ones at a desk."""

import os

import books
import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def smoke_book():
    return books.smoke_book()
