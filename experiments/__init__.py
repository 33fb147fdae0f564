"""Holds the commands, `python -m experiments.<name>`: thin files that call the other packages.

Settings and their meanings are in `agentic_transformer/config.py`; `--help-all` prints them.
"""
