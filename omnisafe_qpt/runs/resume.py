# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Resuming a run: its folder and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisafe_qpt.errors import UserError, shell_command
from omnisafe_qpt.runs.checkpoint import find_run
from omnisafe_qpt.runs.records import CONFIG_FILE, read_config
from omnisafe_qpt.settings.files import known_part, merge


# The value of train_cfgs:resume for the newest run, if there is one.
LATEST = 'latest'

# Options that may differ from the run's settings. They do not affect the weights, or only their
# last bits; except the number of updates, as a run may be extended. The dataset is compared by its
# content.
_MAY_DIFFER = {
    'train_cfgs': {
        'dataset',
        'import',
        'init_from',
        'device',
        'torch_threads',
        'total_steps',
        'evaluate_epoisodes',
        'final_evaluate_episodes',
        'calibrate',
        'calibrate_episodes',
        'exogenous',
        'patience',
        'evaluate_processes',
        'resume',
        'accelerate',
        'data_device',
        'deterministic',
    },
    'algo_cfgs': {'precision'},  # what it became is compared with the weights' state
    'logger_cfgs': {'use_wandb', 'wandb_project', 'use_tensorboard', 'save_model_freq', 'log_dir'},
}
_NOT_WORTH_SAYING = {
    'dataset',
    'init_from',
    'import',
    'resume',
    'preset',
    'evaluate_processes',
    'log_dir',
    'epochs',  # OmniSafe's, from the number of updates
}

# Options that a resumed run decides anew.
_NOT_FROM_RUNS = {
    # The number of threads stays: another one changes the last bits of sums.
    'train_cfgs': (
        'device',
        'preset',
        'resume',
        'evaluate_processes',
        'accelerate',
        'data_device',
        'import',  # only the user decides what is imported
    ),
    'logger_cfgs': ('log_dir',),
}


def resume_command(
    algo: str,
    env_id: str,
    run: Path,
    modules: Sequence[str] = (),
    allow_hooks: bool = False,
) -> str:
    """Return the command that resumes a run.

    Args:
        algo (str): The algorithm.
        env_id (str): The environment.
        run (Path): The run's folder.
        modules (Sequence[str], optional): The user's modules that register the environment.
        allow_hooks (bool, optional): Whether the run has a user's augmentation hook. Defaults to
            False.
    """
    words = ['omnisafe', 'train', '--algo', algo, '--env-id', env_id]
    if modules:
        words += ['--import', ','.join(modules)]
    if allow_hooks:
        words.append('--allow-hooks')
    words += ['--custom-cfgs', 'train_cfgs:resume', '--custom-cfgs', str(run)]
    return shell_command(words)


def latest_run(algo: str, log_dir: str, env_id: str, seed: int | None = None) -> Path | None:
    """Find the latest run.

    Args:
        algo (str): The algorithm.
        log_dir (str): ``logger_cfgs.log_dir``.
        env_id (str): The environment of the run.
        seed (int, optional): Its seed. Defaults to None, any.

    Returns:
        Its folder, None if there is none.
    """
    seeds = '*' if seed is None else f'{seed:03d}'
    pattern = f'{algo}-{{{env_id}}}-*/seed-{seeds}-*/{CONFIG_FILE}'
    runs = [file.parent for file in Path(log_dir).expanduser().glob(pattern)]
    return max(runs, key=_start, default=None)


def _start(run: Path) -> list[int]:
    """Return when a run was started, as seed-000-2026-01-31-12-00-00 says.

    Runs of the same second have an additional number, starting at 2.
    """
    parts = run.name.split('-')[2:]
    return [int(part) if part.isdecimal() else 0 for part in parts]


def run_to_resume(
    algo: str,
    options: dict[str, Any],
    env_id: str,
    defaults: dict[str, Any],
) -> Path | None:
    """Find the run that ``train_cfgs:resume`` refers to, if any.

    Args:
        algo (str): The algorithm.
        options (dict[str, Any]): The options that the user gave.
        env_id (str): The requested environment.
        defaults (dict[str, Any]): The default configuration.

    Raises:
        UserError: If the named run does not exist.
    """
    wish = options.get('train_cfgs', {}).get('resume')
    if wish is None:
        return None
    if wish != LATEST:
        return find_run(str(wish))
    log_dir = {**defaults['logger_cfgs'], **options.get('logger_cfgs', {})}['log_dir']
    return latest_run(algo, log_dir, env_id, options.get('seed'))


