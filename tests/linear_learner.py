"""The smallest learner that is no transformer: behaviour cloning by a linear map.

`agent.learner=tests.linear_learner:LINEAR` trains it.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agentic_transformer.agents.attempts import Plays
from agentic_transformer.agents.base import Context
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.contexts.transitions import TransitionLoader
from agentic_transformer.learners import LearnerKind
from agentic_transformer.training.computation import describe_computation
from agentic_transformer.training.state import TrainState


class LinearLearner:
    """Minimises the squared error of actions, with the batch and the rate of td3_bc."""

    tokens_per_batch = 0
    decay = 0.0

    def __init__(self, config, data, spec):
        self._spec, self._config = spec, config.td3_bc
        self._optimizer = optax.adam(self._config.learning_rate)
        self.computation = describe_computation(config.model.precision, jax.devices()[:1])
        self.make_batch = TransitionLoader(data, spec.layout(), self._config.batch, config.seed)

    def init_state(self):
        params = LinearAgent.init_params(self._spec)
        return TrainState(jnp.int32(0), params, self._optimizer.init(params))

    abstract_state = init_state

    def learning_rate(self, step):
        return self._config.learning_rate

    @partial(jax.jit, static_argnums=0)
    def train_step(self, state, batch):
        def loss(params):
            error = jnp.mean((act(params, batch.observation) - batch.action) ** 2)
            return error + self.decay * jnp.sum(params["weight"] ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, optimizer = self._optimizer.update(grads, state.optimizer)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer), {"loss": value}


class RidgeLearner(LinearLearner):
    """Keeps the weights small: a setting of the learner's own is another learner."""

    decay = 0.1


class LinearAgent(Plays):
    """Acts on the observation alone."""

    def __init__(self, params, spec):
        self.spec, self.layout = spec, spec.layout()
        self._params = params

    @staticmethod
    def init_params(spec):
        sizes = spec.observation_size, spec.action_size
        return {"weight": jnp.zeros(sizes), "bias": jnp.zeros(sizes[1])}

    @classmethod
    def from_trained(cls, params, spec, mesh=None):
        return cls(params, spec)

    def new_context(self, batch, trajectories):
        return Context((), 0, PreviousStep.zeros(batch, self.spec.action_size), 0)

    def act(self, context, return_to_go, observation, timestep, key, temperature, noise):
        normalized = self.layout.normalizer.normalize(observation).astype(np.float32)
        action = np.asarray(act(self._params, normalized))
        return action, replace(context, encoded=context.encoded + 1)

    def append(self, context, trajectory):
        return context


@jax.jit
def act(params, observation):
    """Maps (..., O) to (..., A) within [-1, 1]."""
    return jnp.tanh(observation @ params["weight"] + params["bias"])


LINEAR = LearnerKind(trains=f"{__name__}:LinearLearner", acts=f"{__name__}:LinearAgent")
RIDGE = LearnerKind(trains=f"{__name__}:RidgeLearner", acts=f"{__name__}:LinearAgent")
