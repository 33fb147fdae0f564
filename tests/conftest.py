import os

# Tests find nothing that earlier ones compiled; who tests that, names a folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
