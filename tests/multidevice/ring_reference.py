"""Attention and its gradients as the formulas stand, in numpy float64, natural order: what the ring must equal."""

import numpy as np


def attention_float64(query, key, value, weights, *, causal=True, segment_ids=None, window=None):
    """Output (batch, sequence, heads, head_dim), and the gradients of the sum of weights * output."""
    query, key, value, weights = (np.asarray(x, np.float64) for x in (query, key, value, weights))
    batch, sequence, heads, head_dim = query.shape
    group = heads // key.shape[2]
    i, j = np.arange(sequence)[:, None], np.arange(sequence)
    seen = (j <= i) | (not causal)
    if window is not None:
        seen &= i - j < window
    output, *gradients = (np.zeros(x.shape) for x in (query, query, key, value))
    for b, h in np.ndindex(batch, heads):
        q, w, k, v = query[b, :, h], weights[b, :, h], key[b, :, h // group], value[b, :, h // group]
        visible = seen if segment_ids is None else seen & (segment_ids[b][:, None] == segment_ids[b])
        scores = np.where(visible, q @ k.T / np.sqrt(head_dim), -np.inf)
        share = np.exp(scores - scores.max(axis=1, keepdims=True))  # a query always sees itself
        share /= share.sum(axis=1, keepdims=True)
        output[b, :, h] = share @ v
        dshare = w @ v.T
        dscores = share * (dshare - (share * dshare).sum(axis=1, keepdims=True)) / np.sqrt(head_dim)
        gradients[0][b, :, h] = dscores @ k
        gradients[1][b, :, h // group] += dscores.T @ q
        gradients[2][b, :, h // group] += share.T @ w
    return [output, *gradients]
