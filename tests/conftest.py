"""Property-based tests draw the same examples on every CI run, and new ones at a desk."""

import os
import time

import books
import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Builds that tests compare must not differ when a day ends between them.
os.environ.setdefault("SOURCE_DATE_EPOCH", str(int(time.time())))


@pytest.fixture(scope="session")
def smoke_book():
    return books.smoke_book()
