# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the same episodes however they are run, at the tasks' real horizons."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from host_helpers import ENV_ID, HORIZON, Unsteady, make_networks, use
from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.envs import environments
from omnisafe_qpt.envs.environments import horizon_of, make_env
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation import episodes as evaluation
from omnisafe_qpt.evaluation.batch import Batch, Series
from omnisafe_qpt.evaluation.deployment import DeployedPolicy
from omnisafe_qpt.evaluation.episodes import EpisodePool, Evaluation, evaluate, evaluate_together
from omnisafe_qpt.qpt import deployable
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.rollout import RolloutPolicy


TARGET = 50.0


def results(result: Evaluation) -> tuple[Any, ...]:
    return result.returns, result.costs, result.lengths, result.infeasible_share


def one_after_the_other(config: DeploymentConfig, seeds: range) -> list[tuple[float, float, int]]:
    """Run the episodes in the plainest loop."""
    rows = []
    environment = environments.NumpyEnvironment(ENV_ID)
    policy = DeployedPolicy(make_networks(7, 2, 20, ENV_ID), config, TARGET)
    for seed in seeds:
        policy.reset(seed=seed)
        observation, total_reward, total_cost, steps, ended = (
            environment.reset(seed), 0.0, 0.0, 0, False
        )  # fmt: skip
        while not ended:
            observation, reward, cost, ended = environment.step(policy.act(observation))
            policy.observe(reward, cost)
            total_reward, total_cost, steps = total_reward + reward, total_cost + cost, steps + 1
        rows.append((total_reward, total_cost, steps))
    return rows


def test_few_episodes_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit where none share a call, and each in its own place."""
    use(monkeypatch, Unsteady)
    monkeypatch.setattr(evaluation, '_EPISODES_ON_CPU', 1)
    config = DeploymentConfig(candidates=3, cost_limit=5.0)
    expected = one_after_the_other(config, range(5))
    for processes in (1, 3):
        found = evaluate(
            make_networks(7, 2, 20, ENV_ID), ENV_ID, config, TARGET, range(5), processes=processes
        )
        assert list(zip(found.returns, found.costs, found.lengths)) == expected
    assert len({length for _, _, length in expected}) > 2


def test_timing_and_processes_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Unsteady)
    networks = make_networks(7, 2, 20, ENV_ID)
    config = DeploymentConfig(candidates=2, cost_limit=5.0)

    def run(processes: int) -> tuple[Any, ...]:
        return results(evaluate(networks, ENV_ID, config, TARGET, range(13), processes))

    expected = run(1)
    assert 0.0 < expected[-1] < 1.0
    assert expected[2] == [10 + 7 * seed % 11 for seed in range(13)]
    for processes in (1, 2, 3, 16):
        assert run(processes) == expected


def test_two_batches_that_alternate_change_no_bit_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is done for a policy on a GPU; here that of the CPU."""
    use(monkeypatch, Unsteady)
    networks = make_networks(7, 2, 20, ENV_ID)
    config = DeploymentConfig(candidates=3, cost_limit=5.0)
    series = [Series(networks, config, target, []) for target in (TARGET, -TARGET)]
    parts = [(0, [0, 1, 2]), (0, [3, 4, 5]), (1, [6, 7, 8]), (1, [9])]
    batches = [Batch(*part) for part in parts]

    def run(start: Any, processes: int) -> list[Any]:
        with start(ENV_ID, series, processes, True) as (horizon, run_batches):
            assert horizon == 20
            found = EpisodePool(series, horizon, run_batches).play_batches(batches)
            return [(*results(each), each.traces) for each in found]

    expected = run(evaluation._start_whole_batches, 1)
    assert [len(lengths) for _, _, lengths, *_ in expected] == [6, 4]
    for processes in (1, 2, 3):
        assert run(evaluation._start_alternating, processes) == expected


