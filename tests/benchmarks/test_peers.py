# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OSRL's CDT is imported without its dependencies, built as published, and leaves no trace."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks import peers
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import PolicyConfig


# Stand in for the package where it is not installed: they keep what they are called with.
CDT = """
import gymnasium as gym
from fsrl.utils import DummyLogger, WandbLogger
from tqdm.auto import trange
from osrl.common.net import block
assert list(trange(2, desc='x', leave=False)) == [0, 1]
assert gym.Env and block
class CDT:
    def __init__(self, **options):
        self.options = options
    def to(self, device):
        self.device = device
        return self
class CDTTrainer:
    def __init__(self, model, env, logger=DummyLogger(), **options):
        logger.store(tab='train', loss=1.0)
        self.options = options
"""
DATASET = """
import numpy as np
import oapackage
from scipy.optimize import minimize
from torch.utils.data import IterableDataset
class SequenceDataset(IterableDataset):
    def __init__(self, arrays, **options):
        print('chatter')
        self.options = options
    def __iter__(self):
        while True:
            yield np.zeros((self.options['seq_len'], 3), dtype=np.float32), 1.0
"""


@pytest.fixture
def osrl(tmp_path, monkeypatch):
    for name, content in (
        ('__init__', 'raise AssertionError("not the whole package")'),
        ('common/__init__', 'raise AssertionError("not the whole package")'),
        ('common/net', 'block = 1'),
        ('common/dataset', DATASET),
        ('algorithms/__init__', 'raise AssertionError("not the whole package")'),
        ('algorithms/cdt', CDT),
    ):
        path = tmp_path / 'osrl' / f'{name}.py'
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / 'osrl'


def test_its_files_are_imported_alone_and_leave_no_trace(osrl):
    before = dict(sys.modules)
    assert peers.osrl_folder() == osrl
    assert peers.import_cdt().CDT
    assert peers.import_dataset().SequenceDataset
    changed = {name for name, module in sys.modules.items() if before.get(name) is not module}
    assert not {name.partition('.')[0] for name in changed} & {
        'osrl', 'fsrl', 'gymnasium', 'tqdm', 'scipy', 'oapackage',
    }  # fmt: skip


def test_an_imported_package_comes_back_even_after_an_error(osrl, monkeypatch):
    mine = peers._module('gymnasium')
    monkeypatch.setitem(sys.modules, 'gymnasium', mine)
    (osrl / 'algorithms' / 'cdt.py').write_text('1 / 0')
    with pytest.raises(ZeroDivisionError):
        peers.import_cdt()
    assert sys.modules['gymnasium'] is mine


def test_cdt_has_our_sizes_and_its_published_settings(osrl):
    sizes = PolicyConfig(context_len=4, embed_dim=16, num_layers=2, num_heads=2, max_timestep=7)
    model, trainer = peers.osrl_cdt(5, 3, sizes, 'cpu')
    assert model.device == 'cpu'
    assert model.options['seq_len'] == 4
    assert model.options['episode_len'] == 8  # steps 0 to 7
    assert model.options['embedding_dim'] == 16
    assert model.options['target_entropy'] == -3
    assert {value for name, value in model.options.items() if 'dropout' in name} == {0.1}
    assert model.options['stochastic'] is model.options['cost_transform'] is True
    assert trainer.options['lr_warmup_steps'] == 500
    assert trainer.options['clip_grad'] == 0.25


def test_its_loader_draws_batches_in_this_process(osrl, capsys):
    arrays = {
        'rewards': np.array([1.0, 2.0, 3.0, 5.0]),
        'terminals': np.array([0.0, 1.0, 0.0, 0.0]),
        'timeouts': np.zeros(4),
    }
    loader = peers.osrl_loader(arrays, context_len=4, batch_size=2)
    states, _ = next(iter(loader))
    assert states.shape == (2, 4, 3)
    assert loader.num_workers == 0
    # The best episode is the second: 3 + 5.
    assert loader.dataset.options['max_reward'] == pytest.approx(8.8)
    assert loader.dataset.options['cost_sample'] is True
    assert loader.dataset.options['cost_transform'](20) == 50
    assert capsys.readouterr().out == ''


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda _: None)
    for action in (peers.osrl_folder, peers.import_cdt, peers.import_dataset):
        with pytest.raises(UserError, match='pip install --no-deps osrl-lib'):
            action()


@pytest.mark.skipif(not peers.importlib.util.find_spec('osrl'), reason='needs OSRL itself')
def test_the_package_itself_does_an_update():
    random = np.random.default_rng(0)
    step, episode = np.arange(600) % 20, np.arange(600) // 20
    arrays = {
        'observations': random.standard_normal((600, 5), dtype=np.float32),
        'next_observations': random.standard_normal((600, 5), dtype=np.float32),
        'actions': random.uniform(-1, 1, (600, 2)).astype(np.float32),
        'rewards': (episode % 10).astype(np.float32),
        # Return rises with cost: its fit needs a frontier of more than one episode.
        'costs': (step <= episode % 10).astype(np.float32),
        'terminals': np.zeros(600, dtype=bool),
        'timeouts': step == 19,
    }
    sizes = PolicyConfig(context_len=4, embed_dim=16, num_layers=1, num_heads=2, max_timestep=20)
    model, trainer = peers.osrl_cdt(5, 2, sizes)
    before = [parameter.clone() for parameter in model.parameters()]
    batch = next(iter(peers.osrl_loader(arrays, 4, 8)))
    trainer.train_one_step(*batch)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters()))


@pytest.mark.parametrize('seed', range(5))
def test_the_front_holds_what_nothing_beats_in_both(seed):
    points = np.random.default_rng(seed).integers(0, 6, (20, 2)).tolist()
    points = [tuple(point) for point in dict.fromkeys(map(tuple, points))]
    front = peers.Pareto()
    for index, point in enumerate(points):
        front.addvalue(point, index)
    expected = [
        index
        for index, (first, second) in enumerate(points)
        if not any(a >= first and b >= second and (a, b) != (first, second) for a, b in points)
    ]
    assert sorted(front.allindices()) == expected
