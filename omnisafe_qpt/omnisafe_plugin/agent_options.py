# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of an OmniSafe agent or grid: merged in order of precedence, and checked."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.algorithms import ALGORITHMS, SLOW_ON_CPU, is_known
from omnisafe_qpt.compat import reach
from omnisafe_qpt.errors import UserError, nearest, printable, shell_command
from omnisafe_qpt.omnisafe_plugin.command_line import reporting, running_command


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def configure_agents(algo_wrapper: ModuleType) -> None:
    """Patch OmniSafe so that it merges and checks our algorithms' configurations here.

    OmniSafe merges the YAML file, the custom options and the command line's flags in
    ``AlgoWrapper._init_config``, without checks. Presets, checks and automatic values are added
    there.
    """
    agent_class = reach(algo_wrapper, 'AlgoWrapper')
    original = reach(agent_class, '_init_config')

    @functools.wraps(original)
    def _init_config(self: Any) -> Any:
        if not is_known(self.algo):
            _check_name(self.algo)
            return original(self)
        from omnisafe_qpt.omnisafe_plugin.import_hooks import require_available

        require_available()
        from omnisafe_qpt.training.distributed import join_processes, report_errors_from_first_rank
        from omnisafe_qpt.workers import refuse_reimport

        refuse_reimport()
        with report_errors_from_first_rank():
            _require_environment(self)
            _prepare_options(self)
            cfgs = original(self)
            _settle_machine(cfgs)
            # Before OmniSafe does the same, with a timeout too short for slow evaluations.
            join_processes(cfgs.train_cfgs.device)
        return cfgs

    agent_class._init_config = _init_config
    for name in ('evaluate', 'render', 'plot'):
        method = _in_first_process(reach(agent_class, name))
        method = _requiring_episodes(method) if name == 'plot' else method
        setattr(agent_class, name, reporting(method, _is_own_agent))


def _is_own_agent(agent: Any) -> bool:
    return is_known(agent.algo)


def _check_name(algo: Any) -> None:
    """Refuse a name that OmniSafe does not know and that resembles one of ours.

    Raises:
        UserError: If it is misspelled or no text.
    """
    from omnisafe.algorithms import ALGORITHMS as KNOWN

    if not isinstance(algo, str):
        raise UserError(f'algo must be the name of an algorithm, not {algo!r}')
    if algo in KNOWN['all']:
        return
    plain = algo.replace('-', '').replace('_', '').upper()
    upper = {name.upper(): name for name in ALGORITHMS}
    for name in nearest(plain, upper, count=1):
        raise UserError(
            f'unknown algorithm {algo!r}: names are case-sensitive; did you mean {upper[name]}?',
        )


def _in_first_process(method: Callable[..., Any]) -> Callable[..., Any]:
    """Do work on the run folder in the first process only, as the others have none."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        from omnisafe_qpt.training.distributed import Launch

        if _is_own_agent(self) and Launch.from_environment().rank > 0:
            return None
        return method(self, *args, **kwargs)

    return wrapper


def _requiring_episodes(plot: Callable[..., Any]) -> Callable[..., Any]:
    """Check before a plot that the run has returns."""

    @functools.wraps(plot)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_own_agent(self):
            train_cfgs = self.cfgs.train_cfgs
            if not (train_cfgs.evaluate_epoisodes or train_cfgs.final_evaluate_episodes):
                raise UserError(
                    'plot: this run has no episodes to show, as train_cfgs:evaluate_epoisodes and '
                    'train_cfgs:final_evaluate_episodes are 0; for its losses use '
                    + shell_command(['omnisafe-qpt', 'report', str(self.agent.logger.log_dir)]),
                )
        return plot(self, *args, **kwargs)

    return wrapper


def _require_environment(agent: Any) -> None:
    """Import the modules in the user's options, and check that the environment exists."""
    from omnisafe_qpt.envs.user_modules import import_modules, module_names, require_environment
    from omnisafe_qpt.runs.checkpoint import find_run
    from omnisafe_qpt.runs.records import read_config

    train_cfgs = _user_options(agent).get('train_cfgs')
    options = train_cfgs if isinstance(train_cfgs, dict) else {}
    import_modules(options.get('import'), 'train_cfgs:import')
    resumed, modules = options.get('resume'), []
    if resumed not in (None, 'latest'):
        recorded = read_config(find_run(str(resumed)))['train_cfgs']
        modules = module_names(recorded.get('import'), f'train_cfgs:import of {resumed}')
    require_environment(agent.env_id, modules)