def test_series_played_together_are_those_played_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever else there is: other limits, models, numbers of episodes."""
    use(monkeypatch, Unsteady)
    networks = [make_networks(7, 2, 20, ENV_ID) for _ in range(2)]
    networks[1].policy.head.weight.mul_(0.5)
    series = [
        Series(net, DeploymentConfig(candidates=candidates, cost_limit=limit), target, seeds)
        for net, limit, target, candidates, seeds in (
            (networks[0], 5.0, TARGET, 1, range(5)),
            (networks[0], 40.0, 2 * TARGET, 3, range(7)),
            (networks[1], 5.0, TARGET, 3, range(4)),
            (networks[0], 5.0, TARGET, 3, range(7)),
        )
    ]
    alone = [results(evaluate_together(ENV_ID, [each])[0]) for each in series]
    assert len({repr(result) for result in alone}) == 4
    for processes in (1, 2, 5):
        together = evaluate_together(ENV_ID, series, processes)
        assert [results(result) for result in together] == alone
    turned = evaluate_together(ENV_ID, series[::-1], 2)
    assert [results(result) for result in turned] == alone[::-1]


class Counted(Unsteady):
    """Leaves a mark for each environment made, in whichever process."""

    folder: ClassVar[Path]

    def __init__(self, env_id: str) -> None:
        super().__init__(env_id)
        tempfile.mkstemp(dir=self.folder)


def test_each_process_makes_its_simulators_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many limits there are: it takes seconds where there are many objects."""
    Counted.folder = tmp_path
    use(monkeypatch, Counted)
    networks = make_networks(7, 2, 20, ENV_ID)
    series = [
        Series(networks, DeploymentConfig(candidates=3, cost_limit=limit), TARGET, range(2))
        for limit in (5.0, 10.0, 20.0)
    ]
    evaluate_together(ENV_ID, series, processes=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_trace_is_the_episode_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where episodes that share the policy's calls have different lengths."""
    use(monkeypatch, Unsteady)
    networks = make_networks(7, 2, 20, ENV_ID)
    config = DeploymentConfig(
        candidates=3, candidate_shift='last', cost_limit=5.0, target_spread=0.8, rule='paper'
    )
    plain, traced = (
        evaluate_together(ENV_ID, [Series(networks, config, TARGET, range(13))], 2, traced)[0]
        for traced in (False, True)
    )
    assert plain.traces is None
    assert results(plain) == results(traced)
    assert len(traced.traces) == 13
    for seed, trace in enumerate(traced.traces):
        assert {len(values) for values in trace.values()} == {traced.lengths[seed]}
        assert sum(trace['rewards']) == pytest.approx(traced.returns[seed])
        assert sum(trace['costs']) == pytest.approx(traced.costs[seed])
        budget = 5.0
        for chosen, shift, feasible, value, cost in zip(
            *(trace[name] for name in ('chosen', 'shift', 'feasible', 'cost_value', 'costs'))
        ):
            drawn = np.random.default_rng(stream(seed, 'candidates')).standard_normal(3)
            expected = 0.0 if chosen == 0 else 0.8 * 100.0 * drawn[chosen]
            assert shift == pytest.approx(expected, rel=1e-5)
            assert feasible == (value <= budget)
            budget -= cost
    infeasible = sum(not fits for trace in traced.traces for fits in trace['feasible'])
    assert infeasible / sum(traced.lengths) == pytest.approx(traced.infeasible_share)
    assert 0.0 < traced.infeasible_share < 1.0


def test_a_trace_of_the_plain_policy_has_no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Unsteady)
    series = Series(make_networks(7, 2, 20, ENV_ID), DeploymentConfig(candidates=1), TARGET, [0])
    (result,) = evaluate_together(ENV_ID, [series], traced=True)
    (trace,) = result.traces
    steps = result.lengths[0]
    assert (trace['chosen'], trace['shift']) == ([0] * steps, [0.0] * steps)
    assert trace['feasible'] == trace['cost_value'] == [None] * steps


def test_how_episodes_share_the_calls_of_the_policy() -> None:
    """The number of cores must not matter: results depend on the batches in the last bits."""
    papers = {'context_len': 10, 'num_layers': 3, 'embed_dim': 128}
    small = {'context_len': 5, 'num_layers': 2, 'embed_dim': 64}

    def sizes(
        episodes: int, device: str, policy: dict[str, int] | None = None, **choice: Any
    ) -> list[int]:
        networks = SimpleNamespace(
            device=torch.device(device), spec={'policy': policy} if policy else {'actor': {}}
        )
        series = Series(networks, DeploymentConfig(**choice), None, [])
        batches = evaluation._split(range(episodes), series)
        assert [seed for batch in batches for seed in batch] == list(range(episodes))
        return [len(batch) for batch in batches]

    assert sizes(1, 'cpu') == [1]
    assert sizes(3, 'cpu') == [2, 1]
    assert sizes(10, 'cpu') == [5, 5]
    assert sizes(21, 'cpu') == [4] * 3 + [3] * 3
    assert sizes(20, 'cpu', papers, candidates=1) == [5] * 4
    assert sizes(20, 'cpu', papers, candidates=50, candidate_shift='last') == [5] * 4
    assert sizes(20, 'cpu', papers, candidates=12) == [1] * 20, 'a call is large enough with one'
    assert sizes(20, 'cpu', papers, candidates=5, rule='discounted_budget') == [3] * 4 + [2] * 4
    assert sizes(20, 'cpu', small, candidates=12, rule='discounted_budget') == [5] * 4
    assert sizes(20, 'cpu', small, candidates=50, rule='discounted_budget') == [2] * 10
    assert sizes(1, 'cuda') == [1]
    assert sizes(21, 'cuda') == [11, 10]
    assert sizes(100, 'cuda') == [13] * 4 + [12] * 4


