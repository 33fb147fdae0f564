"""Attention and its gradients as the formulas stand, in numpy float64, natural order: what the ring must equal."""

from functools import partial

import numpy as np

einsum = partial(np.einsum, optimize=True)


def attention_float64(query, key, value, weights, *, causal=True, segment_ids=None, window=None):
    """Output (batch, sequence, heads, head_dim), and the gradients of the sum of weights * output."""
    query, key, value, weights = (np.asarray(x, np.float64) for x in (query, key, value, weights))
    batch, sequence, heads, head_dim = query.shape
    group = heads // key.shape[2]
    every_key, every_value = key.repeat(group, axis=2), value.repeat(group, axis=2)
    i, j = np.arange(sequence)[:, None], np.arange(sequence)
    seen = np.ones((1, sequence, sequence), bool)
    if causal:
        seen = seen & (j <= i)
    if window is not None:
        seen = seen & (i - j < window)
    if segment_ids is not None:
        seen = seen & (segment_ids[:, :, None] == segment_ids[:, None])
    scores = np.where(seen[:, None], einsum("bqhd,bkhd->bhqk", query, every_key) / np.sqrt(head_dim), -np.inf)
    share = np.exp(scores - scores.max(axis=-1, keepdims=True))  # a query always sees itself
    share /= share.sum(axis=-1, keepdims=True)
    dshare = einsum("bqhd,bkhd->bhqk", weights, every_value)
    dscores = share * (dshare - (share * dshare).sum(axis=-1, keepdims=True)) / np.sqrt(head_dim)

    def of_key_heads(gradient):
        return gradient.reshape(batch, sequence, heads // group, group, head_dim).sum(axis=3)

    return [
        einsum("bhqk,bkhd->bqhd", share, every_value),
        einsum("bhqk,bkhd->bqhd", dscores, every_key),
        of_key_heads(einsum("bhqk,bqhd->bkhd", dscores, query)),
        of_key_heads(einsum("bhqk,bqhd->bkhd", share, weights)),
    ]
