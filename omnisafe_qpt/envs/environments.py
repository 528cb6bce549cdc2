# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""OmniSafe's environments as evaluation uses them, one or several at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from omnisafe.envs.core import CMDP, Wrapper, make

from omnisafe_qpt.compat import environment_class, simulator_of, unwrapped, without_auto_reset
from omnisafe_qpt.envs.bullet import SingleEnv
from omnisafe_qpt.envs.user_modules import describe, require_environment
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runner import in_environment_units


def make_env(env_id: str, **kwargs: Any) -> CMDP:
    """Make one of OmniSafe's environments for evaluation.

    Actions are in [-1, 1], whatever the simulator's range. OmniSafe's own time limit, 1000 steps
    whatever the task, and its automatic resets are left out: the simulators keep the tasks'
    horizons themselves. Environments that users wrote are held to float32 tensors.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        kwargs: Passed on, ``render_mode`` and so on.

    Raises:
        UserError: If nobody has registered the environment, or it has other spaces than vectors
            of numbers, bounded ones for actions.
    """
    require_environment(env_id)
    if _is_users(environment_class(env_id)):
        env = _make_users(env_id, kwargs)
    else:
        env = without_auto_reset(make(env_id, num_envs=1, device=torch.device('cpu'), **kwargs))
        _check_spaces(env, env_id)
    action_range = action_range_of(env)
    return env if is_normalized(action_range) else _NormalizedActions(env, action_range)


def action_range_of(env: CMDP) -> dict[str, list[float]]:
    """Return the range of an environment's actions: ``low`` and ``high``, A numbers each."""
    space = unwrapped(env).action_space
    return {
        end: np.asarray(getattr(space, end), dtype=np.float32).tolist() for end in ('low', 'high')
    }


def is_normalized(action_range: dict[str, list[float]]) -> bool:
    """Whether a range is [-1, 1] in every dimension."""
    return set(action_range['low']) == {-1.0} and set(action_range['high']) == {1.0}


def horizon_of(env: CMDP) -> int:
    """Return the number of steps after which the environment's task ends an episode.

    Raises:
        UserError: If the environment does not say.
    """
    horizon = unwrapped(env).max_episode_steps
    try:
        steps = int(horizon or 0)
    except (TypeError, ValueError):
        steps = 0
    if steps < 1:
        raise UserError(
            f'{type(unwrapped(env)).__name__} has max_episode_steps {horizon}: the environment '
            'must say after how many steps an episode ends, which is the horizon of training',
        )
    return steps


class _NormalizedActions(Wrapper):
    """An environment that takes actions in [-1, 1].

    Args:
        env (CMDP): The environment.
        action_range (dict[str, list[float]]): See :func:`action_range_of`.
    """

    def __init__(self, env: CMDP, action_range: dict[str, list[float]]) -> None:
        super().__init__(env)
        self._action_range = action_range
        self._action_space = spaces.Box(-1.0, 1.0, env.action_space.shape)

    def step(self, action: torch.Tensor) -> tuple[Any, ...]:
        """Run one step."""
        scaled = in_environment_units(action.detach().cpu().numpy(), self._action_range)
        return self._env.step(torch.from_numpy(scaled))


# -- environments that users wrote ----------------------------------------------------------------


def _is_users(kind: type) -> bool:
    """Whether an environment is none of the three suites', whose data are known."""
    return not issubclass(kind, SingleEnv) and 'safety_gymnasium' not in kind.__module__


def _make_users(env_id: str, options: dict[str, Any]) -> CMDP:
    with _blamed_on(env_id, 'cannot be made'):
        env = make(env_id, num_envs=1, device=torch.device('cpu'), **options)
        _check_spaces(env, env_id)
    return _UsersEnv(env, env_id)


@contextmanager
def _blamed_on(env_id: str, what: str) -> Iterator[None]:
    """Report an error in the code of an environment in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise UserError(f'{env_id} {what}: {describe(error)}') from error


class _UsersEnv(Wrapper):
    """What users write, held to what OmniSafe's own environments return.

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
        """Start an episode; where the environment's reset takes no seed, by ``set_seed``."""
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
                f'observation_space says {self._shape}',
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


