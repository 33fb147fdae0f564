"""Holds the suites of `python -m experiments.benchmark suite=<name>`, one module each."""
