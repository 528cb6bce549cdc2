# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies as behaviours: mixtures of OmniSafe's runs, with noise and switches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from omnisafe_qpt.collect.plans import Disturbance
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    import torch

    from omnisafe_qpt.collect.simulator import Simulator


# The scripted controllers' name in a mixture.
SCRIPTED = 'scripted'
_LAST, _ALL = 'last', 'all'
_NUMBER = r'(?:\d+\.?\d*|\.\d+)'
_EPOCH_AND_WEIGHT = re.compile(
    rf'(?::(?P<epoch>\d+|{_LAST}|{_ALL}|)(?::(?P<weight>{_NUMBER}))?|:(?P<only>{_NUMBER}))?',
)
# Slow noise forgets this share of itself at each step (Ornstein-Uhlenbeck).
_FORGETTING = 0.15


@dataclass(frozen=True)
class Agent:
    """A checkpoint of a run, one of the policies of a mixture.

    Args:
        label (str): What it is called in the dataset's metadata.
        run (str): The run's folder as the user named it.
        algorithm (str): OmniSafe's name of the algorithm.
        epoch (int): Epochs that it was trained for.
        checkpoint (str): The file.
        sha256 (str): Of the file.
        weight (float): Its weight in the mixture.
    """

    label: str
    run: str
    algorithm: str
    epoch: int
    checkpoint: str
    sha256: str
    weight: float


@dataclass(frozen=True)
class Mixture:
    """Who acts in a collection, and how each episode draws.

    Args:
        agents (tuple[Agent, ...], optional): Trained policies. Defaults to none.
        scripted_weight (float, optional): Weight of the scripted controllers among them. Defaults
            to 1.0.
        noise (float, optional): Largest standard deviation of the noise on the agents' actions.
            Defaults to 0.0.
        switch (float, optional): Share of the agents' episodes in which another one takes over.
            Defaults to 0.0.
        sample (float, optional): Share of the agents' episodes in which actions are drawn from
            the policy's distribution rather than its mean. Defaults to 0.0.
    """

    agents: tuple[Agent, ...] = field(default=())
    scripted_weight: float = 1.0
    noise: float = 0.0
    switch: float = 0.0
    sample: float = 0.0

    @property
    def total_weight(self) -> float:
        """The sum of all weights."""
        return self.scripted_weight + sum(agent.weight for agent in self.agents)

    @property
    def scripted_share(self) -> float:
        """The share of the episodes that scripted controllers run."""
        return self.scripted_weight / self.total_weight

    def describe(self) -> list[dict[str, Any]]:
        """List who acts in how large a share of the episodes, in plain values."""
        policies: list[dict[str, Any]] = []
        if self.scripted_weight:
            policies.append({'label': SCRIPTED, 'share': self.scripted_share})
        for agent in self.agents:
            policies.append(
                {
                    'label': agent.label,
                    'share': agent.weight / self.total_weight,
                    'run': agent.run,
                    'algorithm': agent.algorithm,
                    'epoch': agent.epoch,
                    'sha256': agent.sha256,
                },
            )
        return policies


SCRIPTED_ONLY = Mixture()


# -- what the user names --------------------------------------------------------------------------


def read_agents(texts: Sequence[str], env_id: str) -> tuple[tuple[Agent, ...], float]:
    """Find the checkpoints that ``RUN[:EPOCH][:WEIGHT]`` name.

    Args:
        texts (Sequence[str]): What was given to ``--agent``.
        env_id (str): The environment that they must have been trained in.

    Returns:
        The agents, and the weight of the scripted controllers, 0.0 where none was given.

    Raises:
        UserError: If there is no such run or checkpoint, it cannot be used here, or a weight is
            not above zero.
    """
    agents: list[Agent] = []
    scripted_weight = 0.0
    for number, text in enumerate(texts, start=1):
        run, epoch, weight = parse_agent(text)
        if weight <= 0.0:
            raise UserError(f'agent {text!r}: the weight must be above 0')
        if run == SCRIPTED:
            scripted_weight += weight
        else:
            agents += _read_run(run, epoch, weight, number, env_id)
    return tuple(agents), scripted_weight


def parse_agent(text: str) -> tuple[str, str, float]:
    """Split ``RUN[:EPOCH][:WEIGHT]``, from the right, as a path may hold colons.

    Args:
        text (str): A number alone after the run is an epoch if it is whole, else a weight; for
            ``scripted`` it is a weight always. Where there are several readings, a run that
            exists is meant.

    Returns:
        The run, the epoch as a number, ``last`` or ``all``, and the weight.
    """
    name, _, rest = text.partition(':')
    if name == SCRIPTED and re.fullmatch(f'{_NUMBER}?', rest):
        return SCRIPTED, _LAST, float(rest or 1.0)
    runs = [text.rsplit(':', fields)[0] for fields in range(3)]
    tails = {run: _EPOCH_AND_WEIGHT.fullmatch(text[len(run) :]) for run in runs if run}
    possible = [(run, tail) for run, tail in tails.items() if tail is not None]
    existing = [(run, tail) for run, tail in possible if Path(run).expanduser().exists()]
    run, tail = existing[0] if existing else possible[-1]
    return run, tail['epoch'] or _LAST, float(tail['weight'] or tail['only'] or 1.0)


