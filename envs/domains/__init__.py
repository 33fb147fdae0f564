"""One module a domain, each with its `DOMAIN`. Loaded by name through `envs.domain.load`."""

import envs.headless  # noqa: F401  before any of them loads dm_control