def _prepare_options(agent: Any) -> None:
    """Check the user's options and merge them in order of precedence.

    From lowest to highest: the algorithm's YAML, the preset, the settings of a resumed run, the
    user's options, the flags on the command line.
    """
    from omnisafe_qpt.settings.checks import (
        check_choices,
        check_counts,
        resolve_target_return,
        validate,
    )
    from omnisafe_qpt.settings.files import OFFLINE_ENV_ID, load_defaults, load_preset, merge

    defaults = load_defaults(agent.env_id, agent.algo)
    options = _user_options(agent)
    command = running_command()
    validate(options, defaults, command.source if command else 'custom_cfgs')
    flags = _given_flags(agent.train_terminal_cfgs or {})
    validate({'train_cfgs': flags}, defaults, 'train_terminal_cfgs')
    settings = _settings_to_resume(agent, options, flags, defaults)
    preset = options.get('train_cfgs', {}).get('preset', defaults['train_cfgs'].get('preset'))
    if preset is not None:
        preset_settings = load_preset(str(preset), agent.algo, agent.env_id)
        validate(preset_settings, defaults, f'the preset {preset}')
        settings = merge(preset_settings, settings)
    if agent.env_id == OFFLINE_ENV_ID:
        settings = merge(settings, _without_episodes(options))
    options = merge(settings, options)
    complete = merge(merge(defaults, options), {'train_cfgs': flags})
    _check_train_cfgs(complete['train_cfgs'], agent.env_id)
    check_counts(complete)
    check_choices(complete)
    algo_cfgs = complete['algo_cfgs']  # for the baselines without a target
    resolve_target_return(algo_cfgs.get('target_return'), agent.env_id, algo_cfgs['cost_limit'])
    agent.custom_cfgs = options
    if agent.train_terminal_cfgs is not None:
        # OmniSafe reads these two without checking that they exist.
        agent.train_terminal_cfgs = {'parallel': 1, 'vector_env_nums': 1, **flags}


def _settings_to_resume(
    agent: Any,
    options: dict[str, Any],
    flags: dict[str, Any],
    defaults: dict[str, Any],
) -> dict[str, Any]:
    """Read the settings of the run to resume, if there is one, and name it in the options."""
    from omnisafe_qpt.runs.resume import run_to_resume, settings_to_resume
    from omnisafe_qpt.settings.files import merge
    from omnisafe_qpt.training.distributed import Launch

    if options.get('train_cfgs', {}).get('resume') is None:
        return {}
    run = run_to_resume(agent.algo, options, agent.env_id, defaults)
    if run is None and Launch.from_environment().rank == 0:
        text = f'No run of {agent.algo} in {agent.env_id} to resume yet: this is a new one'
        print(printable(text))
    options['train_cfgs']['resume'] = None if run is None else str(run)
    if run is None:
        return {}
    given = merge(options, {'train_cfgs': flags})
    command = running_command()
    allow_hooks = command is not None and command.allows_hooks
    return settings_to_resume(run, agent.algo, given, agent.env_id, defaults, allow_hooks)


