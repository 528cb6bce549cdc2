# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Exported policies: the same actions as torch, from one file, without torch."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omnisafe_qpt
from host_helpers import ENV_ID, HORIZON, make_networks, untrained_run
from omnisafe_qpt import export, runner
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.actions import normalized
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    calibrated_settings,
    deployment_of,
)
from omnisafe_qpt.qpt.selection import RULES
from omnisafe_qpt.runner import CALIBRATION_FORMAT, CERTIFIED, NO_SAFE_TARGET, OnnxPolicy
from omnisafe_qpt.runs.checkpoint import load_networks


STEPS = 60
ACTION_RANGE = {'low': [-0.5, -1.0], 'high': [0.5, 1.0]}


def needs_extra(test: Any) -> Any:
    """Skip where the packages for exporting are absent; `make test` installs them."""
    missing = export.missing_packages()
    return pytest.mark.skipif(bool(missing), reason=f'needs {", ".join(missing)}')(test)


@pytest.fixture(scope='module')
def run(tmp_path_factory: Any) -> Path:
    """A run whose candidates fit the budget at some steps and not at others."""
    return write_run(tmp_path_factory.mktemp('runs') / 'seed-000-now')


def write_run(folder: Path, **changes: Any) -> Path:
    networks = make_networks(7, 2, HORIZON, ENV_ID, **changes)
    networks.spec['published_targets'] = [[29.0, 123.0]]
    networks.spec['versions'] = {'torch': '2'}
    networks.spec['action_range'] = ACTION_RANGE
    networks.spec['dataset'] = {'path': '/home/someone/data/ball.hdf5', 'sha256': 'abc'}
    with torch.no_grad():
        networks.reward_critic.weights[0].mul_(8.0)
        networks.cost_critic.weights[0].mul_(8.0)
        networks.cost_critic.biases[-1].add_(0.5)
    return untrained_run(folder, networks)


@dataclass
class Written:
    """What the command did."""

    path: Path
    report: dict[str, Any]
    stdout: str
    stderr: str


@pytest.fixture(scope='module')
def written(run: Path, tmp_path_factory: Any) -> Written:
    path = tmp_path_factory.mktemp('command') / 'policy.onnx'
    report, out, err = path.with_suffix('.json'), io.StringIO(), io.StringIO()
    options = [
        '--candidates',
        '1',
        '--rule',
        'discounted_budget',
        '--cost-limit',
        '5',
        '--target-return',
        '42',
    ]
    with redirect_stdout(out), redirect_stderr(err):
        assert main(['export', str(run), str(path), *options, '--json', str(report)]) == 0
    return Written(path, json.loads(report.read_text()), out.getvalue(), err.getvalue())


@pytest.fixture(scope='module')
def exported(run: Path, tmp_path_factory: Any, request: Any) -> Any:
    """A model exported with given options; each is made once, as it takes seconds."""
    folder, made = tmp_path_factory.mktemp('models'), {}

    def model(**options: Any) -> Path:
        if options == PLAIN:
            return request.getfixturevalue('written').path
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = folder / f'{len(made)}.onnx'
            export.export_policy(run, made[key], **options)
        return made[key]

    return model


HISTORY = {'candidates': 6, 'candidate_shift': 'history', 'rule': 'paper'}
LAST = {'candidates': 6, 'candidate_shift': 'last', 'rule': 'bounded'}
PLAIN = {'candidates': 1, 'rule': 'discounted_budget'}  # which shows even this one another window


def play(policies: Any, count: int | None = None, watch: Any = None) -> np.ndarray:
    """Two episodes with new limits on the way, and with several also some begun between.

    All policies live through the same; after each step ``watch`` is given their actions. Returns
    the first one's.
    """
    generator = np.random.default_rng(0)
    shape = () if count is None else (count,)
    actions = []
    for step in range(2 * STEPS):
        obs = generator.standard_normal((*shape, 7))
        received = generator.uniform(0, 2, shape), generator.uniform(0, 0.3, shape)
        chosen = []
        for policy in policies:
            if step % STEPS == 0:
                policy.reset(step + 4)
            if step % STEPS == 20:
                policy.set_cost_limit(3.0)
            if step % STEPS == 40:
                policy.set_cost_limit(np.full(shape, 40.0), target_return=70.0)
            if count and step == 30:
                policy.reset(seed=11, episodes=[1])
            chosen.append(policy.act(obs))
            policy.observe(*received)
        if watch is not None:
            watch(*chosen)
        actions.append(chosen[0])
    return np.stack(actions)


