import os

from tests.seeds import SEED

# Tests share no compiled programs; a test of that sharing names a folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")


def pytest_report_header():
    return f"TEST_SEED={SEED} (the random data of numeric tests; any number will do)"
