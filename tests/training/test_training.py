"""The train step and its checkpoints."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from agentic_transformer.agents.load import load
from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import AgentConfig, ModelConfig, TrainConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.models.heads import action_loss
from agentic_transformer.models.transformer import unrolled
from agentic_transformer.ring import attention
from agentic_transformer.training import loop, sharding
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.loop import fit, prefetch, profiled
from agentic_transformer.training.state import abstract_state, init_state, make_optimizer
from agentic_transformer.training.step import make_loss_weights, make_train_step
from tests.courses import allowance, course
from tests.seeds import SEED, rng
from tests.small_agents import describe, forward_operations, kept_operations, labelled, longest_sum
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(steps=12, batch=4, warmup=2, log_every=5, checkpoint_every=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


class Training:
    """All that one run of training needs."""

    def __init__(self, data, model=None, agent=None, config=CONFIG):
        self.config = config
        self.spec = describe(
            data, agent or AgentConfig(trajectories=4, chain_length="uniform"), model
        )
        layout = self.spec.layout()
        self.loader = ChainLoader(data, self.spec.agent, layout, SEED, config.batch)
        self.mesh = sharding.make_mesh(1)
        optimizer, self.schedule = make_optimizer(config)
        self.graph, self.state = init_state(lambda: self.spec.build(SEED), optimizer, self.mesh)
        length = self.spec.agent.trajectories * self.spec.steps * layout.tokens_per_step
        self.parts = self.graph, optimizer, self.spec, self.mesh, length
        self.step = make_train_step(*self.parts)
        self.logged, self.saved = {}, []

    def tokens(self, step):
        return sharding.shard_batch(self.loader(step), self.mesh, "zigzag")

    def fit(self, save=None):
        batches = prefetch(self.tokens, int(self.state.step), self.config.steps)
        return fit(
            self.state, self.step, batches, self.config, self.logged.__setitem__, save or self.save
        )

    def save(self, state, loss):
        self.saved.append(int(state.step))


@pytest.mark.parametrize(
    ("head", "tokens"), [("mixture", "packed"), ("mse", "packed"), ("mse", "separate")]
)
def test_loss_is_the_weighted_mean_over_learned_actions_under_a_segment_mask(data, head, tokens):
    """Against the dense backbone, row by row and chain by chain, with no masks at all."""
    model = ModelConfig(width=16, layers=1, heads=2, head=head, tokens=tokens)
    run = Training(data, model, AgentConfig(trajectories=2, chain_length="uniform", loss="last"))
    tokens = run.loader(0)
    transformer = nnx.merge(run.graph, run.state.params)
    total = weights = 0.0
    for row in range(CONFIG.batch):
        for chain in range(tokens.segment[row].max() + 1):
            (of_chain,) = np.nonzero(tokens.segment[row] == chain)
            part = [x[row : row + 1, of_chain] for x in tokens if x is not None]
            outputs = transformer(
                part[0], part[1], lambda _, q, k, v: attention(q, k, v, backbone="dense")
            )
            losses = np.asarray(action_loss(run.spec.model, outputs, part[3]), np.float64)
            total, weights = total + (losses * part[4]).sum(), weights + part[4].sum()
    _, metrics = run.step(run.state, run.tokens(0))
    # A loss is a mean of what the head says; its logarithms and squares are of size 1 as it is.
    operations = forward_operations(run.spec) + losses.size
    assert_close(metrics["loss"], total / weights, operations, max(1, abs(total / weights)))


def test_losses_of_first_steps_are_told_apart_by_the_place_in_the_row(data):
    """Each equals the loss of a batch in which all other steps have weight zero."""
    run = Training(data, agent=AgentConfig(trajectories=4, loss="all"))
    step = make_train_step(*run.parts)
    tokens = run.loader(0)
    _, metrics = step(jax.tree.map(jnp.copy, run.state), run.tokens(0))
    assert {name for name in metrics if name.startswith("first_step_loss_")} == {
        f"first_step_loss_{n}{end}" for n in (1, 2, 4) for end in ("", " weight")
    }
    for n in (1, 2, 4):
        alone = np.zeros_like(tokens.weight)
        alone[:, (n - 1) * run.spec.steps] = 1
        _, only = run.step(
            jax.tree.map(jnp.copy, run.state),
            sharding.shard_batch(tokens._replace(weight=alone), run.mesh, "zigzag"),
        )
        # The same program but for the last sum, over a row's tokens.
        operations = forward_operations(run.spec) + alone.size
        assert_close(
            metrics[f"first_step_loss_{n}"],
            only["loss"],
            operations,
            max(1, abs(float(only["loss"]))),
        )


def test_mixture_loss_is_the_density_of_a_gaussian_mixture():
    config = ModelConfig(components=3)
    data = rng(0)
    outputs, action = data.normal(size=(5, 3 * 5)), data.uniform(-1, 1, (5, 2))
    weight = np.exp(outputs[:, :3]) / np.exp(outputs[:, :3]).sum(axis=1, keepdims=True)
    mean, log_std = np.split(outputs[:, 3:].reshape(5, 3, 4), 2, axis=-1)
    std = np.exp(np.clip(log_std, -3, 1))
    normal = np.exp(-0.5 * ((action[:, None] - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    expected = -np.log((weight * normal.prod(axis=-1)).sum(axis=1))
    # Exponents are rounded as the squares they are sums of: quotients, whose own errors are
    # doubled, up to the greatest of them.
    exponents = 0.5 * (((action[:, None] - mean) / std) ** 2).sum(axis=-1)
    found = action_loss(config, outputs.astype(np.float32), action.astype(np.float32))
    assert_close(found, expected, 20, max(1, exponents.max(), np.abs(log_std).max()))


def test_training_learns_and_reports_every_step_once(data):
    run = Training(
        data,
        config=TrainConfig(
            steps=60, batch=8, warmup=5, log_every=20, checkpoint_every=25, learning_rate=1e-2
        ),
    )
    made, tokens = [], run.tokens
    run.tokens = lambda step: made.append(step) or tokens(step)
    state = run.fit()
    assert made == list(range(60))  # the batch of every step, once
    assert sorted(run.logged) == [20, 25, 40, 50, 60]
    assert run.saved == [25, 50, 60]
    assert int(state.step) == 60
    assert run.logged[60]["loss"] < run.logged[20]["loss"] - 0.2


def test_a_logged_loss_is_the_mean_over_the_learned_actions_of_all_steps(data):
    """At a rate of nearly 0, three steps that learn parts of a batch log the loss of the batch."""
    config = TrainConfig(steps=4, batch=4, warmup=0, log_every=3, learning_rate=1e-9)
    run = Training(data, ModelConfig(width=16, layers=1), AgentConfig(trajectories=2), config)
    whole = run.loader(0)
    learned = np.ones_like(whole.weight)
    learned[:, : run.spec.steps] = 0  # nowhere the first trajectory
    rows = np.arange(4)[:, None]
    parts = [learned * some for some in (rows == 1, rows != 1, rows < 0, rows < 0)]

    def tokens(weight):
        return sharding.shard_batch(whole._replace(weight=weight), run.mesh, "zigzag")

    (_, expected), (_, of_rows) = (
        run.step(jax.tree.map(jnp.copy, run.state), tokens(some)) for some in (learned, parts[1])
    )
    run.tokens, saved = lambda step: tokens(parts[step]), []
    run.fit(lambda state, loss: saved.append(loss))
    operations = forward_operations(run.spec) + learned.size
    for name in ("loss", "first_step_loss", "first_step_loss_2"):
        size = max(1, abs(expected[name]))
        assert_close(run.logged[3][name], expected[name], operations, size)
        assert run.logged[4][name] is None  # that step alone, which learns nothing
    assert run.logged[3]["first_step_loss_1"] is None
    assert not [name for name in run.logged[3] if "weight" in name]
    # Of the last three steps one learns three rows. The two others learn nothing.
    assert_close(saved[0], of_rows["loss"], operations, max(1, abs(of_rows["loss"])))


def test_the_best_checkpoint_is_known_by_as_many_steps_as_the_others(data):
    """A lucky step makes no best checkpoint, neither at a stop nor soon after a resume."""
    run = Training(
        data, config=TrainConfig(steps=20, batch=4, warmup=2, log_every=4, checkpoint_every=6)
    )
    losses = {step: float(step % 3) for step in range(1, 21)} | {13: -50.0}
    saved = {}

    def train_step(state, tokens):
        return state._replace(step=state.step + 1), {
            "loss": jnp.float32(losses[int(state.step) + 1])
        }

    def save(state, loss):
        saved[int(state.step)] = loss

    def fit(start, stop):
        state = run.state._replace(step=jnp.int32(start))
        loop.fit(
            state,
            train_step,
            [None] * (20 - start),
            run.config,
            lambda *_: None,
            save,
            lambda: max(saved, default=0) >= stop,
        )

    fit(0, stop=12)
    assert saved == {6: (0 + 1 + 2 + 0) / 4, 12: (0 + 1 + 2 + 0) / 4, 13: (1 + 2 + 0 - 50) / 4}
    saved.clear()
    fit(16, stop=30)
    assert saved == {18: np.inf, 20: (2 + 0 + 1 + 2) / 4}


def test_resumed_training_ends_at_the_same_parameters_bit_for_bit(data, tmp_path):
    uninterrupted = Training(data).fit()

    class Killed(Exception):
        pass

    first = Training(data)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.prepare() is None

    def save_then_die(state, loss):
        checkpoints.save(state, first.spec.to_dict(), loss)
        if int(state.step) == 8:
            raise Killed

    with pytest.raises(Killed):
        first.fit(save_then_die)
    checkpoints.close()

    second, checkpoints = Training(data), Checkpoints(tmp_path)
    assert checkpoints.prepare() == 8
    outlined, like = abstract_state(lambda: second.spec.build(SEED), second.parts[1], second.mesh)
    assert outlined == second.graph
    second.state = checkpoints.state(8, like, second.spec.to_dict())
    jax.tree.map(np.testing.assert_array_equal, second.fit(), uninterrupted)
    checkpoints.close()


def test_a_saved_agent_acts_as_it_did(data, tmp_path):
    run = Training(data)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run.state, run.spec.to_dict(), loss=1.0)
    checkpoints.close()
    agent = load(tmp_path)
    assert agent.spec == run.spec
    jax.tree.map(np.testing.assert_array_equal, agent._params, run.state.params)


def test_a_run_without_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no checkpoint in {tmp_path}"):
        load(tmp_path)


def test_a_loss_that_is_not_finite_stops_training_before_it_is_saved(data):
    run = Training(data)
    tokens = run.tokens
    run.tokens = lambda step: tokens(step)._replace(
        action=tokens(step).action * (np.nan if step == 5 else 1)
    )
    with pytest.raises(FloatingPointError, match="loss became nan.* between steps 6 and 8"):
        run.fit()
    assert run.saved == [4]


def test_learning_rate_warms_up_then_falls_to_its_final_fraction():
    _, schedule = make_optimizer(
        TrainConfig(steps=1000, warmup=100, learning_rate=1e-2, final_fraction=0.1)
    )
    assert float(schedule(0)) == 0
    # Float32: quotients, a cosine, products.
    assert float(schedule(50)) == pytest.approx(5e-3, rel=rounding(10))
    assert float(schedule(100)) == pytest.approx(1e-2, rel=rounding(10))
    assert float(schedule(1000)) == pytest.approx(1e-3, abs=rounding(10) * 1e-2)


def test_a_warm_up_longer_than_training_ends_with_it_at_the_peak():
    _, schedule = make_optimizer(TrainConfig(steps=5, warmup=100, learning_rate=1e-2))
    found = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(found, np.arange(6) * 2e-3, rtol=rounding(10))


def test_the_optimizer_is_adamw_on_clipped_gradients():
    """Against the formulas of arXiv 1711.05101 in float64; gradients are clipped before moments."""
    config = TrainConfig(
        steps=10, warmup=2, learning_rate=1e-2, weight_decay=0.1, grad_clip_norm=1.0
    )
    optimizer, schedule = make_optimizer(config)
    params = {"w": jnp.array([1.0, -2.0])}
    state, expected, mean, square = optimizer.init(params), np.array([1.0, -2.0]), 0.0, 0.0
    for step, gradient in enumerate(([3.0, 4.0], [0.3, 0.1], [-30.0, 10.0], [0.1, -0.2])):
        updates, state = optimizer.update({"w": jnp.array(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        clipped = np.array(gradient) * min(1, 1 / np.linalg.norm(gradient))
        mean, square = 0.9 * mean + 0.1 * clipped, 0.999 * square + 0.001 * clipped**2
        steps = step + 1
        corrected = (mean / (1 - 0.9**steps), square / (1 - 0.999**steps))
        direction = corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        expected = expected - float(schedule(step)) * (direction + 0.1 * expected)
        # 0.999 is rounded at 1, a thousand times 1 - 0.999; the root halves that.
        assert_close(params["w"], expected, 20 * steps, 2 + 1000 * float(schedule(step)))


def test_losses_by_place_are_those_of_powers_of_two_and_of_the_last(data):
    """A row of three trajectories of two steps, of two tokens each, of which the second learns."""
    tokens = Tokens(
        features=np.zeros((1, 12, 1)),
        timestep=np.tile([[0, 0, 1, 1]], 3),
        segment=np.zeros((1, 12), int),
        action=np.zeros((1, 12, 1)),
        weight=np.tile([[0.0, 2.0]], 6),
    )
    weights_of = make_loss_weights(
        describe(data, AgentConfig(trajectories=3)), sharding.make_mesh(1), 12
    )
    found = {name: np.asarray(weight)[0] for name, weight in weights_of(tokens).items()}
    first = np.tile([0.0, 2, 0, 0], 3)
    expected = {"loss": tokens.weight[0], "first_step_loss": first}
    for n in (1, 2, 3):
        expected[f"first_step_loss_{n}"] = first * (np.arange(12) // 4 == n - 1)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight)
    alone = make_loss_weights(
        describe(data, AgentConfig(trajectories=1)), sharding.make_mesh(1), 12
    )
    assert alone(tokens).keys() == {"loss", "first_step_loss"}


def test_a_batch_that_does_not_divide_is_refused():
    class TwoDevices:
        shape = {"data": 2, "ring": 1}

    with pytest.raises(ValueError, match="train.batch=3 must be a multiple of the 2 devices"):
        sharding.local_rows(TwoDevices(), 3)
    with pytest.raises(ValueError, match="train.batch=6 .* times train.grad_accum_steps=2"):
        sharding.local_rows(TwoDevices(), 6, grad_accum_steps=2)


def test_a_ring_larger_than_the_machine_is_refused():
    with pytest.raises(ValueError, match="mesh.ring=3 must divide the .* mesh.virtual_devices=3"):
        sharding.make_mesh(3)


def courses(data, model=None, count=4, **settings):
    """Training of some steps: the run, its step and its batches, and the course it takes."""
    run = Training(data, model or ModelConfig(width=32, layers=2, heads=2))
    step, batches = (
        make_train_step(*run.parts, **settings),
        [run.tokens(number) for number in range(count)],
    )
    return run, step, batches, course(step, run.state, batches)


@pytest.fixture(scope="module")
def plain(data):
    """A course, and what rounding may make of it."""
    run, step, batches, expected = courses(data)
    return expected, allowance(
        step, run.state, batches, expected, longest_sum(run.spec, CONFIG.batch)
    )


def test_accumulated_gradients_are_those_of_the_whole_batch(data, plain):
    """They agree to the rounding of sums in another order.

    Rows differ in how many of their actions are learned.
    """
    expected, allowed = plain
    allowed.check(courses(data, grad_accum_steps=2)[-1], expected)


@pytest.mark.parametrize("remat", ["none", "block"])
def test_rolled_layers_train_as_layers_one_by_one(data, plain, remat):
    """The same losses, and after them the same parameters."""
    expected, allowed = plain
    found = courses(data, ModelConfig(width=32, layers=2, heads=2, scan_layers=True, remat=remat))[
        -1
    ]
    together = unrolled(found.params)
    assert (
        dict(nnx.to_flat_state(together)).keys() == dict(nnx.to_flat_state(expected.params)).keys()
    )
    allowed.check(found._replace(params=together), expected)


def test_a_saved_agent_with_rolled_layers_acts_as_it_was_trained(data, tmp_path):
    """A block for each layer gives the outputs of the rolled model, in float32."""
    run = Training(
        data, ModelConfig(width=16, layers=3, heads=2, scan_layers=True, dtype="bfloat16")
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run.state, run.spec.to_dict(), loss=1.0)
    checkpoints.close()
    agent = load(tmp_path)
    tokens = run.tokens(0)

    def outputs(graph, params):
        model = nnx.merge(graph, params)
        return model(
            tokens.features,
            tokens.timestep,
            lambda _, q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
        )

    whole = ModelConfig(width=16, layers=3, heads=2, scan_layers=True)
    rolled = nnx.graphdef(describe(data, run.spec.agent, whole).build(SEED))
    operations = forward_operations(agent.spec)
    assert_close(
        outputs(agent._graph, agent._params), outputs(rolled, run.state.params), operations
    )

    def first_action(agent):
        observation = np.full((2, data.store.observation_size), 0.1)
        return agent.act(
            agent.new_context(2, 1),
            np.array([3.0, 5.0]),
            observation,
            0,
            jax.random.key(0),
            1.0,
            1.0,
        )[0]

    plain = describe(data, run.spec.agent, ModelConfig(width=16, layers=3, heads=2))
    same = TransformerAgent(nnx.graphdef(plain.build(SEED)), unrolled(run.state.params), plain)
    assert_close(first_action(agent), first_action(same), operations, 1)


@pytest.mark.parametrize("remat", ["full", "block", "dots"])
def test_rematerialisation_changes_memory_alone(data, plain, remat):
    expected, allowed = plain
    allowed.check(
        courses(data, ModelConfig(width=32, layers=2, heads=2, remat=remat))[-1], expected
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rematerialisation_keeps_less_for_the_gradient(data, dtype):
    """Counts the bytes that the backward pass holds.

    XLA's plan on a CPU says little about the memory of an accelerator.
    """
    kept = {}
    for remat in ("none", "dots", "full"):
        run = Training(data, ModelConfig(width=32, layers=4, heads=2, remat=remat, dtype=dtype))
        tokens = run.tokens(0)

        def outputs(params, graph=run.graph, tokens=tokens):
            return nnx.merge(graph, params)(
                tokens[0], tokens[1], lambda _, q, k, v: jax.nn.dot_product_attention(q, k, v)
            )

        _, backward = jax.vjp(outputs, run.state.params)
        kept[remat] = sum(x.nbytes for x in jax.tree.leaves(backward))
    assert kept["full"] < 0.7 * kept["dots"]
    assert kept["dots"] < 0.7 * kept["none"]


def test_bfloat16_keeps_parameters_and_loss_in_float32(data, plain):
    """Losses agree to bfloat16's 8 bits, to which blocks round what they keep."""
    (expected, _), model = plain, ModelConfig(width=32, layers=2, heads=2, dtype="bfloat16")
    found = courses(data, model)[-1]
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {np.dtype("float32")}
    assert (found.losses != expected.losses).all()
    assert_close(found.losses, expected.losses, kept_operations(model), dtype=ml_dtypes.bfloat16)


