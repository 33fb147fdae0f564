"""Commands, `python -m experiments.<name>`: thin files that call functions of the other packages.

Settings and their meanings are in `agentic_transformer/config.py`; `--help` prints them.
"""
