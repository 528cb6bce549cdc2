# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's evaluator for runs of this package's algorithms."""

from __future__ import annotations

import functools
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.algorithms import is_known
from omnisafe_qpt.compat import reach
from omnisafe_qpt.errors import UserError, printable


if TYPE_CHECKING:
    from types import ModuleType


def load_saved_runs(evaluator: ModuleType) -> None:
    """Let OmniSafe's evaluator load our runs.

    OmniSafe only loads actors that map one observation to one action. Our deployed policy also
    needs the rewards and costs, so it comes with an environment that passes them on.
    """
    evaluator_class = reach(evaluator, 'Evaluator')
    config_class = reach(evaluator, 'Config')
    original = reach(evaluator_class, 'load_saved')

    @functools.wraps(original)
    def load_saved(
        self: Any,
        save_dir: str,
        model_name: str,
        render_mode: str = 'rgb_array',
        camera_name: str | None = None,
        camera_id: int | None = None,
        width: int = 256,
        height: int = 256,
    ) -> None:
        cfgs = _read_run(save_dir)
        if not is_known(cfgs.get('algo')):
            original(self, save_dir, model_name, render_mode, camera_name, camera_id, width, height)
            return
        from omnisafe_qpt.omnisafe_plugin.adapter import build_evaluation
        from omnisafe_qpt.omnisafe_plugin.import_hooks import require_available

        require_available()

        env_kwargs = {
            'env_id': cfgs['env_id'],
            'num_envs': 1,
            'render_mode': render_mode,
            'camera_id': camera_id,
            'camera_name': camera_name,
            'width': width,
            'height': height,
            **(cfgs.get('env_cfgs') or {}),
        }
        # The attributes that Evaluator.evaluate and Evaluator.render read.
        self._save_dir, self._model_name, self._render_mode = save_dir, model_name, render_mode
        self._dict_cfgs, self._cfgs = cfgs, config_class.dict2config(cfgs)
        self._env, self._actor = build_evaluation(save_dir, model_name, cfgs, env_kwargs)

    evaluator_class.load_saved = load_saved


def _read_run(folder: str) -> dict[str, Any]:
    """Read a run's configuration; empty if there is none, which OmniSafe reports itself.

    Raises:
        UserError: If it is damaged, or is of one of our algorithms and not valid.
    """
    from pathlib import Path

    from omnisafe_qpt.schema import read_json, record, text

    path = Path(folder, 'config.json')
    if not path.is_file():
        return {}
    cfgs = read_json(path, record({}, {'algo': text()}))
    if not is_known(cfgs.get('algo')):
        return cfgs
    from omnisafe_qpt.runs.records import read_config

    return read_config(path.parent)


def evaluate_runs(params: dict[str, Any]) -> bool:
    """Evaluate the runs in a folder, if they are of our algorithms.

    OmniSafe's own command accepts only the parent of the seeds' folders, stops at the first seed
    without a checkpoint, and ignores ``--render-mode``.

    Args:
        params (dict[str, Any]): The parameters of ``omnisafe eval``.

    Returns:
        Whether the folder is one of ours; OmniSafe handles other folders.

    Raises:
        UserError: If nothing in the folder can be evaluated.
    """
    folder = params['result_dir']
    if not os.path.isdir(folder):
        return False
    candidates = [folder, *sorted(item.path for item in os.scandir(folder) if item.is_dir())]
    runs = [run for run in candidates if is_known(_read_run(run).get('algo'))]
    if not runs:
        if not any(os.path.isdir(os.path.join(run, 'torch_save')) for run in candidates):
            raise UserError(f'{folder} is not a run: it has no seed-*/torch_save folder')
        return False
    models = [(run, model) for run in runs for model in _saved_models(run)]
    if not models:
        raise UserError(f'{folder} has no checkpoint yet: nothing in its torch_save folders')
    for run, model in models:
        print(printable(f'Evaluating {os.path.join(run, "torch_save", model)}'))
        _evaluate_model(run, model, params)
    return True


def _saved_models(run: str) -> list[str]:
    """List a run's checkpoints, the oldest first."""
    folder = os.path.join(run, 'torch_save')
    names = os.listdir(folder) if os.path.isdir(folder) else []
    models = [name for name in names if name.endswith('.pt')]
    return sorted(models, key=lambda name: [int(digits) for digits in re.findall(r'\d+', name)])


def _evaluate_model(run: str, model: str, params: dict[str, Any]) -> None:
    """Evaluate or render one checkpoint as ``omnisafe eval`` does."""
    from omnisafe.evaluator import Evaluator

    evaluator = Evaluator(render_mode=params['render_mode'])
    evaluator.load_saved(
        save_dir=run,
        model_name=model,
        **{name: params[name] for name in ('render_mode', 'camera_name', 'width', 'height')},
    )
    if not params['render']:
        evaluator.evaluate(num_episodes=params['num_episode'])
        return
    try:
        evaluator.render(num_episodes=params['num_episode'])
    except UserError:
        raise
    except Exception as error:
        _delete_silently(error)
        raise UserError(
            f'rendering failed with MUJOCO_GL={os.environ.get("MUJOCO_GL", "unset")} '
            f'({type(error).__name__}: {error}): on a machine without a display set MUJOCO_GL=egl, '
            'or use --no-render',
        ) from error


def _delete_silently(error: Exception) -> None:
    """Suppress a second failure: MuJoCo's viewer fails again when it is deleted."""
    import traceback

    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook
