"""DDPG: an actor that says what to do, and a critic that says what it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_ACTOR_RATE, _CRITIC_RATE = 1e-4, 1e-3
# Share of the way that the targets go towards the learned networks at every update.
_TAU = 0.01
# Bound of the last layer's weights, so small that the actor begins where it is told to.
_LAST = 3e-3


class Perceptron:
    """Two hidden layers with ReLU and one output; its weights are drawn from `rng`."""

    def __init__(self, inputs: int, hidden: int, rate: float, rng: np.random.Generator) -> None:
        widths = [inputs, hidden, hidden, 1]
        bounds = [inputs**-0.5, hidden**-0.5, _LAST]
        self.weights = [
            torch.tensor(rng.uniform(-bound, bound, shape), dtype=torch.float32, requires_grad=True)
            for layer, bound in enumerate(bounds)
            for shape in ((widths[layer + 1], widths[layer]), (widths[layer + 1],))
        ]
        self.target = [each.detach().clone() for each in self.weights]
        self._adam = torch.optim.Adam(self.weights, lr=rate, fused=True)

    def __call__(self, inputs: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Return the outputs, shape (n,), by the learned weights if no others are given."""
        values, chosen = inputs, weights or self.weights
        for layer in range(0, len(chosen), 2):
            values = functional.relu(values) if layer else values
            values = functional.linear(values, chosen[layer], chosen[layer + 1])
        return values[:, 0]

    def descend(self, loss: Tensor) -> None:
        """Take one step down the gradient of `loss`; the targets follow."""
        for weight, slope in zip(
            self.weights, torch.autograd.grad(loss, self.weights), strict=True
        ):
            weight.grad = slope
        self._adam.step()
        with torch.no_grad():
            for target, weight in zip(self.target, self.weights, strict=True):
                target.lerp_(weight, _TAU)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, targets and what Adam remembers of every weight, as arrays."""
        moments = [self._adam.state[each] for each in self.weights if each in self._adam.state]
        return {
            "weights": [each.detach().numpy().copy() for each in self.weights],
            "target": [each.numpy().copy() for each in self.target],
            "moments": [{k: v.numpy().copy() for k, v in each.items()} for each in moments],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        with torch.no_grad():
            for name, tensors in (("weights", self.weights), ("target", self.target)):
                for tensor, array in zip(tensors, state[name], strict=True):
                    tensor.copy_(torch.tensor(array))
        self._adam.state.clear()
        # Before the first step Adam remembers nothing.
        for weight, moments in zip(self.weights, state["moments"], strict=False):
            self._adam.state[weight] = {k: torch.tensor(v) for k, v in moments.items()}


class DDPG:
    """Learns what to do in a state, and what doing it leads to.

    Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016. The
    last feature of a state is the action that the untrained actor takes in it.
    """

    def __init__(self, features: int, hidden: int, rng: np.random.Generator) -> None:
        self._actor = Perceptron(features, hidden, _ACTOR_RATE, rng)
        self._critic = Perceptron(features + 1, hidden, _CRITIC_RATE, rng)

    def act(self, states: np.ndarray) -> np.ndarray:
        """Return the actor's actions in [0, 1], shape (n,), in states (n, features)."""
        with torch.no_grad():
            return self._action(_tensor(states)).numpy().astype(np.float64)

    def worth(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return what the critic expects of actions (n,) in states (n, features)."""
        with torch.no_grad():
            return self._value(_tensor(states), _tensor(actions)).numpy().astype(np.float64)

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        returns: np.ndarray,
        following: np.ndarray,
    ) -> None:
        """Take one step of learning on a batch of n transitions.

        `returns` (n,) are those of actions that ended an episode. For others they are NaN,
        and the targets' value of the `following` states (n, features) stands in.
        """
        now, done, next_states = _tensor(states), _tensor(actions), _tensor(following)
        with torch.no_grad():
            actor, critic = self._actor.target, self._critic.target
            later = self._value(next_states, self._action(next_states, actor), critic)
        ends = _tensor(returns)
        aim = torch.where(ends.isnan(), later, ends)
        self._critic.descend(functional.mse_loss(self._value(now, done), aim))
        self._actor.descend(-self._value(now, self._action(now)).mean())

    def _action(self, states: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        start = torch.logit(states[:, -1], eps=1e-3)
        return torch.sigmoid(start + self._actor(states, weights))

    def _value(
        self, states: Tensor, actions: Tensor, weights: list[Tensor] | None = None
    ) -> Tensor:
        return self._critic(torch.cat([states, actions[:, None]], dim=1), weights)

    def state_dict(self) -> dict[str, Any]:
        """Return both networks as arrays."""
        return {"actor": self._actor.state_dict(), "critic": self._critic.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._actor.load_state_dict(state["actor"])
        self._critic.load_state_dict(state["critic"])


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)
