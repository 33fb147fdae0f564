"""Downloads one of ExoRL's released data sets.

python -m experiments.download domain=walker algo=rnd
"""

from __future__ import annotations

import sys

import datasets
from agentic_transformer.config import DownloadCommand
from experiments.cli import app as cli


def main(config: DownloadCommand) -> None:
    """Downloads, checks, unpacks and caches; exit code 1 if there is no connection or no room."""
    # Imported here: only after the checks is it certain that `datasets` is this project's.
    from datasets.download import download

    try:
        buffer = download(config.domain, config.algo, config.root, sha256=config.sha256)
    except OSError as error:
        sys.exit(f"experiments.download: {error}")
    print(f"buffer: {buffer}\ncache:  {datasets.build_cache(buffer, place=config.cache)}")


if __name__ == "__main__":
    cli.run(main, DownloadCommand)
