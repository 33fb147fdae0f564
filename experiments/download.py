"""Downloads one of ExoRL's data sets: `python -m experiments.download domain=walker algo=rnd`."""

from __future__ import annotations

import sys

from agentic_transformer.config import DownloadCommand
from experiments.cli import app as cli


def main(config: DownloadCommand) -> None:
    """Downloads, checks, unpacks and caches; exits with 1 if there is no connection or no room."""
    # With HDF5, which a check of the command line does not wait for.
    import datasets
    from datasets.download import download

    try:
        buffer = download(config.domain, config.algo, config.root, sha256=config.sha256)
    except OSError as error:
        sys.exit(f"experiments.download: {error}")
    print(f"buffer: {buffer}\ncache:  {datasets.build_cache(buffer, place=config.cache)}")


if __name__ == "__main__":
    cli.run(main, DownloadCommand)
