"""Converts between a buffer of episodes and a Minari dataset on this disk.

python -m experiments.convert to=minari buffer=data/walker/rnd/buffer minari=minari/walker-rnd-v0
"""

from __future__ import annotations

import datasets
from agentic_transformer.config import ConvertCommand
from experiments.cli import app as cli


def main(config: ConvertCommand) -> None:
    """Converts in the direction that is asked for, and says where the result lies."""
    if config.to == "minari":
        made = config.minari
        count = datasets.export_minari(config.buffer, made, config.domain)
    else:
        made = config.buffer
        count = datasets.import_minari(config.minari, made, config.domain)
    print(f"{count} episodes: {made}")


if __name__ == "__main__":
    cli.run(main, ConvertCommand)
