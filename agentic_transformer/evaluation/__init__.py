"""Evaluates agents with a growing context and summarizes their records."""
