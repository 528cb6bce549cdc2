# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that cannot be, and what a run leaves: refused at the start, and nothing is lost."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omnisafe
import pytest
from omnisafe.common import logger as omnisafe_logger

from common_helpers import read_csv
from host_helpers import ENV_ID, make_networks, small_options, write_dataset
from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.baselines.config import CPQConfig
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import load_policy
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.evaluation.target_calibration import calibrate
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig, OptimizerConfig
from omnisafe_qpt.runs.checkpoint import save_checkpoint
from omnisafe_qpt.runs.resume import latest_run
from omnisafe_qpt.runs.run_log import RunLogger, check_wandb
from omnisafe_qpt.settings.checks import check_counts, parse_option, validate
from omnisafe_qpt.settings.files import load_defaults, merge, read_yaml


NO_NUMBERS = [math.nan, math.inf, -math.inf, True, 1e300, [1.0]]


@pytest.fixture(scope='module', name='dataset')
def fixture_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball-run.hdf5', episodes=3)


def options_for(dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    """Return options of a run without episodes, which takes a moment."""
    none = {'evaluate_epoisodes': 0, 'final_evaluate_episodes': 0}
    return small_options(dataset, log_dir, **{**none, **train_cfgs})


# ------------------------------------------------------------------ numbers


def numeric_options(algo: str) -> list[tuple[str, Any]]:
    """List the options of an algorithm that are, or may be, numbers."""
    found = []

    def walk(section: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, value in section.items():
            if isinstance(value, dict):
                walk(value, (*path, name))
            else:
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if is_number or name in ('target_return', 'evaluate_processes', 'torch_threads'):
                    found.append((':'.join((*path, name)), value))

    walk(load_defaults('any', algo), ())
    return found


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_no_numeric_option_takes_what_is_no_finite_number(algo: str) -> None:
    defaults = load_defaults('any', algo)
    options = numeric_options(algo)
    assert len(options) >= 12
    for path, _ in options:
        for value in [*NO_NUMBERS, 'nan', 'inf', 'much']:
            option: Any = value
            for name in reversed(path.split(':')):
                option = {name: option}
            with pytest.raises(UserError, match=f'{path} must be') as error:
                validate(option, defaults)
            assert '\n' not in str(error.value)
        for text in ('.nan', '.inf', '-.inf', 'nan', 'inf', 'true', '1e999'):
            with pytest.raises(UserError, match=f'{path} in --custom-cfgs must be'):
                parse_option(path, text, defaults)
    for path in ('model_cfgs:critic:hidden_sizes', 'model_cfgs:actor:hidden_sizes'):
        sizes: Any = defaults
        for name in path.split(':'):
            sizes = sizes.get(name, {})
        if sizes:
            with pytest.raises(UserError, match='holds'):
                parse_option(path, '[4, .inf]', defaults)


@pytest.mark.parametrize('value', NO_NUMBERS)
def test_typed_settings_take_finite_numbers_only(value: Any) -> None:
    makers = (
        lambda: DeploymentConfig(cost_limit=value),
        lambda: DeploymentConfig(candidates=value),
        lambda: DeploymentConfig(target_cost=value),
        lambda: OptimizerConfig(lr=value),
        lambda: LearnerConfig(eta_cost=value),
        lambda: LearnerConfig(critic_hidden_sizes=(4, value)),
        lambda: CPQConfig(cost_limit=value, horizon=10),
        lambda: CPQConfig(cost_limit=1.0, horizon=value),
    )
    for make in makers:
        with pytest.raises(UserError, match='must be'):
            make()


@pytest.mark.parametrize('value', [math.nan, math.inf, True, 'much'])
def test_deployment_takes_finite_numbers_only(tmp_path: Path, value: Any) -> None:
    networks = make_networks(3, 2, 10, ENV_ID)
    file = save_checkpoint(tmp_path, 1, networks)
    for option in ('cost_limit', 'target_return', 'candidates', 'num_episodes'):
        with pytest.raises(UserError, match=option):
            load_policy(file, device='cpu', **{option: value})
    for option in ('episodes', 'seed', 'processes', 'cost_limits', 'target_return'):
        with pytest.raises(UserError, match=option.removesuffix('s').replace('_', '.')):
            evaluate_runs(file, device='cpu', **{option: value})
    with pytest.raises(UserError, match='episodes'):
        calibrate(networks, DeploymentConfig(), value)


@pytest.mark.parametrize('seed', [-1, 2**31, 2**70])
def test_a_seed_is_from_zero_to_what_simulators_take(seed: int) -> None:
    defaults = load_defaults('any', 'QPT')
    with pytest.raises(UserError, match=f'seed must be from 0 to 2147483647, not {seed}'):
        check_counts(merge(defaults, {'seed': seed}))


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('calibrate_episodes', 1),
        ('calibrate_episodes', 10_001),
        ('final_evaluate_episodes', 10_001),
        ('evaluate_epoisodes', 10_001),
    ],
)
def test_a_number_of_episodes_that_fails_in_the_end_is_refused_at_the_start(
    option: str, value: int
) -> None:
    defaults = load_defaults('any', 'QPT')
    with pytest.raises(UserError, match=f'train_cfgs:{option} must be .*not {value}'):
        check_counts(merge(defaults, {'train_cfgs': {option: value}}))
    for fine in (0, 2, 10_000):
        check_counts(merge(defaults, {'train_cfgs': {option: fine}}))