class Comparison:
    """Holds an exported policy against torch's, step by step.

    Where two candidates are worth the same up to rounding, each may take another: that must be
    so, and rare. The exported one then goes on from torch's action, so that one does not lead to
    another.
    """

    def __init__(self, policy: Any, exported: OnnxPolicy, rule: str) -> None:
        self.policy, self.exported, self.rule = policy, exported, rule
        self.compared = self.ties = 0

    def __call__(self, expected: np.ndarray, actions: np.ndarray) -> None:
        for name in ('remaining_budget', 'remaining_return', 'cost_limit', 'target_return'):
            assert np.all(getattr(self.exported, name) == getattr(self.policy, name))
        expected, actions = np.atleast_2d(expected), np.atleast_2d(actions)
        rows = np.flatnonzero((np.abs(actions - expected) > 1e-5).any(axis=1))
        for row in rows:
            self.assert_tie(row)
        self.exported._inputs['actions'][rows, -1] = normalized(expected[rows], ACTION_RANGE)
        self.compared += len(expected)
        self.ties += len(rows)

    def assert_tie(self, row: int) -> None:
        _, _, rewards, costs = (values.numpy() for values in self.policy._rollout._scored)
        one = self.policy._rollout.choice.candidate[row]
        (others,) = self.exported.session.run(['candidate'], self.exported._inputs)
        pair = [one, others[row]]
        differences = [np.ptp(rewards[row, pair]), np.ptp(costs[row, pair])]
        if self.rule == 'bounded':  # then one may be just as dear as candidate 0
            differences.extend(np.abs(costs[row, pair] - costs[row, 0]))
        assert min(differences) < 1e-5


@needs_extra
@pytest.mark.parametrize(
    'options',
    [
        HISTORY,
        pytest.param(LAST, marks=pytest.mark.slow),
        PLAIN,
        pytest.param({**HISTORY, 'rule': 'bounded'}, marks=pytest.mark.slow),
        pytest.param({**LAST, 'rule': 'paper'}, marks=pytest.mark.slow),
        pytest.param({**LAST, 'rule': 'discounted_budget'}, marks=pytest.mark.slow),
        pytest.param({**HISTORY, 'rule': 'discounted_budget'}, marks=pytest.mark.slow),
    ],
    ids=lambda options: '-'.join(map(str, options.values())),
)
@pytest.mark.parametrize('count', [None, 3])
def test_the_same_actions_as_torch(run: Path, exported: Any, options: Any, count: Any) -> None:
    def load(**others: Any) -> Any:
        choice = {**options, **others, 'cost_limit': 7.0, 'num_episodes': count}
        return omnisafe_qpt.load_policy(run, device='cpu', **choice)

    policies = load(), OnnxPolicy(exported(**options), 7.0, num_episodes=count)
    comparison = Comparison(*policies, options.get('rule'))
    expected = play(policies, count, comparison)
    assert comparison.compared == 2 * STEPS * (count or 1)
    assert comparison.ties <= 0.02 * comparison.compared
    for other in (*({'rule': rule} for rule in RULES), {'candidate_shift': 'last'}):
        if len(options) == len(LAST) and not other.items() <= options.items():
            assert np.abs(play([load(**other)], count) - expected).max() > 1e-3, 'it matters here'


@pytest.mark.slow
@needs_extra
def test_critics_that_see_targets_and_time_are_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / 'seed-000-now', critic_inputs='targets_time')
    options = {'candidates': 6, 'rule': 'discounted_budget'}
    export.export_policy(run, tmp_path / 'policy.onnx', **options)
    policies = (
        omnisafe_qpt.load_policy(run, 7.0, device='cpu', **options),
        OnnxPolicy(tmp_path / 'policy.onnx', 7.0),
    )
    comparison = Comparison(*policies, 'discounted_budget')
    play(policies, watch=comparison)
    assert comparison.ties <= 0.02 * comparison.compared


def test_all_of_the_rule_is_met_in_these_episodes(run: Path) -> None:
    """Or else the test above would show little."""
    policy = omnisafe_qpt.load_policy(run, device='cpu', **LAST, cost_limit=7.0)
    met = set()

    def watch(_: np.ndarray) -> None:
        choice = policy._rollout.choice
        met.add((choice.feasible.item(), choice.candidate.item() > 0))

    play([policy], watch=watch)
    assert {(True, True), (True, False), (False, True)} <= met


