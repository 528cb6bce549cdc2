# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""MetaDrive in a separate process, with DSRL's nine driving tasks.

MetaDrive allows one simulator per process, but OmniSafe makes two environments in one process, to
train and to evaluate. MetaDrive 0.2.6 also needs names that NumPy has removed, adds names to
Python's builtins, prints to the screen, and sometimes crashes its process. The separate process
keeps all this out of the user's process. It is connected by a pipe, whose cost is small against a
step of the simulator.

This module runs in the new process, so it imports neither torch nor OmniSafe.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import types
import weakref
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any

import numpy as np

from omnisafe_qpt.envs.metadrive_drivers import Drivers
from omnisafe_qpt.workers import receive, serve


# As in DSRL: the blocks of each map with its seed, and vehicles per lane and 10 m.
MAPS = {'easy': ('SCS', 0), 'medium': ('XST', 100), 'hard': ('TRO', 200)}
TRAFFIC_DENSITIES = {'sparse': 0.1, 'mean': 0.15, 'dense': 0.2}

_LASERS = 240  # the last values of an observation, distances on a scale of 0 to 1


# -- in the simulator's process -------------------------------------------------------------------


def prepare_imports() -> None:
    """Prepare the import of MetaDrive 0.2.6: with current NumPy, in a second, without protobuf.

    Only for a process that runs nothing but MetaDrive.
    """
    for name, kind in {'bool': bool, 'float': float, 'int': int, 'object': object}.items():
        setattr(np, name, kind)
    # In seaborn's order: the third colour is the agent's, the others are the traffic's.
    palette = [(0.1, 0.4, 0.7), (0.9, 0.6, 0.0), (0.0, 0.6, 0.4), (0.5, 0.5, 0.5), (0.8, 0.4, 0.7)]
    contents: dict[str, dict[str, Any]] = {
        # Registers its environments with the old gym, and prints that.
        'metadrive.register': {},
        # Scenarios of Waymo, whose protobuf code is too old for the installed protobuf.
        'metadrive.utils.waymo_utils.protos': {},
        'metadrive.utils.waymo_utils.protos.scenario_pb2': {},
        # Rendering modules that are not used here and take several seconds to import. Without them
        # MetaDrive needs only three packages; see omnisafe_qpt.envs.simulators.
        'cv2': {},
        'matplotlib': {},
        'matplotlib.pyplot': {'figure': None},
        'seaborn': {'color_palette': lambda _: list(palette)},
    }
    for name, attributes in contents.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)


