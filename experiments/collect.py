"""Makes a buffer of episodes.

python -m experiments.collect task=point_mass_goal data.episodes=4000
"""

from __future__ import annotations

import datasets
from agentic_transformer.config import CollectCommand
from experiments.cli import app as cli


def main(config: CollectCommand) -> None:
    """Runs a collector in a task's domain, writes its episodes, and caches them."""
    data = config.data
    folder = datasets.buffer_folder(data.root, config.task, data.algo)
    how = {
        "episodes": data.episodes,
        "seed": data.seed,
        "action_repeat": data.action_repeat,
        "length": data.length,
    }
    if data.algo == "td3":
        # Loads jax, which other collectors do without.
        from agentic_transformer.online.collection import collect_td3

        collect_td3(config.task, folder, config=config.td3, **how)
    else:
        datasets.collect(config.task, folder, collector=data.algo, **how)
    print(f"buffer: {folder}\ncache:  {datasets.build_cache(folder, place=data.cache)}")


if __name__ == "__main__":
    cli.run(main, CollectCommand)
