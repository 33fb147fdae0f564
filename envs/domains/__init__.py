"""Holds a module for each domain, with its `DOMAIN`; `envs.domain.load_domain` loads it by name."""

# Before any of the modules loads dm_control, which would load a drawing library.
import envs.headless  # noqa: F401