@needs_extra
def test_limits_and_targets_are_those_of_the_run(run: Path, exported: Any) -> None:
    path = exported(**HISTORY)
    for limit in (None, 0.0, 4.9, 5.0, 10.0, 29.0, 1000.0):
        expected = omnisafe_qpt.load_policy(run, limit, device='cpu')
        policy = OnnxPolicy(path, limit)
        assert (policy.cost_limit, policy.target_return) == (
            expected.cost_limit,
            expected.target_return,
        )
    assert OnnxPolicy(path, 29.0).target_return == 123.0
    assert OnnxPolicy(path, target_return=7.0).target_return == 7.0


@needs_extra
def test_an_exported_policy_holds_still_as_torchs_does(run: Path, tmp_path: Path) -> None:
    networks, _ = load_networks(run)
    networks.spec['action_range'] = {'low': [0.0, -1.0], 'high': [1.0, 3.0]}
    config, _ = deployment_of(networks, options=DeploymentOptions(**PLAIN))
    played = {'lengths': [60]}
    level = {'target_cost': 4.0, 'target_return': 50.0, 'returns': [5.0], 'costs': [8.0], **played}
    zero_action = {'target_cost': None, 'target_return': None, 'returns': [1.0], 'costs': [0.0]}
    zero_action |= played
    networks.spec['calibration'] = {
        'format': CALIBRATION_FORMAT,
        'settings': calibrated_settings(config),
        'episodes': 5,
        'comparisons': 10,
        'worst_cost': 80.0,
        'levels': [{**level, 'return_mean': 5.0, 'cost_mean': 8.0, 'cost_bound': 9.0}],
        'zero_action': {**zero_action, 'return_mean': 1.0, 'cost_mean': 0.0},
    }
    folder, path = untrained_run(tmp_path / 'seed-000-now', networks), tmp_path / 'policy.onnx'
    export.export_policy(folder, path, cost_limit=3.0, **PLAIN)
    policies = (
        omnisafe_qpt.load_policy(folder, 3.0, device='cpu', num_episodes=2, **PLAIN),
        OnnxPolicy(path, num_episodes=2),
    )
    observations = np.random.default_rng(0).standard_normal((12, 2, 7))
    for step, observation in enumerate(observations):
        for policy in policies:
            if step == 4:
                policy.set_cost_limit(9.5, episodes=[1])
            if step == 8:
                policy.set_cost_limit(3.0)
        expected, actions = (policy.act(observation) for policy in policies)
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        is_still = [True, not 4 <= step < 8]
        assert (actions == 0.0).all(axis=1).tolist() == is_still
        for policy in policies:
            policy.observe([0.5, 0.25], [0.25, 0.0])
        for name in ('remaining_budget', 'remaining_return', 'cost_limit', 'target_return'):
            ours, theirs = (getattr(policy, name) for policy in policies)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert np.isnan(policies[1].target_return).tolist() == is_still
        assert policies[0].guarantee == policies[1].guarantee
        statuses = [each.status for each in policies[1].guarantee]
        assert statuses == [NO_SAFE_TARGET if still else CERTIFIED for still in is_still]


@needs_extra
def test_the_file_says_what_it_is(exported: Any) -> None:
    metadata = OnnxPolicy(exported(**HISTORY)).metadata
    expected = {
        'env_id': ENV_ID,
        'obs_dim': 7,
        'act_dim': 2,
        'action_range': ACTION_RANGE,
        'context_len': 4,
        'horizon': HORIZON,
        'cost_limit': 10.0,
        'target_return': 50.0,
        'frontier': {'costs': [0.0, 5.0, 30.0], 'returns': [10.0, 50.0, 90.0]},
        **HISTORY,
        'return_unit': 100.0,
        'cost_unit': 10.0,
        'target_spread': 0.5,
        'reference_returns': [0.0, 100.0],
        'dataset': 'ball.hdf5',
        'dataset_sha256': 'abc',
        'run': 'seed-000-now',
        'checkpoint': 'epoch-3.pt',
        'trained_with': {'torch': '2'},
    }
    assert {name: metadata[name] for name in expected} == expected
    assert metadata['exported_with']['torch'] == str(torch.__version__)
    assert metadata['exported_with']['omnisafe-qpt'] == omnisafe_qpt.__version__