class Simulator:
    """One of DSRL's driving tasks, in this process.

    An episode depends only on its seed and its actions. The seed determines the traffic; the map of
    a task is fixed.

    Args:
        task (str): DSRL's name of the task, ``easysparse``.
        driver (str, optional): ``agent``, which applies the actions, or ``idm``, MetaDrive's
            rule-based driver, which ignores them. Defaults to ``agent``.
    """

    def __init__(self, task: str, driver: str = 'agent') -> None:
        """Initialize an instance of :class:`Simulator`."""
        with contextlib.redirect_stderr(io.StringIO()):  # the old gym warns against its use
            from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv
            from metadrive.manager.traffic_manager import TrafficMode
            from metadrive.policy.idm_policy import IDMPolicy

        road = next(road for road in MAPS if task.startswith(road))
        blocks, map_seed = MAPS[road]
        self._env = SafeMetaDriveEnv(
            {
                'map_config': {'type': 'block_sequence', 'config': blocks},
                'start_seed': map_seed,
                'environment_num': 1,
                'traffic_density': TRAFFIC_DENSITIES[task[len(road) :]],
                'traffic_mode': TrafficMode.Hybrid,
                # An episode's seed sets only the map; the traffic is seeded below.
                'random_traffic': True,
                'accident_prob': 0.0,
                'crash_vehicle_penalty': 0.0,
                'agent_policy': IDMPolicy if driver == 'idm' else None,
                # MetaDrive reuses the vehicles of earlier episodes, which then move slightly
                # differently. A new simulator gives equal episodes.
                'force_destroy': True,
            },
        )

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode and return the first observation."""
        self._env.lazy_init()  # creates the managers; the traffic's has random seeds
        self._env.engine.traffic_manager.np_random = np.random.RandomState(seed)
        self._obs = self._env.reset()
        self._drivers = Drivers(self._env.vehicle, seed)
        return self._obs

    def advise(self, driver: str, speed: float, gap: float) -> np.ndarray:
        """Return what one of MetaDrive's drivers would do; the episode does not change.

        Args:
            driver (str): A method of :class:`~omnisafe_qpt.envs.metadrive_drivers.Drivers`.
            speed (float): The speed that it aims at, in km/h.
            gap (float): The distance that it keeps, relative to its usual one.

        Returns:
            Steering, and throttle or brake, possibly beyond [-1, 1]. Shape (2,).
        """
        return getattr(self._drivers, driver)(self._obs, speed, gap)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, float, bool, dict[str, Any]]:
        """Run one step.

        Args:
            action (np.ndarray): Steering, and throttle or brake. Shape (2,).

        Returns:
            The observation, shape (259,); MetaDrive's reward; the cost; whether the car has
            arrived, crashed or left the road; and MetaDrive's information, with the parts of the
            cost. The cost is 1 off the road or in a crash, plus a term for speed above 10 km/h and
            a small one for closeness to the nearest obstacle.
        """
        obs, reward, _, values = self._env.step(action)
        info: dict[str, Any] = {
            key: value for key, value in values.items() if isinstance(value, _PLAIN)
        }
        info['velocity_cost'] = 0.01 * max(0.0, values['velocity'] - 10.0)
        info['proximity_cost'] = 0.01 * max(0.0, 0.1 - float(np.min(obs[-_LASERS:]))) ** 2
        info['cost'] = values['cost'] + info['velocity_cost'] + info['proximity_cost']
        self._obs = obs
        # MetaDrive itself continues an episode after a crash; DSRL does not.
        terminated = bool(values['arrive_dest'] or values['crash'] or values['out_of_road'])
        return obs, float(reward), info['cost'], terminated, info

    def render(self, width: int, height: int) -> np.ndarray:
        """Render the car and its surroundings from above.

        Returns:
            An image of shape (height, width, 3).
        """
        os.environ['SDL_VIDEODRIVER'] = 'dummy'  # pygame needs no display then
        import pygame

        surface = self._env.render(
            mode='top_down',
            film_size=(2000, 2000),
            screen_size=(width, height),
            track_target_vehicle=True,
        )
        return pygame.surfarray.array3d(surface).swapaxes(0, 1)

    def close(self) -> None:
        """Do nothing: Panda3D may crash in its cleanup, and ends with the process."""


_PLAIN = (bool, int, float, str, np.bool_, np.integer, np.floating)


# -- in the user's process ------------------------------------------------------------------------


class SimulatorProcess:
    """A :class:`Simulator` in a new process.

    The process ends with this object or when its end of the pipe closes, whichever comes first.

    Args:
        task (str): DSRL's name of the task, ``easysparse``.
    """

    def __init__(self, task: str) -> None:
        """Initialize an instance of :class:`SimulatorProcess`."""
        self._connection, theirs = Pipe()
        # MetaDrive's output is needed only after a crash.
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            command = [sys.executable, '-m', 'omnisafe_qpt.envs.metadrive_process']
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), task],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs.fileno()],
            )
        parts = (self._process, self._connection, self._output)
        self.close = weakref.finalize(self, _end, os.getpid(), *parts)

    def request(self, command: str, *arguments: Any) -> Any:
        """Call a method of the simulator.

        Args:
            command (str): Its name.
            arguments: Its arguments.

        Raises:
            RuntimeError: If the simulator failed or its process has ended.
        """
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; see its last message
                self._connection.send((command, arguments))
            return receive(self._connection)
        except (EOFError, OSError) as error:
            raise RuntimeError(self._last_words()) from error
        except RuntimeError:
            raise
        except BaseException:
            self.close()  # interrupted: the next result would belong to this request
            raise

    def _last_words(self) -> str:
        if not self.close.alive:
            return 'the process of MetaDrive has been closed'
        status = self._process.wait()
        self._output.seek(0)
        written = self._output.read().decode(errors='replace').strip()
        return f'the process of MetaDrive ended with status {status}:\n{written}'


def _end(
    owner: int,
    process: subprocess.Popen,
    connection: Connection,
    output: IO[bytes],
) -> None:
    if os.getpid() != owner:  # in a fork the copy of this object must not end the simulator
        return
    connection.close()
    # It may be within a step, and has nothing to save.
    process.kill()
    process.wait()
    output.close()


if __name__ == '__main__':
    prepare_imports()
    with Connection(int(sys.argv[1])) as ours:
        serve(ours, partial(Simulator, sys.argv[2]), os.getppid())
    # Panda3D crashes when Python unloads its modules.
    os._exit(0)