def _check_spaces(env: CMDP, env_id: str) -> None:
    """Refuse what the algorithms cannot do with.

    Raises:
        UserError: If observations or actions are no vectors of numbers, or actions are not bounded.
    """
    for what, space in (('observation', env.observation_space), ('action', env.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.shape == (0,):
            raise UserError(
                f'{env_id} has the {what} space {_in_one_line(space)}; needed is a gymnasium Box '
                'of one dimension, a vector of numbers',
            )
    space = env.action_space
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f'{env_id} has the action space {_in_one_line(space)}, of whole numbers; needed is a '
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


# What a step brings: observation, reward, cost, whether the episode has ended.
Outcome = tuple[np.ndarray, float, float, bool]


class NumpyEnvironment:
    """One of OmniSafe's environments with NumPy's and Python's own types.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        options: Passed on to :func:`make_env`.
    """

    def __init__(self, env_id: str, **options: Any) -> None:
        """Initialize an instance of :class:`NumpyEnvironment`."""
        self._env_id = env_id
        self._env = make_env(env_id, **options)
        self.horizon = horizon_of(self._env)
        self._is_new = not isinstance(unwrapped(self._env), SingleEnv)

    @property
    def env(self) -> CMDP:
        """The environment itself."""
        return self._env

    def check(self) -> None:
        """Play a reset and a step, so that what fails in them is found before it is needed.

        Raises:
            UserError: If one of them fails, or what it returns is not finite.
        """
        found = {'first observation': self.reset(0)}
        action = np.zeros(self._env.action_space.shape, dtype=np.float32)
        obs, reward, cost, _ = self.step(action)
        found |= {'observation': obs, 'reward': reward, 'cost': cost}
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise UserError(f'{self._env_id}: its {name} is not finite: {value}')

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode, which is the same whatever was run before."""
        if self._is_new:
            if not _put_world_in_place(self._env):
                self._env.reset(seed=seed)  # an episode that is thrown away
            self._is_new = False
        return self._env.reset(seed=seed)[0].numpy()

    def step(self, action: np.ndarray) -> Outcome:
        """Run one step."""
        obs, reward, cost, terminated, truncated, _ = self._env.step(torch.from_numpy(action))
        return obs.numpy(), reward.item(), cost.item(), bool(terminated) or bool(truncated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _put_world_in_place(env: CMDP) -> bool:
    """Let a Safety-Gymnasium environment build its first episode as it builds all others.

    Otherwise a navigation task builds its first world twice, seconds each, and differs in the last
    bits from what the same seed brings later. Given an empty world, it fills that one, once.

    Returns:
        Whether the environment has such a world.
    """
    simulator = simulator_of(env)
    task = getattr(simulator, 'task', None) if _is_mujoco(simulator) else None
    if getattr(task, 'world', env) is not None:
        return False
    from safety_gymnasium.world import World

    task.world = World(task.agent, task._obstacles)
    return True


def _is_mujoco(simulator: Any) -> bool:
    """Whether a simulator is Safety-Gymnasium's."""
    return type(simulator).__module__.partition('.')[0] == 'safety_gymnasium'


class DrawnEnvironment(NumpyEnvironment):
    """An environment with pictures, from where its task can be followed.

    One to a process, which should draw nothing else: the OpenGL contexts of MuJoCo's simulators do
    not go together, nor with a fork. Drawing does not change an episode.

    Args:
        env_id (str): OmniSafe's environment id.
        size (tuple[int, int]): Width and height of the pictures.
    """

    def __init__(self, env_id: str, size: tuple[int, int]) -> None:
        """Initialize an instance of :class:`DrawnEnvironment`."""
        width, height = size
        super().__init__(env_id, render_mode='rgb_array', width=width, height=height)
        self._mujoco = None
        simulator = simulator_of(self._env)
        if _is_mujoco(simulator):
            self._mujoco = _MujocoView(simulator)

    def steps_per_second(self) -> float:
        """Return how many steps a second of simulated time has, once an episode was begun."""
        if self._mujoco is None:
            # Which users' environments need not say.
            metadata = getattr(self._env, 'metadata', {})
            return float(metadata.get('render_fps', _FRAMES_PER_SECOND))
        return self._mujoco.steps_per_second()

    def picture(self) -> np.ndarray:
        """Draw the current state, (height, width, 3) uint8."""
        if self._mujoco is not None:
            self._mujoco.prepare(self._env.render)
        return np.ascontiguousarray(self._env.render())


_FRAMES_PER_SECOND = 30.0

# Within which Safety-Gymnasium's navigation tasks put nearly all there is, in metres.
_WORLD_RADIUS = 1.7


class _MujocoView:
    """How a simulator of Safety-Gymnasium is drawn.

    Args:
        simulator (Any): Of a navigation task, which has a world, or of a velocity task, whose own
            camera follows the robot.
    """

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        self._world = getattr(simulator, 'task', None)
        self._is_ready = False
        if self._world is not None:
            simulator.render_parameters.camera_id = -1  # the one that can be moved

    def steps_per_second(self) -> float:
        """Return how many steps a second of simulated time has."""
        if self._world is None:
            return 1.0 / self._simulator.dt
        # The environment says 30 whatever the robot.
        return 1.0 / (self._world.model.opt.timestep * self._world.sim_conf.frameskip_binom_n)

    def prepare(self, render: Callable[[], Any]) -> None:
        """Make ready for a picture."""
        import mujoco

        if not self._is_ready:
            # Without a graphics card, a picture then takes a quarter of the time.
            quality = (self._world or self._simulator).model.vis.quality
            quality.offsamples, quality.shadowsize = 0, 1024
            render()  # which makes the viewer
            self._viewer().scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._is_ready = True
        if self._world is not None:
            self._move_camera()

    def _viewer(self) -> Any:
        if self._world is not None:
            return self._world.viewer
        return self._simulator.mujoco_renderer.viewer

    def _move_camera(self) -> None:
        """Look at the whole world from above, and follow an agent that leaves it."""
        position = np.asarray(self._world.agent.pos)[:2]
        camera = self._viewer().cam
        camera.lookat[:] = (*(position - position.clip(-_WORLD_RADIUS, _WORLD_RADIUS)), 0.0)
        camera.distance, camera.azimuth, camera.elevation = 3.0 * _WORLD_RADIUS, 90.0, -60.0


class EnvironmentSet:
    """Environments of one task in this process, by number, each made when it is first used.

    They are used again and again; an episode depends on its seed and actions only, whatever its
    environment ran before.

    Args:
        env_id (str): OmniSafe's environment id.
    """

    def __init__(self, env_id: str) -> None:
        """Initialize an instance of :class:`EnvironmentSet`."""
        self._env_id = env_id
        self._environments: dict[int, NumpyEnvironment] = {}
        self._unused = [NumpyEnvironment(env_id)]  # which has told the horizon
        self.horizon = self._unused[0].horizon

    def reset(self, seeds: dict[int, int]) -> list[np.ndarray]:
        """Start an episode in each of these environments and return the observations."""
        return [self._numbered(number).reset(seed) for number, seed in seeds.items()]

    def step(self, actions: dict[int, np.ndarray]) -> list[Outcome]:
        """Run one step in each of these environments."""
        return [self._environments[number].step(action) for number, action in actions.items()]

    def close(self) -> None:
        """Close all environments."""
        for environment in (*self._unused, *self._environments.values()):
            environment.close()

    def _numbered(self, number: int) -> NumpyEnvironment:
        if number not in self._environments:
            made = self._unused.pop() if self._unused else NumpyEnvironment(self._env_id)
            self._environments[number] = made
        return self._environments[number]