ROBOT = """
import sys
sys.modules['torch'] = None  # as where it is not installed
{imports}
policy = OnnxPolicy({model!r}, cost_limit=7.0)
import numpy as np
generator = np.random.default_rng(0)
for step in range(20):
    action = policy.act(generator.standard_normal(7))
    policy.observe(1.0, 0.1)
print(action.tolist())
print(sorted(name for name in sys.modules if name.partition('.')[0] in ('torch', 'onnx')))
"""


@needs_extra
@pytest.mark.parametrize('copied', [False, True], ids=['package', 'copy'])
def test_it_runs_where_there_is_no_torch(
    run: Path,
    exported: Any,
    tmp_path: Path,
    copied: bool,
) -> None:
    imports = (
        'from omnisafe_qpt.runner import CALIBRATION_FORMAT, CERTIFIED, NO_SAFE_TARGET, OnnxPolicy'
    )
    if copied:
        shutil.copytree(Path(runner.__file__).parent, tmp_path / 'runner')
        imports = 'sys.modules["omnisafe_qpt"] = None\nfrom runner import OnnxPolicy'
    program = ROBOT.format(imports=imports, model=str(exported(**HISTORY)))
    command = [sys.executable, '-c', program]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    action, modules = ran.stdout.splitlines()
    assert modules == "['torch']", 'the name that was blocked, and nothing of onnx'
    policy = omnisafe_qpt.load_policy(run, cost_limit=7.0, device='cpu', **HISTORY)
    generator = np.random.default_rng(0)
    for _ in range(20):
        expected = policy.act(generator.standard_normal(7))
        policy.observe(1.0, 0.1)
    np.testing.assert_allclose(json.loads(action), expected, atol=1e-5)


@needs_extra
def test_refusals_change_nothing(exported: Any) -> None:
    policy, untouched = (OnnxPolicy(exported(**HISTORY)) for _ in '12')
    actions, expected = [], []
    for step in range(6):
        obs = np.full(7, step / 3)
        for bad in (np.full(7, np.nan), np.zeros(6), (obs, {})):
            with pytest.raises(ValueError, match='observation'):
                policy.act(bad)
        actions.append(policy.act(obs))
        with pytest.raises(ValueError, match='twice in a row'):
            policy.act(obs)
        with pytest.raises(ValueError, match='NaN'):
            policy.observe(1.0, np.nan)
        with pytest.raises(ValueError, match='0 or more'):
            policy.set_cost_limit(-1.0)
        with pytest.raises(ValueError, match='cost_limit holds'):
            policy.set_cost_limit(10**400)
        policy.observe(1.0, 0.5)
        expected.append(untouched.act(obs))
        untouched.observe(1.0, 0.5)
    np.testing.assert_array_equal(actions, expected)


@needs_extra
def test_what_is_no_exported_policy_is_said_so(exported: Any, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(FileNotFoundError, match='no such file'):
        OnnxPolicy(tmp_path / 'none.onnx')
    cut = tmp_path / 'cut.onnx'
    cut.write_bytes(exported(**PLAIN).read_bytes()[:5000])
    with pytest.raises(ValueError, match='cannot be read'):
        OnnxPolicy(cut)
    model = onnx.load(exported(**PLAIN))
    for entry in model.metadata_props:
        entry.value = '2' if entry.key == 'omnisafe_qpt_format' else entry.value
    onnx.save(model, tmp_path / 'newer.onnx')
    with pytest.raises(ValueError, match='format 2, this runner reads 4'):
        OnnxPolicy(tmp_path / 'newer.onnx')
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'other.onnx')
    with pytest.raises(ValueError, match='not a policy that omnisafe-qpt exported'):
        OnnxPolicy(tmp_path / 'other.onnx')


# ---------------------------------------------------------------------- damaged and hostile files


