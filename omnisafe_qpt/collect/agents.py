# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of trained policies and scripted controllers, from the user's options."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.errors import UserError


# The scripted controllers' name in a mixture.
SCRIPTED = 'scripted'
_LAST, _ALL = 'last', 'all'
_NUMBER = r'(?:\d+\.?\d*|\.\d+)'
_EPOCH_AND_WEIGHT = re.compile(
    rf'(?::(?P<epoch>\d+|{_LAST}|{_ALL}|)(?::(?P<weight>{_NUMBER}))?|:(?P<only>{_NUMBER}))?',
)


@dataclass(frozen=True)
class Agent:
    """A checkpoint of a run, one of the policies of a mixture.

    Args:
        label (str): Name in the dataset's metadata.
        run (str): The run's folder as given by the user.
        algorithm (str): OmniSafe's name of the algorithm.
        epoch (int): Epochs that it was trained for.
        checkpoint (str): The file.
        sha256 (str): SHA-256 of the file.
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
    """The behaviours of a collection, and their parameters.

    Args:
        agents (tuple[Agent, ...], optional): Trained policies. Defaults to none.
        scripted_weight (float, optional): Weight of the scripted controllers among them. Defaults
            to 1.0.
        noise (float, optional): Largest standard deviation of the noise on the agents' actions.
            Defaults to 0.0.
        switch (float, optional): Share of the agents' episodes that switch to another agent.
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
        """Share of the episodes with scripted controllers."""
        return self.scripted_weight / self.total_weight

    def describe(self) -> list[dict[str, Any]]:
        """Return the behaviours and their shares of the episodes, in plain values."""
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


def read_agents(texts: Sequence[str], env_id: str) -> tuple[tuple[Agent, ...], float]:
    """Find the checkpoints for ``RUN[:EPOCH][:WEIGHT]``.

    Args:
        texts (Sequence[str]): Values of ``--agent``.
        env_id (str): The environment that they must have been trained in.

    Returns:
        The agents, and the weight of the scripted controllers, 0.0 if none was given.

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
    """Split ``RUN[:EPOCH][:WEIGHT]`` from the right, as a path may contain colons.

    Args:
        text (str): A single number after the run is an epoch if it is an integer, else a weight;
            for ``scripted`` it is always a weight. An ambiguous text refers to a run that exists.

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
    """Read the settings of an OmniSafe run.

    Args:
        folder (Path): The run's folder.

    Raises:
        UserError: If they are missing or not OmniSafe's.
    """
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a run's settings ({error})") from error
    needed = {'algo': str, 'env_id': str, 'model_cfgs': dict}
    if not isinstance(config, dict) or not all(
        isinstance(config.get(name), kind) for name, kind in needed.items()
    ):
        raise UserError(f'{path}: not the settings of a run of OmniSafe')
    return config


def _check_checkpoint(file: Path, algorithm: str) -> None:
    """Check at the start that the checkpoint holds a usable policy."""
    from omnisafe_qpt.compat import policy_parameters
    from omnisafe_qpt.runs.checkpoint import load_file

    if policy_parameters(load_file(file)) is None:
        raise UserError(
            f'{file}: holds no policy that maps observations to actions; agents of {algorithm} '
            'cannot be used',
        )
