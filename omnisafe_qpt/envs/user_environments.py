# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Users' environments: checked, with the same return types as OmniSafe's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from omnisafe.envs.core import CMDP, Wrapper, make

from omnisafe_qpt.envs.single import SingleEnv
from omnisafe_qpt.envs.user_modules import describe
from omnisafe_qpt.errors import UserError


def is_users(kind: type) -> bool:
    """Return whether an environment is outside the three suites with known data."""
    return not issubclass(kind, SingleEnv) and 'safety_gymnasium' not in kind.__module__


def make_users(env_id: str, options: dict[str, Any]) -> CMDP:
    """Make a user's environment, wrapped to return float32 tensors.

    Raises:
        UserError: If it cannot be made; later, if its code fails or returns something else.
    """
    with _blamed_on(env_id, 'cannot be made'):
        env = make(env_id, num_envs=1, device=torch.device('cpu'), **options)
        check_spaces(env, env_id)
    return _UsersEnv(env, env_id)


@contextmanager
def _blamed_on(env_id: str, what: str) -> Iterator[None]:
    """Report an error in the code of an environment in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(f'{env_id} {what}: {describe(error)}') from error


class _UsersEnv(Wrapper):
    """A user's environment with checks of its return values.

    Args:
        env (CMDP): The environment.
        env_id (str): Its id, for messages.
    """

    def __init__(self, env: CMDP, env_id: str) -> None:
        super().__init__(env)
        self._env_id = env_id
        self._shape = env.observation_space.shape
        parameters = inspect.signature(env.reset).parameters
        kinds = [parameter.kind for parameter in parameters.values()]
        self._takes = [
            name
            for name in ('seed', 'options')
            if name in parameters or inspect.Parameter.VAR_KEYWORD in kinds
        ]

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start an episode; if the environment's reset takes no seed, by ``set_seed``."""
        with _blamed_on(self._env_id, 'failed in reset'):
            if seed is not None and 'seed' not in self._takes:
                self._env.set_seed(seed)
            given = {'seed': seed, 'options': options}
            answer = self._env.reset(**{name: given[name] for name in self._takes})
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise UserError(
                    f'{self._env_id}: reset must return an observation and a dict of information',
                )
            return self._observation(answer[0]), answer[1]

    def step(self, action: torch.Tensor) -> tuple[Any, ...]:
        """Run one step."""
        with _blamed_on(self._env_id, 'failed in step'):
            answer = self._env.step(action)
            if not isinstance(answer, tuple) or len(answer) != 6:
                raise UserError(
                    f'{self._env_id}: step must return observation, reward, cost, terminated, '
                    'truncated and a dict of information',
                )
            obs, *numbers, info = answer
            names = ('reward', 'cost', 'terminated', 'truncated')
            return self._observation(obs), *map(self._number, names, numbers), info

    def _observation(self, value: Any) -> torch.Tensor:
        obs = torch.as_tensor(np.asarray(_on_host(value), dtype=np.float32))
        if obs.shape != self._shape:
            raise UserError(
                f'{self._env_id}: an observation has shape {tuple(obs.shape)}, its '
                f'observation_space has {self._shape}',
            )
        return obs

    def _number(self, name: str, value: Any) -> torch.Tensor:
        array = np.asarray(_on_host(value))
        if array.size != 1:
            raise UserError(
                f'{self._env_id}: {name} has shape {array.shape}; step must return one number',
            )
        kind = bool if name in ('terminated', 'truncated') else np.float32
        return torch.as_tensor(array.reshape(()).astype(kind))


def _on_host(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


def check_spaces(env: CMDP, env_id: str) -> None:
    """Check that the algorithms can use the spaces of an environment.

    Raises:
        UserError: If observations or actions are not vectors of numbers, or actions are not
            bounded.
    """
    for what, space in (('observation', env.observation_space), ('action', env.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.shape == (0,):
            raise UserError(
                f'{env_id} has the {what} space {_in_one_line(space)}; it must be a gymnasium Box '
                'of one dimension, a vector of numbers',
            )
    space = env.action_space
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f'{env_id} has the action space {_in_one_line(space)}, of integers; it must be a '
            'Box of floating-point numbers',
        )
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise UserError(
            f'{env_id} has the action space {_in_one_line(space)}; each action needs a finite '
            'lower bound below a finite upper bound',
        )


def _in_one_line(space: Any) -> str:
    return ' '.join(str(space).split())
