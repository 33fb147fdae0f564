"""Rolls agents out with a growing context and summarises their records."""
