"""Environments that other libraries make, by the prefixes of `envs.registry.ADAPTERS`; see docs/adapters.md."""