def _without_episodes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without a simulator, in which no episode can be run.

    Raises:
        UserError: If the user asks for one.
    """
    given = options.get('train_cfgs', {})
    for name in ('evaluate_epoisodes', 'final_evaluate_episodes'):
        if given.get(name):
            raise UserError(
                f'train_cfgs:{name} is {given[name]}: there is no simulator; leave it out'
            )
    return {'train_cfgs': {'evaluate_epoisodes': 0, 'final_evaluate_episodes': 0}}


def _check_train_cfgs(train_cfgs: dict[str, Any], env_id: str) -> None:
    """Refuse values at which OmniSafe itself would fail later, with a worse message."""
    from omnisafe_qpt.schema import components
    from omnisafe_qpt.settings.files import OFFLINE_ENV_ID

    horizon = train_cfgs['horizon']
    if env_id == OFFLINE_ENV_ID and train_cfgs.get('calibrate') == 'simulator':
        raise UserError('train_cfgs:calibrate simulator: there is none; give auto, model or none')
    if horizon is not None and env_id != OFFLINE_ENV_ID:
        raise UserError(
            f'train_cfgs:horizon is {horizon}: {env_id} has its own; it is for {OFFLINE_ENV_ID}'
        )
    is_whole = isinstance(horizon, int) and not isinstance(horizon, bool)
    if horizon is not None and not (is_whole and horizon >= 1):
        raise UserError(f'train_cfgs:horizon must be a whole number, at least 1, not {horizon!r}')
    try:
        components(train_cfgs.get('exogenous'))
    except UserError as error:
        raise UserError(f'train_cfgs:exogenous: {error}') from error
    for name in ('parallel', 'vector_env_nums'):
        if train_cfgs[name] != 1:
            raise UserError(f'{name} must be 1 for an offline algorithm, not {train_cfgs[name]}')


def _user_options(agent: Any) -> dict[str, Any]:
    """Return the user's options, including those that OmniSafe's command line overrides."""
    from omnisafe_qpt.settings.files import for_environment, merge, only_options

    options = merge({}, agent.custom_cfgs or {})
    command = running_command()
    if command is not None and command.sets_options:
        log_dir = options['logger_cfgs']['log_dir']
        options = merge(options, command.user_options())
        # What is no section is refused later, so it stays as it is.
        if command.modules and isinstance(options.get('train_cfgs', {}), dict):
            options = merge(options, {'train_cfgs': {'import': ','.join(command.modules)}})
        if 'log_dir' in command.given and isinstance(options['logger_cfgs'], dict):
            options['logger_cfgs']['log_dir'] = log_dir
    return only_options(for_environment(options, agent.env_id))


def _given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Return only the flags that were given; OmniSafe's command line passes all."""
    from omnisafe_qpt.settings.files import only_options

    command = running_command()
    return {
        name: value
        for name, value in only_options(flags).items()
        if command is None or not command.sets_options or name in command.given
    }


def _settle_machine(cfgs: Any) -> None:
    """Replace ``auto`` with this process's device and number of threads."""
    from omnisafe_qpt.settings.files import load_defaults
    from omnisafe_qpt.settings.machine import AUTO, resolve_acceleration
    from omnisafe_qpt.training.distributed import Launch

    train_cfgs, launch = cfgs.train_cfgs, Launch.from_environment()
    found = train_cfgs.device == AUTO
    train_cfgs.device = launch.device(train_cfgs.device)
    train_cfgs.torch_threads = launch.threads(train_cfgs.torch_threads)
    train_cfgs.accelerate = resolve_acceleration(
        train_cfgs.accelerate,
        train_cfgs.device,
        launch.size,
    )
    launch.check_batch(cfgs.algo_cfgs.batch_size)
    if found and train_cfgs.device == 'cpu' and launch.rank == 0:
        message = f'No CUDA device: training on the CPU with {train_cfgs.torch_threads} thread(s)'
        usual = load_defaults(cfgs.env_id, cfgs.algo)['algo_cfgs']['batch_size']
        if cfgs.algo in SLOW_ON_CPU and cfgs.algo_cfgs.batch_size >= usual:
            message += (
                ', where an update of the default size takes seconds, and a run days; for a run of '
                'minutes add --custom-cfgs train_cfgs:preset --custom-cfgs cpu'
            )
        print(message, file=sys.stderr)


def check_grids(experiment_grid: ModuleType) -> None:
    """Patch the experiment grid so that it checks variants of our algorithms.

    The grid has its own copy of the path to OmniSafe's YAML files. It also hides the errors of
    evaluation and rendering.
    """
    grid = reach(experiment_grid, 'ExperimentGrid')
    original = reach(grid, 'check_variant_vaild')

    @functools.wraps(original)
    def check_variant_vaild(self: Any, variant: dict[str, Any]) -> None:
        algo = variant.get('algo')
        if not is_known(algo):
            _check_name(algo)
            original(self, variant)
            return
        from omnisafe_qpt.settings.checks import validate
        from omnisafe_qpt.settings.files import load_defaults, only_options

        validate(only_options(variant), load_defaults(variant['env_id'], algo), 'the grid')

    grid.check_variant_vaild = check_variant_vaild
    for name in ('evaluate', 'render'):
        setattr(grid, name, reporting(reach(grid, name), _has_own_variants))


def _has_own_variants(grid: Any) -> bool:
    return 'algo' in grid.keys and any(map(is_known, grid.vals[grid.keys.index('algo')]))