@pytest.mark.parametrize('processes', [1, 2])
def test_progress_counts_steps_done_and_steps_to_come(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    use(monkeypatch, Unsteady)
    monkeypatch.setattr(evaluation, '_SECONDS_BETWEEN_REPORTS', 0.0)
    seen: list[tuple[int, int]] = []
    result = evaluate(
        make_networks(7, 2, 20, ENV_ID),
        ENV_ID,
        DeploymentConfig(candidates=1),
        TARGET,
        range(3),
        processes,
        on_progress=lambda *counts: seen.append(counts),
    )
    steps = sum(result.lengths)
    assert seen[0][1] == 3 * 20
    assert seen[-1] == (steps, steps)
    assert len(seen) >= steps / 2
    assert all(done <= total for done, total in seen)
    assert seen == sorted(seen, key=lambda counts: (counts[0], -counts[1]))


@pytest.mark.parametrize('processes', [1, 2])
def test_progress_tells_which_series_is_at_work(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    use(monkeypatch, Unsteady)
    monkeypatch.setattr(evaluation, '_SECONDS_BETWEEN_REPORTS', 0.0)
    series = Series(make_networks(7, 2, 20, ENV_ID), DeploymentConfig(candidates=1), TARGET, [0, 1])
    seen: list[tuple[int, int, int]] = []
    found = evaluate_together(
        ENV_ID, [series] * 3, processes, on_progress=lambda *counts: seen.append(counts)
    )
    done, totals, numbers = zip(*seen)
    assert done[-1] == totals[-1] == sum(sum(result.lengths) for result in found)
    assert totals[0] == 3 * 2 * 20
    assert list(numbers) == sorted(numbers)
    assert numbers[0] == 0
    if processes == 1:  # of two, one may be slow and the other ahead of it to the end
        assert set(numbers) == {0, 1, 2}


class Scripted:
    """Steps each worth the seed in reward and twice the seed in cost; two to four of them."""

    horizon = 4

    def __init__(self, env_id: str) -> None:
        self._seed = self._left = 0

    def reset(self, seed: int) -> np.ndarray:
        self._seed, self._left = seed, 2 + seed % 3
        return np.full(7, seed, dtype=np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        self._left -= 1
        observation = np.full(7, self._seed, dtype=np.float32)
        return observation, self._seed, 2.0 * self._seed, self._left == 0

    def close(self) -> None:
        pass


class Watched(RolloutPolicy):
    """Keeps what the policy is told."""

    told: ClassVar[dict[int, list[tuple[float, float]]]] = {}

    def act(self, observations: np.ndarray) -> torch.Tensor:
        self.seeds = [round(first) for first in observations[:, 0].tolist()]
        return super().act(observations)

    def observe(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        super().observe(rewards, costs)
        for seed, *received in zip(self.seeds, rewards.tolist(), costs.tolist()):
            self.told.setdefault(seed, []).append(tuple(received))


def test_each_episode_hears_of_its_own_rewards_and_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it shares the policy's calls, and of none once it has ended."""
    use(monkeypatch, Scripted)
    monkeypatch.setattr(deployable, 'RolloutPolicy', Watched)
    networks = make_networks(7, 2, 4, ENV_ID)
    seeds = range(1, 14)
    result = evaluate(networks, ENV_ID, DeploymentConfig(candidates=1), TARGET, seeds)
    assert result.lengths == [2 + seed % 3 for seed in seeds]
    for seed, length in zip(seeds, result.lengths):
        told = Watched.told[seed]
        assert told[:length] == [(seed, 2.0 * seed)] * length
        assert set(told[length:]) <= {(0.0, 0.0)}
    assert result.returns == [float(seed * length) for seed, length in zip(seeds, result.lengths)]
    assert result.costs == [2.0 * value for value in result.returns]


def test_steps_of_ended_episodes_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows stay in the policy's batch until the longest has ended."""
    use(monkeypatch, Scripted)
    networks = make_networks(7, 2, 4, ENV_ID)
    config = DeploymentConfig(candidates=3, candidate_shift='last', cost_limit=30.0)

    def infeasible_steps(seeds: Any) -> float:
        result = evaluate(networks, ENV_ID, config, TARGET, seeds)
        return result.infeasible_share * sum(result.lengths)

    alone = sum(infeasible_steps([seed]) for seed in range(1, 14))
    assert 0 < alone < sum(2 + seed % 3 for seed in range(1, 14))
    assert infeasible_steps(range(1, 14)) == pytest.approx(alone)


# -- what goes wrong ------------------------------------------------------------------------------


class Troubled(Scripted):
    """Fails in a way that the seed chooses."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        if self._seed == 92:
            raise UserError('there is no road')
        if self._seed == 95:
            time.sleep(3600)  # the test would not end
        return super().step(action)


def test_an_error_of_an_environment_ends_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: the other processes may be in the middle of something long."""
    use(monkeypatch, Troubled)
    networks = make_networks(7, 2, 4, ENV_ID)
    with pytest.raises(UserError, match='there is no road'):
        evaluate(networks, ENV_ID, DeploymentConfig(candidates=1), TARGET, [95, 92], 2)
    assert not multiprocessing.active_children()


def test_an_environment_that_cannot_be_made_is_told() -> None:
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    for processes in (1, 2):
        with pytest.raises((RuntimeError, ValueError), match='NoSuchTask'):
            evaluate(networks, 'NoSuchTask-v0', DeploymentConfig(), TARGET, range(2), processes)
    assert not multiprocessing.active_children()


def test_an_interruption_ends_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Troubled)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    networks = make_networks(7, 2, 4, ENV_ID)
    config = DeploymentConfig(candidates=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(networks, ENV_ID, config, TARGET, [95, 1], 2, on_progress=interrupt)
    assert not multiprocessing.active_children()


def test_observations_of_another_size_are_refused() -> None:
    networks = make_networks(3, 2, HORIZON, ENV_ID)  # the environment has 7 observations
    for processes in (1, 2):
        with pytest.raises(UserError, match='observation has shape'):
            evaluate(networks, ENV_ID, DeploymentConfig(candidates=1), 1.0, [0, 1], processes)


# -- real environments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('env_id', 'horizon', 'obs_dim', 'act_dim'),
    [('SafetyPointCircle1-v0', 500, 28, 2), ('SafetySwimmerVelocity-v1', 1000, 8, 2)],
)
def test_episodes_last_as_long_as_the_task(
    env_id: str,
    horizon: int,
    obs_dim: int,
    act_dim: int,
) -> None:
    """OmniSafe's own loops stop at 1000 steps whatever the task."""
    env = make_env(env_id)
    assert horizon_of(env) == horizon
    env.close()
    networks = make_networks(obs_dim, act_dim, horizon, env_id)
    config = DeploymentConfig(candidates=1)
    result = evaluate(networks, env_id, config, TARGET, [7])
    assert result.lengths == [horizon]


def test_a_seed_fixes_an_episode_whatever_was_run_before() -> None:
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    config = DeploymentConfig(candidates=3)
    first = evaluate(networks, ENV_ID, config, TARGET, [7, 8])
    np.random.seed(1)
    torch.manual_seed(1)
    second = evaluate(networks, ENV_ID, config, TARGET, [8, 7])
    assert second.returns == first.returns[::-1]
    assert first.returns[0] != first.returns[1]


@pytest.mark.slow
def test_an_environments_first_episode_is_like_its_later_ones() -> None:
    """In Safety-Gymnasium itself it differs in the last bits, with this seed at the reset."""
    used, new = (environments.NumpyEnvironment('SafetyCarButton1-v0') for _ in range(2))
    used.reset(1)
    np.testing.assert_array_equal(new.reset(4), used.reset(4))


def test_threads_of_this_process_do_not_matter() -> None:
    """Processes are forked from this one, in which torch may have started threads."""
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    config = DeploymentConfig(candidates=3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        matrix = torch.rand(600, 600, requires_grad=True)
        (matrix @ matrix).sum().backward()
        expected = results(evaluate(networks, ENV_ID, config, TARGET, range(4)))
        assert torch.get_num_threads() == 2
        assert results(evaluate(networks, ENV_ID, config, TARGET, range(4), 2)) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('processes', [1, 3])
def test_a_policy_on_a_gpu_plays_the_same_episodes(processes: int) -> None:
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    config = DeploymentConfig(candidates=1)
    expected = evaluate(networks, ENV_ID, config, TARGET, range(5))
    networks.to('cuda')
    found = evaluate(networks, ENV_ID, config, TARGET, range(5), processes)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-2)
    assert found.lengths == expected.lengths
    again = evaluate(networks, ENV_ID, config, TARGET, range(5), 4 - processes)
    assert results(again) == results(found)
