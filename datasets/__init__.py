"""Keeps trajectories on disk: reads, checks, caches, relabels, collects and downloads episodes.

(This package shares its name with Hugging Face's `datasets`; run commands from the repository's
root.)
"""

from datasets.action_repeat import ActionRepeatView
from datasets.cache import build_cache
from datasets.collection import buffer_folder, collect
from datasets.episode import Episode, read_episode, write_episode
from datasets.minari_format import export_minari, import_minari
from datasets.relabelling import relabel
from datasets.trajectory_store import Store, Trajectories
from datasets.verification import verify

__all__ = [
    "ActionRepeatView",
    "Episode",
    "Store",
    "Trajectories",
    "buffer_folder",
    "build_cache",
    "collect",
    "export_minari",
    "import_minari",
    "read_episode",
    "relabel",
    "verify",
    "write_episode",
]
