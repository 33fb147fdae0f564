"""One module a domain, each with its `DOMAIN`. Loaded by name through `envs.domain.load`."""