@pytest.mark.parametrize('seed', ['1.5', 'true', '-1', 'x'])
def test_training_refuses_a_seed_in_one_line(seed: str, dataset: Path, tmp_path: Path) -> None:
    options = merge(options_for(dataset, tmp_path), {'seed': read_seed(seed)})
    with pytest.raises(UserError, match='seed'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert not list(tmp_path.iterdir())


def read_seed(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


# ------------------------------------------------------------------ a run without episodes


def test_a_run_without_episodes_has_no_rows_that_hold_nothing(
    dataset: Path,
    tmp_path: Path,
) -> None:
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options_for(dataset, tmp_path))
    assert agent.learn() == (None, None, None)
    rows = read_csv(Path(agent.agent.logger.log_dir) / 'progress.csv')
    assert len(rows) == 2
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert not [name for name in rows[0] if name.startswith(('Metrics', 'Validation'))]


# ------------------------------------------------------------------ folders


def begin_runs(log_dir: str, name: str, count: int, found: Any) -> None:
    for _ in range(count):
        logger = RunLogger(config_of(Path(log_dir)), name)
        logger.close()
        found.put(logger.log_dir)


def config_of(log_dir: Path, **logger_cfgs: Any) -> Any:
    from omnisafe.utils.config import Config

    options = {'log_dir': str(log_dir), 'use_tensorboard': False, 'use_wandb': False}
    cfgs = {'seed': 7, 'logger_cfgs': {'wandb_project': 'p', **options, **logger_cfgs}}
    return Config.dict2config(cfgs)


@pytest.fixture(name='one_second')
def fixture_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all runs start in the same second."""
    monkeypatch.setattr(omnisafe_logger.time, 'strftime', lambda *_: '2026-01-31-12-00-00')


@pytest.mark.usefixtures('one_second')
def test_runs_that_start_in_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    name = f'QPT-{{{ENV_ID}}}-data'
    context = multiprocessing.get_context('fork')
    found = context.Queue()
    workers = [
        context.Process(target=begin_runs, args=(str(tmp_path), name, 4, found)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    folders = [found.get(timeout=60) for _ in range(12)]
    for worker in workers:
        worker.join()
    assert len(set(folders)) == 12
    begun = sorted(Path(folder).name for folder in folders)
    stem = 'seed-007-2026-01-31-12-00-00'
    assert begun == sorted([stem, *(f'{stem}-{number}' for number in range(2, 13))])
    assert latest_run('QPT', str(tmp_path), ENV_ID).name == f'{stem}-12'
    later = tmp_path / name / 'seed-007-2026-01-31-12-00-01'
    later.mkdir()
    (later / 'config.json').touch()
    assert latest_run('QPT', str(tmp_path), ENV_ID) == later


@pytest.mark.usefixtures('one_second')
def test_two_agents_of_one_second_keep_their_runs_apart(dataset: Path, tmp_path: Path) -> None:
    agents = []
    for limit in (10.0, 20.0):
        options = options_for(dataset, tmp_path)
        options['algo_cfgs']['cost_limit'] = limit
        agents.append(omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options))
    for agent in agents:
        agent.learn()
    runs = [Path(agent.agent.logger.log_dir) for agent in agents]
    limits = [read_yaml(run / 'config.json')['algo_cfgs']['cost_limit'] for run in runs]
    assert limits == [10.0, 20.0]
    assert all((run / 'torch_save/epoch-2.pt').is_file() for run in runs)


# ------------------------------------------------------------------ wandb


class Wandb:
    """Stands in for the package: one run at a time, as wandb has it."""

    def __init__(self, key: str | None = 'key', fails: bool = False) -> None:
        self.run: Any = None
        self.runs: list[Any] = []
        self.fails = fails
        self.mode = 'online'
        self.api = SimpleNamespace(api_key=key)

    def setup(self) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode, identity_token_file=None))

    def init(self, **options: Any) -> Any:
        if self.fails:
            raise ConnectionError('no such server\nat all')
        assert self.run is None
        self.run = SimpleNamespace(options=options, rows=[], config=self)
        self.runs.append(self.run)
        return self.run

    def update(self, config: dict[str, Any], allow_val_change: bool) -> None:
        assert allow_val_change
        assert config['seed'] == 3

    def log(self, row: dict[str, float], step: int) -> None:
        self.run.rows.append((step, dict(row)))

    def finish(self) -> None:
        self.run = None


def use_wandb(monkeypatch: pytest.MonkeyPatch, wandb: Wandb) -> Wandb:
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setattr(omnisafe_logger, 'wandb', wandb)
    return wandb


def wandb_agent(dataset: Path, log_dir: Path, **train_cfgs: Any) -> Any:
    options = options_for(dataset, log_dir, **train_cfgs)
    options['logger_cfgs']['use_wandb'] = True
    return omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)


def test_each_agent_has_a_run_of_wandbs_of_its_own(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = use_wandb(monkeypatch, Wandb())
    agents = [wandb_agent(dataset, tmp_path) for _ in '12']
    for agent in agents:
        agent.learn()
    assert wandb.run is None
    assert [[step for step, _ in run.rows] for run in wandb.runs] == [[1, 2], [1, 2]]
    folders = [run.options['dir'] for run in wandb.runs]
    assert folders == [agent.agent.logger.log_dir for agent in agents]
    resumed = wandb_agent(dataset, tmp_path, resume=folders[0], total_steps=15)
    resumed.learn()
    assert [step for step, _ in wandb.runs[2].rows] == [1, 2, 3]


def test_a_run_that_the_user_began_is_used_and_left_open(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = use_wandb(monkeypatch, Wandb())
    theirs = wandb.init()
    wandb_agent(dataset, tmp_path).learn()
    assert wandb.run is theirs
    assert [step for step, _ in theirs.rows] == [1, 2]


def test_wandb_without_a_login_is_refused_before_there_is_a_folder(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = use_wandb(monkeypatch, Wandb(key=None))
    monkeypatch.setattr(sys, 'stdin', open(os.devnull, encoding='utf-8'))  # noqa: SIM115
    with pytest.raises(UserError, match=r'use_wandb.*no login.*WANDB_MODE=offline') as error:
        wandb_agent(dataset, tmp_path)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())
    for wandb.mode in ('offline', 'disabled', 'dryrun'):
        check_wandb()


def test_what_wandb_refuses_leaves_no_folder(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_wandb(monkeypatch, Wandb(fails=True))
    agent = wandb_agent(dataset, tmp_path)
    with pytest.raises(UserError, match='wandb refuses: ConnectionError: no such server at all'):
        agent.learn()
    assert not list(tmp_path.glob('*/*'))


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['offline', 'disabled'])
def test_the_real_wandb_works_without_a_login(dataset: Path, tmp_path: Path, mode: str) -> None:
    script = f"""
import omnisafe
for seed in (1, 2):
    options = {wandb_options(dataset, tmp_path)!r}
    omnisafe.Agent('QPT', {ENV_ID!r}, custom_cfgs={{**options, 'seed': seed}}).learn()
"""
    environment = {**os.environ, 'WANDB_MODE': mode, 'WANDB_API_KEY': '', 'HOME': str(tmp_path)}
    subprocess.run(
        [sys.executable, '-c', script], env=environment, check=True, stdin=subprocess.DEVNULL
    )
    assert len(list(tmp_path.glob('runs/*/*/training_state.pt'))) == 2
    assert len(list(tmp_path.glob('runs/*/*/wandb/offline-run-*'))) == 2 * (mode == 'offline')


def wandb_options(dataset: Path, folder: Path) -> dict[str, Any]:
    options = options_for(dataset, folder / 'runs')
    options['logger_cfgs']['use_wandb'] = True
    return options


# ------------------------------------------------------------------ scripts without a guard


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_script_without_a_guard_is_told_so(dataset: Path, tmp_path: Path) -> None:
    options = small_options(dataset, tmp_path / 'runs', evaluate_processes=2)
    script = tmp_path / 'script.py'
    # Elsewhere than on Linux, processes are spawned.
    lines = ['import sys', 'import omnisafe', 'sys.platform = "darwin"']
    lines.append(f'omnisafe.Agent("QPT", {ENV_ID!r}, custom_cfgs={options!r}).learn()')
    script.write_text('\n'.join(lines), encoding='utf-8')
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "if __name__ == '__main__':" in result.stderr.splitlines()[-1]
    assert 'out of memory' not in result.stderr
    assert len(list(tmp_path.glob('runs/*/*'))) == 1, 'the processes make no run of their own'
