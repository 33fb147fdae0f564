"""Command lines: `python -m experiments.<name>`; settings are under `conf/`, their types in
`agentic_transformer/config.py`.
"""