def test_chosen_steps_are_profiled(data, tmp_path):
    run = Training(data)
    run.step = profiled(run.step, 0, [2, 3], tmp_path)
    run.fit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_2", "step_3"]
    assert all(list(path.rglob("*.xplane.pb")) for path in tmp_path.iterdir())


def test_processes_of_one_host_have_profiles_of_their_own(tmp_path, monkeypatch):
    for index in range(2):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        profiled(lambda state, batch: (state, {}), 0, [1], tmp_path)(0, None)
    found = {path.relative_to(tmp_path).parts[:-4] for path in tmp_path.rglob("*.xplane.pb")}
    assert found == {("step_1",), ("process_1", "step_1")}


def test_a_request_to_stop_saves_that_very_step(data):
    run = Training(data)
    batches = prefetch(run.tokens, 0, CONFIG.steps)
    asked = iter([False, False, True])
    state = fit(
        run.state, run.step, batches, CONFIG, run.logged.__setitem__, run.save, lambda: next(asked)
    )
    assert run.saved == [3] and int(state.step) == 3 and list(run.logged) == [3]


def test_steps_of_a_sampler_that_starts_again_are_the_same(data):
    """1,000 batches; each is drawn from its step alone."""
    first, second = (
        ChainLoader(data, AgentConfig(trajectories=4), describe(data).layout(), SEED, 2)
        for _ in range(2)
    )
    list(map(first, range(50)))
    for step in range(50, 1050):
        for x, y in zip(first.sampler.draw(step, 2), second.sampler.draw(step, 2), strict=True):
            np.testing.assert_array_equal(x, y)
