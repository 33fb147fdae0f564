"""Trajectories on disk: ExoRL episodes, their cache, relabelling from physics, collection,
download.

(This package shares its name with Hugging Face's `datasets`; run commands from the repository's
root.)
"""

from datasets.cache import build_cache
from datasets.collection import buffer_folder, collect
from datasets.episode import Episode, read_episode, write_episode
from datasets.relabelling import relabel
from datasets.store import Store, Trajectories
from datasets.strided import ActionRepeatView
from datasets.verification import verify

__all__ = [
    "Episode",
    "Store",
    "ActionRepeatView",
    "Trajectories",
    "buffer_folder",
    "build_cache",
    "collect",
    "read_episode",
    "relabel",
    "verify",
    "write_episode",
]