def _read_run(run: str, epoch: str, weight: float, number: int, env_id: str) -> list[Agent]:
    """Find the checkpoints of one run and divide its weight among them."""
    from omnisafe_qpt.runs.checkpoint import find_run, list_checkpoints

    path = Path(run).expanduser()
    folder = path.parent.parent if path.is_file() else find_run(path)
    files = list_checkpoints(folder)
    if path.is_file():
        files = {number: file for number, file in files.items() if file == path}
    config = read_run_config(folder)
    if config['env_id'] != env_id:
        raise UserError(
            f'agent {run}: was trained in {config["env_id"]}, the data are to come from {env_id}',
        )
    if not files:
        raise UserError(f'agent {run}: no checkpoint in torch_save yet')
    if epoch == _LAST:
        files = {max(files): files[max(files)]}
    elif epoch != _ALL:
        if int(epoch) not in files:
            there = ', '.join(map(str, files))
            raise UserError(f'agent {run}: no checkpoint of epoch {epoch}, there are {there}')
        files = {int(epoch): files[int(epoch)]}
    for file in files.values():
        _check_checkpoint(file, config['algo'])
    return [
        Agent(
            label=f'{config["algo"]}-{number} epoch {epoch_done}',
            run=run,
            algorithm=config['algo'],
            epoch=epoch_done,
            checkpoint=str(file),
            sha256=file_sha256(file),
            weight=weight / len(files),
        )
        for epoch_done, file in files.items()
    ]


def read_run_config(folder: Path) -> dict[str, Any]:
    """Read the settings of a run of OmniSafe's.

    Args:
        folder (Path): The run's folder.

    Raises:
        UserError: If they are not there or are not OmniSafe's.
    """
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a run's settings ({error})") from error
    if not isinstance(config, dict) or not {'algo', 'env_id', 'model_cfgs'} <= set(config):
        raise UserError(f'{path}: not the settings of a run of OmniSafe')
    return config


def _check_checkpoint(file: Path, algorithm: str) -> None:
    """Refuse at the start what would fail hours later."""
    from omnisafe_qpt.compat import policy_parameters
    from omnisafe_qpt.runs.checkpoint import load_file

    if policy_parameters(load_file(file)) is None:
        raise UserError(
            f'{file}: holds no policy that maps observations to actions; agents of {algorithm} '
            'cannot be used',
        )


# -- acting ---------------------------------------------------------------------------------------


class AgentController:
    """Trained policies in one episode: a draw from a mixture, perhaps a second one later on.

    Args:
        mixture (Mixture): What to draw from.
        draws (np.random.Generator): The episode's own generator.
        simulator (Simulator): The simulator, for its spaces.
        steps (int): Steps in the episode.
    """

    def __init__(
        self,
        mixture: Mixture,
        draws: np.random.Generator,
        simulator: Simulator,
        steps: int,
    ) -> None:
        """Initialize an instance of :class:`AgentController`."""
        import torch

        torch.manual_seed(int(draws.integers(2**31)))
        switches = draws.random() < mixture.switch
        # As likely from 10 to 100 as from 100 to 1000: weak policies end an episode early.
        step = int(steps ** draws.random())
        self._switch_step = step if switches else None
        self._behaviours = [_Behaviour(mixture, draws, simulator) for _ in range(2)]
        self._current = self._behaviours.pop(0)
        self.kind = self._current.label

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        if step == self._switch_step:
            self._current = self._behaviours.pop(0)
            self.kind += f' then {self._current.label}'
        return self._current.act(observation)

    def observe(self, reward: float, cost: float) -> None:
        """Take in what the last action brought."""
        self._current.policy.observe(reward, cost)