def settings_to_resume(
    run: Path,
    algo: str,
    options: dict[str, Any],
    env_id: str,
    defaults: dict[str, Any],
    allow_hooks: bool = False,
) -> dict[str, Any]:
    """Read the settings of the resumed run, and check the user's options against them.

    Args:
        run (Path): The run's folder.
        algo (str): The requested algorithm.
        options (dict[str, Any]): The options that the user gave.
        env_id (str): The requested environment.
        defaults (dict[str, Any]): The default configuration.
        allow_hooks (bool, optional): Whether the user allows to import and call the run's
            augmentation hook, which is code. Defaults to False.

    Raises:
        UserError: If the run is of another algorithm or environment, was started with other
            settings, or has a hook that the user has neither allowed nor named.
    """
    record = read_config(run)
    if record['algo'] != algo:
        raise UserError(f'{run} is a run of {record["algo"]}, not of {algo}')
    if record['env_id'] != env_id:
        raise UserError(f'{run} is a run in {record["env_id"]}, not in {env_id}')
    # For an option that did not exist then, its default is assumed.
    started_with = merge(defaults, record)
    for path, (before, now) in changed_settings(started_with, options).items():
        section, _, name = path.partition(':')
        if name not in _MAY_DIFFER.get(section, ()):
            raise UserError(
                f'{run} was started with {path} = {before}, not {now}; leave it out, or '
                'start a new run',
            )
    hook = foreign_hook(record, defaults)
    is_named = 'augmentation_hook' in options.get('algo_cfgs', {})
    if hook is not None and not (is_named or allow_hooks):
        raise UserError(
            f'{run} was trained with the augmentation hook {hook!r}, code of its author, '
            'which runs only on request: add --allow-hooks, or name it in '
            'algo_cfgs:augmentation_hook',
        )
    return run_settings(record, defaults)


def foreign_hook(cfgs: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Return the augmentation hook of a configuration if it is not the package's own.

    Args:
        cfgs (dict[str, Any]): The configuration.
        defaults (dict[str, Any]): The algorithm's defaults, with the package's own hook, if any.
    """
    own = defaults['algo_cfgs'].get('augmentation_hook')
    hook = cfgs['algo_cfgs'].get('augmentation_hook', own)
    return None if hook == own else hook


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare configurations.

    Args:
        before (dict[str, Any]): One of them.
        now (dict[str, Any]): The other one; options in only one of them are ignored.

    Returns:
        The differing values, by the option's path.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            inner = changed_settings(old, new)
            changed.update({f'{name}:{path}': values for path, values in inner.items()})
        elif old != new:
            changed[name] = (old, new)
    return dict(sorted(changed.items()))


def describe_changes(run: Path, now: dict[str, Any]) -> str:
    """Return the changed settings since a run's last session, in one line; may be empty.

    Args:
        run (Path): The run's folder.
        now (dict[str, Any]): The complete configuration.
    """
    before = read_config(run)
    return ', '.join(
        f'{path} {old} -> {new}'
        for section in _MAY_DIFFER
        for path, (old, new) in changed_settings(before[section], now[section]).items()
        if path not in _NOT_WORTH_SAYING
    )


def run_settings(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a run was started with, to resume it.

    Args:
        config (dict): The run's configuration.
        defaults (dict): The default configuration; entries that it lacks, such as records, are left
            out.

    Returns:
        The run's configuration without entries of the machine and of the new run: device, log
        folder, preset, and the run that it resumed.
    """
    settings = known_part(config, defaults)
    settings['train_cfgs']['dataset'] = config['dataset_record']['path']
    for section, names in _NOT_FROM_RUNS.items():
        for name in names:
            settings[section].pop(name, None)
    return settings
