"""What the training loop asks of the host between two logs: one program a step, and no waiting."""

from types import SimpleNamespace

import jax
import pytest

from agentic_transformer.config import AgentConfig, ModelConfig, TrainCommand, TrainConfig
from agentic_transformer.errors import UserError
from agentic_transformer.training.learner import TransformerLearner
from agentic_transformer.training.loop import fit, prefetch
from tests.host_traffic import programs_started
from tests.small_agents import describe, labelled


class OnDevice:
    """A number that only `jax.device_get` reads."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        raise AssertionError("a number is waited for alone")


def test_the_loop_waits_for_the_device_at_logs_and_saves_alone(monkeypatch):
    fetched, logged, saved = [], [], []

    def device_get(tree):
        fetched.append(step)
        return jax.tree.map(lambda x: x.value, tree)

    def train_step(state, batch):
        nonlocal step
        step = batch
        return state, {"loss": OnDevice(float(batch)), "norm": OnDevice(1.0)}

    step = 0
    monkeypatch.setattr(jax, "device_get", device_get)
    fit(
        SimpleNamespace(step=0),
        train_step,
        range(1, 13),
        TrainConfig(steps=12, log_every=4, checkpoint_every=6),
        log=lambda step, means: logged.append((step, means["loss"])),
        save=lambda state, loss: saved.append((step, loss)),
    )
    assert logged == [(4, 2.5), (6, 5.5), (8, 7.5), (12, 10.5)]
    assert saved == [(6, 4.5), (12, 10.5)]
    # Each log fetches its metrics, each save the last losses.
    assert fetched == [4, 6, 6, 8, 12, 12]


def test_a_mean_of_nothing_is_none_but_what_is_not_finite_is_told():
    losses, logged, saved = iter([2.0, 8.0, 0.0, 0.0, float("nan")]), [], []
    weights = iter([3.0, 1.0, 0.0, 0.0, 0.0])

    def train_step(state, batch):
        return state, {"loss": next(losses), "loss weight": next(weights)}

    with pytest.raises(FloatingPointError, match="^loss became nan between steps 5 and 5$"):
        fit(
            SimpleNamespace(step=0),
            train_step,
            range(1, 6),
            TrainConfig(steps=5, log_every=2, checkpoint_every=2),
            log=lambda step, means: logged.append(means),
            save=lambda state, loss: saved.append(loss),
        )
    assert logged == [{"loss": 3.5}, {"loss": None}]
    assert saved == [3.5, float("inf")]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([["bc_loss", "norm"]], "step 1 of the learner has the metrics bc_loss, norm\n  allowed: "),
        ([[]], r"step 1 of the learner has the metrics \(none\)"),
        ([["loss"]] * 3 + [["loss", "norm"]], "step 4 .* metrics loss, norm\n.*the same in each"),
        ([["loss", "norm"], ["norm"]], "step 2 of the learner has the metrics norm"),
    ],
)
def test_metrics_have_the_same_names_in_each_step(names, says):
    logged = []

    def train_step(state, batch):
        return state, dict.fromkeys(names[batch], 1.0)

    with pytest.raises(UserError, match=says):
        fit(
            SimpleNamespace(step=0),
            train_step,
            range(len(names)),
            TrainConfig(steps=len(names), log_every=2),
            log=lambda step, means: logged.append(step),
            save=lambda state, loss: pytest.fail("saved what was not measured"),
        )
    assert logged == ([2] if len(names) > 2 else [])


@pytest.mark.slow
def test_a_step_is_one_program_and_moves_nothing(tmp_path):
    data = labelled(tmp_path)
    config = TrainCommand(
        agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=16, layers=1),
        train=TrainConfig(steps=6, batch=2, log_every=3),
    )
    learner = TransformerLearner(config, data, describe(data, config.agent, config.model))
    state, _ = learner.train_step(learner.init_state(), learner.make_batch(0))  # compiles
    # The thread of `prefetch` has put all of a batch on the device before the step asks for it.
    batches = list(prefetch(learner.make_batch, 1, 6))
    assert all(x.committed for x in jax.tree.leaves(batches))

    def train():
        with jax.transfer_guard("disallow"):
            fit(state, learner.train_step, batches, config.train, lambda *_: None, lambda *_: None)

    assert set(programs_started(train)) == {"PjitFunction(train_step)"}


@pytest.mark.parametrize("devices", [1, 8])
def test_steps_on_virtual_devices_do_not_run_ahead(monkeypatch, devices):
    """Those under way together would wait for each other's threads, and XLA would abort."""
    waited = []
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(jax, "block_until_ready", lambda metrics: waited.append(metrics["loss"]))
    fit(
        SimpleNamespace(step=0),
        lambda state, batch: (state, {"loss": float(batch)}),
        range(1, 4),
        TrainConfig(steps=3, log_every=100, checkpoint_every=100),
        log=lambda step, means: None,
        save=lambda state, loss: None,
    )
    assert waited == ([1.0, 2.0, 3.0] if devices > 1 else [])