class _Behaviour:
    """An agent drawn from a mixture, with its noise."""

    def __init__(
        self,
        mixture: Mixture,
        draws: np.random.Generator,
        simulator: Simulator,
    ) -> None:
        weights = np.array([agent.weight for agent in mixture.agents])
        agent = mixture.agents[draws.choice(len(weights), p=weights / weights.sum())]
        self.label = agent.label
        self._samples = bool(draws.random() < mixture.sample)
        deviation = draws.uniform(0.0, mixture.noise)
        persistence = 1.0 - _FORGETTING if draws.random() < 0.5 else 0.0
        self._disturbance = Disturbance(
            np.random.default_rng(draws.integers(2**63)),
            simulator.action_space.shape[0],
            deviation,
            persistence,
        )
        self._seed = int(draws.integers(2**31))
        self._agent, self._simulator = agent, simulator
        self._policy: _Policy | None = None

    @property
    def policy(self) -> _Policy:
        """The policy, loaded and at the start of its episode when it is first asked for."""
        if self._policy is None:
            self._policy = _load_policy(self._agent, self._simulator)
            self._policy.begin(self._seed)
        return self._policy

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return the policy's action with noise on it, shape (A,)."""
        return self._disturbance.disturb(self.policy.act(observation, self._samples))


class _Policy(Protocol):
    """A trained policy in one episode after another."""

    def begin(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        """Return the action, shape (A,), drawn from the policy's distribution or its mean."""

    def observe(self, reward: float, cost: float) -> None:
        """Take in the reward and the cost of the last action."""


def _load_policy(agent: Agent, simulator: Simulator) -> _Policy:
    sizes = (simulator.observation_space.shape[0], simulator.action_space.shape[0])
    return _load_cached(agent.algorithm, agent.checkpoint, *sizes)


@lru_cache(maxsize=16)
def _load_cached(algorithm: str, checkpoint: str, obs_dim: int, act_dim: int) -> _Policy:
    import torch

    from omnisafe_qpt.algorithms import ALGORITHMS

    # Networks draw initial weights; an episode must not feel whether it was the one to load them.
    with torch.random.fork_rng(devices=[]):
        if algorithm in ALGORITHMS:
            return _OwnPolicy(checkpoint)
        return _OmniSafePolicy(checkpoint, obs_dim, act_dim)


class _OwnPolicy:
    """A run of one of this package's algorithms at its own cost limit."""

    def __init__(self, checkpoint: str) -> None:
        from omnisafe_qpt.evaluation.deployment import load_policy

        self._policy = load_policy(checkpoint, device='cpu')

    def begin(self, seed: int) -> None:
        self._policy.reset(seed)

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        del samples  # its actions have no distribution
        return self._policy.act(observation)

    def observe(self, reward: float, cost: float) -> None:
        self._policy.observe(reward, cost)


class _OmniSafePolicy:
    """A run of one of OmniSafe's own algorithms.

    Args:
        checkpoint (str): ``torch_save/epoch-N.pt`` in the run's folder.
        obs_dim (int): S.
        act_dim (int): A.
    """

    def __init__(self, checkpoint: str, obs_dim: int, act_dim: int) -> None:
        from omnisafe_qpt.compat import frozen_normalizer, load_actor
        from omnisafe_qpt.runs.checkpoint import load_file

        path = Path(checkpoint)
        config = read_run_config(path.parent.parent)
        content = load_file(path)
        self._budget = _SafetyBudget.of(config)
        self._normalize: Callable[[torch.Tensor], torch.Tensor] = frozen_normalizer(content)
        try:
            self._actor = load_actor(config, content, obs_dim + bool(self._budget), act_dim)
        except (KeyError, RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f'{path}: does not fit its config.json ({reason})') from error

    def begin(self, seed: int) -> None:
        del seed  # it draws from torch's generator, which the episode has seeded
        if self._budget is not None:
            self._budget.left = 1.0

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        import torch

        features = self._normalize(torch.from_numpy(observation))
        if self._budget is not None:
            features = torch.cat([features, torch.tensor([self._budget.left])])
        with torch.no_grad():
            action = self._actor.predict(features[None], deterministic=not samples)
        return action[0].numpy()

    def observe(self, reward: float, cost: float) -> None:
        del reward
        if self._budget is not None:
            self._budget.spend(cost)


@dataclass
class _SafetyBudget:
    """What algorithms of the Saute kind add to the observation: the share of the budget left.

    Args:
        total (float): The budget, discounted as OmniSafe does.
        discount (float): Per step.
        left (float): The share that is left.
    """

    total: float
    discount: float
    left: float = 1.0

    @classmethod
    def of(cls, config: dict[str, Any]) -> _SafetyBudget | None:
        """Return the budget of a run, None for all other algorithms."""
        settings = config.get('algo_cfgs', {})
        if 'saute_gamma' not in settings:
            return None
        discount, steps = settings['saute_gamma'], settings['max_ep_len']
        mean_discount = (1.0 - discount**steps) / (1.0 - discount) / steps
        return cls(settings['safety_budget'] * mean_discount, discount)

    def spend(self, cost: float) -> None:
        """Take off the cost of a step."""
        self.left = (self.left - cost / self.total) / self.discount
