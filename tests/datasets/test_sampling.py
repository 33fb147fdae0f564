"""Batches of trajectories: their distribution, resumption and separation between hosts."""

import numpy as np
import pytest

from datasets.sampling import Sampler, Selection
from tests.seeds import SEED, rng

RETURNS = rng(0).permutation(200).astype(np.float32)


def batches(sampler, count):
    """`count` batches as one array."""
    return np.stack([sampler.next() for _ in range(count)])


def test_resuming_repeats_the_sequence():
    """The next 1,000 batches after a position are those of an uninterrupted sampler."""
    whole = batches(Sampler(RETURNS, 8, seed=SEED), 1500)
    resumed = Sampler(RETURNS, 8, seed=SEED)
    resumed.position = 500
    np.testing.assert_array_equal(batches(resumed, 1000), whole[500:])
    assert not np.array_equal(batches(Sampler(RETURNS, 8, seed=SEED + 1), 10), whole[:10])


def test_hosts_share_one_sequence_without_overlap():
    """Two hosts together draw what one draws alone, batch by batch."""
    alone = batches(Sampler(RETURNS, 8, seed=SEED), 20)
    hosts = [batches(Sampler(RETURNS, 8, seed=SEED, host=host, hosts=2), 10) for host in range(2)]
    np.testing.assert_array_equal(np.stack(hosts, axis=1).reshape(20, 8), alone)


def test_methods():
    """Uniform reaches everything; `top` the best tenth alone; strata are drawn from equally often, in every batch."""
    assert len(np.unique(batches(Sampler(RETURNS, 20, SEED), 200))) == 200
    best = batches(Sampler(RETURNS, 20, SEED, Selection("top", fraction=0.1)), 50)
    assert sorted(set(RETURNS[best.ravel()])) == list(range(180, 200))
    for batch in batches(Sampler(RETURNS, 20, SEED, Selection("stratified", strata=10)), 50):
        assert np.bincount(RETURNS[batch].astype(int) // 20, minlength=10).tolist() == [2] * 10


def test_refusals():
    """Unknown methods, impossible fractions, too few trajectories."""
    with pytest.raises(ValueError, match="nearest match: 'stratified'"):
        Selection("stratify")
    with pytest.raises(ValueError, match="fraction=0"):
        Selection("top", fraction=0)
    with pytest.raises(ValueError, match="3 trajectories are too few"):
        Sampler(RETURNS[:3], 8, 0, Selection("stratified"))
