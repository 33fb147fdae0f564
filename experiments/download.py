"""Fetches one of ExoRL's released data sets: `python -m experiments.download domain=walker algo=rnd`."""

from __future__ import annotations

from agentic_transformer.config import DownloadCommand
from experiments.harness import cli


def main(config: DownloadCommand) -> None:
    """Download, check, unpack and cache."""
    import datasets
    from datasets.download import download

    buffer = download(config.domain, config.algo, config.root, sha256=config.sha256)
    print(f"buffer: {buffer}\ncache:  {datasets.build_cache(buffer)}")


if __name__ == "__main__":
    cli.run(main, DownloadCommand)
