# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A training that starts from the weights of another run: ``train_cfgs:init_from``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import omnisafe
import pytest
import torch

from host_helpers import ENV_ID, small_options, to_resume, train, write_dataset
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.omnisafe_plugin.algorithms import QPT
from omnisafe_qpt.runs.checkpoint import load_networks


@pytest.fixture(name='source', scope='module')
def fixture_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('source')
    dataset = write_dataset(folder / 'old.hdf5', episodes=4, seed=1)
    return train(small_options(dataset, folder / 'runs'))


def agent_of(dataset: Path, log_dir: Path, algo: str = 'QPT', **changes: Any) -> QPT:
    options = small_options(dataset, log_dir)
    for section, values in changes.items():
        options.setdefault(section, {}).update(values)
    return omnisafe.Agent(algo, ENV_ID, custom_cfgs=options).agent


def same_weights(network: torch.nn.Module, other: torch.nn.Module) -> bool:
    state, expected = network.state_dict(), other.state_dict()
    return all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize('units', ['run', 'data'])
def test_weights_targets_and_units_are_the_runs(
    source: Path, dataset: Path, tmp_path: Path, units: str
) -> None:
    networks, _ = load_networks(source)
    changes = {'train_cfgs': {'init_from': str(source), 'init_units': units}}
    learner = agent_of(dataset, tmp_path, **changes)._learner
    for name in ('policy', 'reward_critic', 'cost_critic'):
        assert same_weights(getattr(learner, f'target_{name}'), getattr(networks, name))
        assert same_weights(getattr(learner, name), getattr(networks, name))
    fresh = agent_of(dataset, tmp_path)._learner
    assert not same_weights(fresh.policy, networks.policy)
    expected = networks.scaling if units == 'run' else fresh.scaling
    assert same_weights(learner.scaling, expected)
    assert not same_weights(fresh.scaling, networks.scaling)
    # The means by which penalties are normalised are those of the data in the units in use.
    length = fresh.scaling.mean_length
    assert learner.scaling.mean_length == length


def test_a_run_that_started_so_resumes_without_the_other(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / 'copy'
    copy.mkdir()
    checkpoint = copy / 'epoch-2.pt'
    checkpoint.write_bytes((source / 'torch_save' / 'epoch-2.pt').read_bytes())
    run = train(small_options(dataset, tmp_path / 'runs', init_from=str(checkpoint)))
    checkpoint.unlink()
    train(to_resume(run, total_steps=20))


def test_cdt_starts_from_qpts_policy_and_qpt_from_cdts(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    networks, _ = load_networks(source)
    sizes = small_options(dataset, tmp_path)['model_cfgs']['actor']
    options = {
        'train_cfgs': {
            'dataset': str(dataset), 'total_steps': 1, 'init_from': str(source),
            'evaluate_epoisodes': 0, 'final_evaluate_episodes': 0,
        },
        'algo_cfgs': {'steps_per_epoch': 1, 'batch_size': 8},
        'model_cfgs': {'actor': sizes},
        'logger_cfgs': {'log_dir': str(tmp_path / 'cdt')},
    }  # fmt: skip
    cdt = omnisafe.Agent('CDT', ENV_ID, custom_cfgs=options)
    assert same_weights(cdt.agent._learner.policy, networks.policy)
    cdt.learn()
    (run,) = (tmp_path / 'cdt').glob('CDT*/seed-*')
    learner = agent_of(dataset, tmp_path, train_cfgs={'init_from': str(run)})._learner
    assert same_weights(learner.policy, load_networks(run)[0].policy)
    assert same_weights(learner.target_policy, learner.policy)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model_cfgs': {'actor': {'context_len': 2}}}, 'context_len is .* in the run to start'),
        ({'train_cfgs': {'init_units': 'other'}}, 'init_units must be run or data'),
        ({'train_cfgs': {'init_from': 'nowhere'}}, 'init_from: nowhere: no such run'),
    ],
)
def test_what_does_not_fit_is_named(
    source: Path, dataset: Path, tmp_path: Path, changes: Any, message: str
) -> None:
    given = {**changes, 'train_cfgs': {'init_from': str(source), **changes.get('train_cfgs', {})}}
    with pytest.raises(UserError, match=message):
        agent_of(dataset, tmp_path, **given)