@pytest.fixture
def altered(exported: Any, tmp_path: Path) -> Any:
    """Return a factory of files whose hash is right and whose content is not."""
    import onnx

    def alter(change: Any = None, **fields: str) -> Path:
        model = onnx.load(exported(**PLAIN))
        for name in [name for name in fields if fields[name] is None]:
            kept = [entry for entry in model.metadata_props if entry.key != name]
            del model.metadata_props[:]
            model.metadata_props.extend(kept)
        for entry in model.metadata_props:
            if entry.key == 'omnisafe_qpt_sha256':
                entry.value = f'"{runner.BLANK_DIGEST}"'
            entry.value = fields.get(entry.key, entry.value)
        if change is not None:
            change(model)
        path = tmp_path / 'altered.onnx'
        path.write_bytes(runner.sealed(model.SerializeToString()))
        return path

    return alter


def refusal(path: Path) -> str:
    """The one line with which a file is refused, and that names it."""
    with pytest.raises(ValueError, match=path.name) as caught:
        OnnxPolicy(path)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    return line


@needs_extra
def test_a_file_that_only_was_sealed_again_is_read(altered: Any) -> None:
    assert OnnxPolicy(altered()).act(np.zeros(7)).shape == (2,)


@needs_extra
def test_each_flipped_bit_is_noticed(exported: Any, tmp_path: Path) -> None:
    content = exported(**PLAIN).read_bytes()
    path = tmp_path / 'flipped.onnx'
    generator = np.random.default_rng(0)
    for place in (0, len(content) - 1, *generator.integers(0, len(content), 150)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        assert refusal(path)
    for other in (b'', content[:-1], content[: len(content) // 2], content + b'\0', b'\0' * 999):
        path.write_bytes(other)
        assert refusal(path)


@needs_extra
@pytest.mark.parametrize(
    'field',
    ['obs_dim', 'act_dim', 'context_len', 'candidates', 'horizon'],
)
@pytest.mark.parametrize(
    'text',
    ['-1', '0', '"8"', '1000000000000', '2.5', 'true', 'null', '[7]', '1' + '0' * 400, '99999'],
)
def test_impossible_sizes_are_refused(altered: Any, field: str, text: str) -> None:
    if (field, text) == ('horizon', '99999'):
        text = '1e5'
    assert field in refusal(altered(**{field: text})) or text == '99999'


_LEVEL = (
    '{"target_cost": 1, "target_return": 1, "costs": [1], "cost_bound": 1, "cost_mean": 1, '
    '"return_mean": 1}'
)
_CALIBRATION = (
    '{"format": 2, "episodes": 1, "comparisons": 1, "worst_cost": 1, "zero_action": null, '
    f'"levels": [{_LEVEL}]}}'
)


@needs_extra
def test_a_calibration_of_the_right_form_is_read(altered: Any) -> None:
    assert OnnxPolicy(altered(calibration=_CALIBRATION)).metadata['calibration']['episodes'] == 1


@needs_extra
@pytest.mark.parametrize(
    ('field', 'text'),
    [
        *(
            (field, text)
            for field in ('cost_limit', 'target_return', 'target_cost', 'shift_scale', 'cost_unit')
            for text in ('NaN', '-Infinity', '1e999', '"5"', '[5]', '{}', '1' + '0' * 400)
        ),
        ('cost_limit', '-1'),
        ('return_unit', '0'),
        ('env_id', '5'),
        ('env_id', '"Safety\\u001b]0;owned\\u0007"'),
        ('env_id', '[' * 100_000),
        ('frontier', '{"a":' * 5000 + '1' + '}' * 5000),
        ('frontier', '{"costs": [], "returns": []}'),
        ('frontier', '{"costs": [0, 1], "returns": [1]}'),
        ('frontier', '{"costs": [1, 0], "returns": [1, 1]}'),
        ('frontier', '{"costs": [0, NaN], "returns": [1, 1]}'),
        ('frontier', '{"costs": "ab", "returns": "ab"}'),
        ('frontier', 'null'),
        ('published_targets', '[[1, 2, 3]]'),
        ('published_targets', '[[1, null]]'),
        ('published_targets', '5'),
        ('action_range', '{"low": [-1, -1], "high": [1]}'),
        ('action_range', '{"low": [-1, -1], "high": [1, -1]}'),
        ('action_range', '{"low": [-1, -1]}'),
        ('action_range', '[1, 2]'),
        ('action_range', '{"low": [-1, null], "high": [1, 1]}'),
        ('rule', '"none"'),
        ('candidate_shift', '["last"]'),
        ('reference_returns', '[0]'),
        ('trained_with', '{"torch": 2}'),
        ('calibration', '{}'),
        ('calibration', '[]'),
        ('calibration', _CALIBRATION.replace('"format": 2', '"format": 1')),
        ('calibration', _CALIBRATION.replace(_LEVEL, '')),
        ('calibration', _CALIBRATION.replace('"costs": [1]', '"costs": []')),
        ('calibration', _CALIBRATION.replace('"episodes": 1', '"episodes": 0')),
        ('calibration', _CALIBRATION.replace('"cost_mean": 1', '"cost_mean": "1"')),
        ('calibration', _CALIBRATION.replace('"cost_bound": 1, ', '')),
        ('calibration', _CALIBRATION.replace('"target_cost": 1', '"target_cost": null')),
        ('dataset', 'not json'),
        ('run', ''),
        *((field, None) for field in runner.metadata._SCHEMA),
    ],
)
def test_impossible_metadata_is_refused(altered: Any, field: str, text: Any) -> None:
    assert field in refusal(altered(**{field: text}))


def _weights(model: Any, number: int = 0) -> Any:
    return [each for each in model.graph.initializer if len(each.dims) == 2][number]


def _set_weight(value: float) -> Any:
    def change(model: Any) -> None:
        tensor = _weights(model)
        numbers = np.frombuffer(tensor.raw_data, np.float32).copy()
        numbers[1] = value
        tensor.raw_data = numbers.tobytes()

    return change


def _as_float_data(model: Any) -> None:
    tensor = _weights(model)
    numbers = np.frombuffer(tensor.raw_data, np.float32).copy()
    numbers[0] = np.nan
    tensor.ClearField('raw_data')
    tensor.float_data.extend(numbers)


def _as_half(model: Any) -> None:
    tensor = _weights(model)
    tensor.raw_data = np.frombuffer(tensor.raw_data, np.float32).astype(np.float16).tobytes()
    tensor.data_type = 10


def _as_external(model: Any) -> None:
    tensor = _weights(model)
    tensor.ClearField('raw_data')
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', '/etc/passwd'


def _external_location_alone(model: Any) -> None:
    _weights(model).data_location = 1


def _external_constant(model: Any) -> None:
    from onnx import helper

    node = helper.make_node('Constant', [], ['unused'])
    attribute = node.attribute.add(name='value', type=4)
    attribute.t.data_type, attribute.t.data_location = 1, 1
    entry = attribute.t.external_data.add()
    entry.key, entry.value = 'location', 'secret'
    model.graph.node.insert(0, node)


def _loop(model: Any) -> None:
    from onnx import helper

    body = helper.make_graph([], 'body', [], [])
    model.graph.node.append(helper.make_node('Loop', ['', ''], ['unused'], body=body))


def _function(model: Any) -> None:
    from onnx import helper

    model.functions.append(helper.make_function('mine', 'f', [], [], [], []))


def _foreign(model: Any) -> None:
    model.graph.node[0].domain = 'com.microsoft'


def _without_input(model: Any) -> None:
    model.graph.input[0].name = 'other'


def _extra_input(model: Any) -> None:
    from onnx import TensorProto, helper

    model.graph.input.append(helper.make_tensor_value_info('more', TensorProto.FLOAT, [1]))


def _fixed_episodes(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _without_output(model: Any) -> None:
    del model.graph.output[0]


def _nan_by_a_node(model: Any) -> None:
    for node in model.graph.node:
        for number, name in enumerate(node.output):
            if name == 'action':
                node.output[number] = 'before'
    from onnx import helper

    model.graph.node.append(helper.make_node('Sub', ['before', 'before'], ['none']))
    model.graph.node.append(helper.make_node('Div', ['none', 'none'], ['action']))


@needs_extra
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_set_weight(np.nan), 'not finite'),
        (_set_weight(np.inf), 'not finite'),
        (_set_weight(-np.inf), 'not finite'),
        (_as_float_data, 'not finite'),
        (_as_half, 'type'),
        (_as_external, 'never read'),
        (_external_location_alone, 'never read'),
        (_external_constant, 'never read'),
        (_loop, 'graphs within'),
        (_function, 'functions'),
        (_foreign, 'operator'),
        (_without_input, 'input'),
        (_extra_input, 'input more'),
        (_fixed_episodes, 'states'),
        (_without_output, 'output action'),
        (_nan_by_a_node, 'finite numbers'),
    ],
)
def test_hostile_graphs_are_refused(altered: Any, change: Any, message: str) -> None:
    assert message in refusal(altered(change))


@needs_extra
def test_sizes_are_those_of_the_graph(altered: Any) -> None:
    """Or else windows of another size would be allocated."""
    for field in ('obs_dim', 'context_len', 'candidates'):
        assert 'by the metadata it must be' in refusal(altered(**{field: '5'}))


@pytest.mark.slow
@needs_extra
def test_a_checkpoint_with_weights_that_are_not_finite_is_not_exported(
    run: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    networks, _ = load_networks(run)
    networks.policy.head.bias.data[0] = np.nan
    loaded = networks, run / 'epoch-3.pt'
    monkeypatch.setattr(export.DeploymentOptions, 'load_transformer', lambda *_: loaded)
    with pytest.raises(UserError):
        export.export_policy(run, tmp_path / 'policy.onnx', **PLAIN)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- the command


@needs_extra
def test_the_command_writes_and_reports(written: Written) -> None:
    path, report = written.path, written.report
    assert f'{path}, {path.stat().st_size / 1e6:.1f} MB' in written.stdout
    assert 'cost limit 5 and target return 42.0' in written.stdout
    assert str(Path(runner.__file__).parent) in written.stdout
    assert not written.stderr, 'the exporter keeps its notes to itself'
    assert (report['path'], report['bytes']) == (str(path), path.stat().st_size)
    assert report['difference'] < 1e-5
    assert sorted(file.name for file in path.parent.iterdir()) == ['policy.json', 'policy.onnx']


@needs_extra
def test_a_target_of_the_file_belongs_to_its_limit(written: Written) -> None:
    policy = OnnxPolicy(written.path)
    targets = [(policy.cost_limit, policy.target_return)]
    for limit in (30.0, 5.0):
        policy.set_cost_limit(limit)
        targets.append((policy.cost_limit, policy.target_return))
    assert targets == [(5.0, 42.0), (30.0, 90.0), (5.0, 42.0)]


@needs_extra
def test_a_failed_export_leaves_the_file_that_was_there(
    run: Path,
    exported: Any,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    """Here the new model acts differently than torch, as a defect of the exporter would have it."""
    out = tmp_path / 'policy.onnx'
    out.write_bytes(b'what was there')

    def write(*args: Any) -> None:
        model = exported(**PLAIN).read_bytes()
        args[-1].write_bytes(model)

    monkeypatch.setattr(export, '_write', write)
    other = make_networks(7, 2, HORIZON, ENV_ID)
    with torch.no_grad():
        other.policy.head.bias.add_(0.5)
    changed = untrained_run(tmp_path / 'changed', other)
    assert (
        main(['export', str(changed), str(out), '--candidates', '1', '--rule', 'discounted_budget'])
        == 1
    )
    assert 'acts differently than torch' in capsys.readouterr().err
    assert out.read_bytes() == b'what was there'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['changed', 'policy.onnx']
    assert (
        main(['export', str(run), str(out), '--candidates', '1', '--rule', 'discounted_budget'])
        == 0
    )
    assert out.read_bytes() == exported(**PLAIN).read_bytes()


def test_mistakes_are_one_line(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(export, 'missing_packages', list)
    for arguments, message in (
        ([str(run), str(tmp_path / 'policy.pt')], 'must end in .onnx'),
        ([str(run), str(tmp_path / 'no' / 'policy.onnx')], 'there is no folder'),
        ([str(tmp_path / 'none'), str(tmp_path / 'policy.onnx')], 'no such run folder'),
        ([str(run), str(tmp_path / 'policy.onnx'), '--cost-limit', '-1'], 'cost_limit is -1.0'),
        ([str(run), str(tmp_path / 'policy.onnx'), '--checkpoint', '9'], 'no checkpoint 9'),
    ):
        assert main(['export', *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    monkeypatch.setattr(export, 'missing_packages', lambda: ['onnxruntime', 'onnxscript'])
    assert main(['export', str(run), str(tmp_path / 'policy.onnx')]) == 1
    assert 'pip install onnxruntime onnxscript' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_policies_of_torch_work(run: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert omnisafe_qpt.load_policy(run, device='cpu').act(np.zeros(7)).shape == (2,)
    with pytest.raises(ImportError, match='onnxruntime'):
        OnnxPolicy('policy.onnx')
