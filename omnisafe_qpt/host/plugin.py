# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""How QPT and the others join OmniSafe: the only module that reaches into OmniSafe's internals.

OmniSafe has no door for plugins: its list of algorithms is frozen while ``omnisafe`` is imported.
Gymnasium has one, and OmniSafe imports gymnasium before its own algorithms. So gymnasium calls
:func:`install`, in every process that imports it, and ``install`` leaves hooks that run when
OmniSafe's modules are imported. Each hook below states what it reaches for and why.

Everyone who uses gymnasium pays for this module: it imports the standard library only, and it
must never raise.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.errors import UserError, disk_problem, printable, shell_command


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType


# The algorithms, by the names that OmniSafe's users give, and the modules of their classes.
ALGORITHMS = {
    'QPT': 'omnisafe_qpt.host.algorithm',
    'CDT': 'omnisafe_qpt.host.algorithm',
    'BCSafe': 'omnisafe_qpt.host.baselines',
    'CPQ': 'omnisafe_qpt.host.baselines',
    'FISOR': 'omnisafe_qpt.host.baselines',
}
# Those of which an update of the default size takes seconds on a CPU.
_SLOW_ON_CPU = ('QPT', 'CDT')
KNOWN_VERSIONS = ('0.5.0',)


class _UnknownOmniSafe(Exception):
    """The installed OmniSafe lacks something that a hook reaches for."""


# Why they cannot be used with the installed OmniSafe; empty when all is well.
_problems: list[BaseException] = []

# The command of OmniSafe's command line that is running, if one is.
_command: _Command | None = None


def install() -> None:
    """Arrange for the algorithms to join OmniSafe as soon as OmniSafe is imported.

    Called by ``import gymnasium`` through the entry point group ``gymnasium.envs``. Calling it
    again changes nothing.
    """
    try:
        if any(isinstance(finder, _HookFinder) for finder in sys.meta_path):
            return
        sys.meta_path.insert(0, _HookFinder())
        for name, hook in _HOOKS.items():
            # Imported before gymnasium was, which no known OmniSafe does.
            if name in sys.modules and not _is_loading(sys.modules[name]):
                _run_hook(hook, sys.modules[name])
    except Exception as error:  # noqa: BLE001 - a broken plugin must not break gymnasium
        print(f'omnisafe-qpt could not be set up: {error!r}', file=sys.stderr)


def _is_loading(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, '_initializing', False))


# -- hooks on imports -----------------------------------------------------------------------------


class _HookFinder(importlib.abc.MetaPathFinder):
    """Lets the other finders find a module, and wraps its loader where there is a hook for it."""

    def find_spec(
        self,
        fullname: str,
        path: Any = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module that has a hook; all others are left to the other finders."""
        is_simulator = fullname.partition('.')[0] == 'safety_gymnasium'
        if not is_simulator and fullname not in _HOOKS:
            return None
        spec = self._find_elsewhere(fullname, path, target)
        if spec is None and fullname == _OLD_VELOCITY_TASKS:
            spec = _find_velocity_tasks(path)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            context = _array_defaults if is_simulator else contextlib.nullcontext
            spec.loader = _HookLoader(spec.loader, context, _HOOKS.get(fullname))
        return spec

    def _find_elsewhere(self, fullname: str, path: Any, target: Any) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _HookLoader(importlib.abc.Loader):
    """Runs a module within a context and calls the hook afterwards.

    The module keeps its true loader, so that nothing that looks at it later sees a difference.
    """

    def __init__(
        self,
        loader: Any,
        context: Callable[[], contextlib.AbstractContextManager[None]],
        hook: Callable[[ModuleType], None] | None,
    ) -> None:
        self._loader = loader
        self._context = context
        self._hook = hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the true loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then call the hook."""
        module.__loader__ = module.__spec__.loader = self._loader
        with self._context():
            self._loader.exec_module(module)
        if self._hook is not None:
            _run_hook(self._hook, module)


def _run_hook(hook: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Run a hook; what goes wrong is kept for whoever asks for one of the algorithms."""
    _check_version()
    try:
        hook(module)
    except Exception as error:  # noqa: BLE001 - the other algorithms must go on working
        _problems.append(error)


def _reach(owner: Any, name: str) -> Any:
    """Take something of OmniSafe's that another version may lack."""
    if not hasattr(owner, name):
        raise _UnknownOmniSafe(f'{owner.__name__} has no {name}')
    return getattr(owner, name)


@functools.cache
def _check_version() -> None:
    """Say once when the installed OmniSafe is not one that this module was written for."""
    version = _omnisafe_version()
    if version not in KNOWN_VERSIONS:
        print(
            f'omnisafe-qpt was written for OmniSafe {" or ".join(KNOWN_VERSIONS)}, and OmniSafe '
            f'{version} is installed: its algorithms may fail; {_remedy()}',
            file=sys.stderr,
        )


def _omnisafe_version() -> str:
    from importlib import metadata

    try:
        return metadata.version('omnisafe')
    except metadata.PackageNotFoundError:
        return 'of unknown version'


def _remedy() -> str:
    return f"pip install 'omnisafe=={KNOWN_VERSIONS[-1]}'"


def require_available() -> None:
    """Import the algorithms' classes, so that OmniSafe finds them; refuse to start without.

    Raises:
        UserError: If a hook failed or a class cannot be imported.
    """
    try:
        for module in ALGORITHMS.values():
            importlib.import_module(module)
        problem = next(iter(_problems), None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why
        problem = error
    if problem is None:
        return
    reason = f'{type(problem).__name__}: {problem}'
    if isinstance(problem, _UnknownOmniSafe):
        reason = f'it does not know OmniSafe {_omnisafe_version()}: {problem}; {_remedy()}'
    raise UserError(f'omnisafe-qpt is not available, {reason}') from problem


# -- Safety-Gymnasium -----------------------------------------------------------------------------


@contextlib.contextmanager
def _array_defaults() -> Iterator[None]:
    """Let Safety-Gymnasium's dataclasses have arrays as defaults while its modules are executed.

    Python 3.11 refuses such defaults, which all of Safety-Gymnasium's objects have. Python 3.10
    takes them; there this changes nothing.
    """
    import dataclasses

    original = dataclasses.dataclass
    if sys.version_info < (3, 11):
        yield
        return

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if cls.__module__.partition('.')[0] != 'safety_gymnasium':
            return original(cls, **options)
        arrays = {
            name: value
            for name, value in vars(cls).items()
            if name in vars(cls).get('__annotations__', {}) and type(value).__name__ == 'ndarray'
        }
        for name, value in arrays.items():
            # One array for all instances, as Python 3.10 has it.
            setattr(cls, name, dataclasses.field(default_factory=lambda value=value: value))
        cls = original(cls, **options)
        for name, value in arrays.items():
            setattr(cls, name, value)
        return cls

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


# DSRL 0.1.0 imports the Velocity tasks under the name they had before Safety-Gymnasium 1.0.0;
# without it none of DSRL's own Safety-Gymnasium environments can be made.
_OLD_VELOCITY_TASKS = 'safety_gymnasium.tasks.safety_velocity'


def _find_velocity_tasks(path: Any) -> ModuleSpec | None:
    for folder in path or ():
        package = os.path.join(folder, 'safe_velocity')
        if os.path.isfile(os.path.join(package, '__init__.py')):
            return importlib.util.spec_from_file_location(
                _OLD_VELOCITY_TASKS,
                os.path.join(package, '__init__.py'),
                submodule_search_locations=[package],
            )
    return None


# -- OmniSafe: environments, algorithm, configuration ---------------------------------------------


def _add_environments(envs: ModuleType) -> None:
    """Register DSRL's other tasks: importing the modules does it, by OmniSafe's own decorator."""
    del envs
    import omnisafe_qpt.host.envs  # noqa: F401
    import omnisafe_qpt.host.metadrive  # noqa: F401


def _add_algorithms(offline: ModuleType) -> None:
    """Make them offline algorithms of OmniSafe.

    ``omnisafe.algorithms`` builds its frozen tables from ``offline.__all__`` right after this
    module; the command line's help, ``Agent`` and the experiment grid all read those tables. The
    classes themselves are imported when they are asked for, here or in an agent: by then all of
    OmniSafe is there, also if its import began in one of the modules that the classes need.
    """
    names = _reach(offline, '__all__')
    names.extend(name for name in ALGORITHMS if name not in names)
    # Where the built-in algorithms can be imported from.
    for module in (offline, sys.modules['omnisafe.algorithms']):
        module.__getattr__ = functools.partial(_find_algorithm, module.__name__)


def _find_algorithm(module: str, name: str) -> type:
    """Import an algorithm's class, by which it registers itself with OmniSafe.

    Args:
        module (str): The module of OmniSafe's that was asked for it.
        name (str): Its name.

    Raises:
        AttributeError: If there is no such algorithm here.
    """
    if name not in ALGORITHMS:
        raise AttributeError(f'module {module!r} has no attribute {name!r}')
    return getattr(importlib.import_module(ALGORITHMS[name]), name)


def _serve_defaults(config: ModuleType) -> None:
    """Let OmniSafe load our YAML files, which it would look for in its own tree only."""
    original = _reach(config, 'get_default_kwargs_yaml')

    @functools.wraps(original)
    def get_default_kwargs_yaml(algo: str, env_id: str, algo_type: str) -> Any:
        if algo not in ALGORITHMS:
            return original(algo, env_id, algo_type)
        from omnisafe_qpt.host.config import config_file, load_defaults
        from omnisafe_qpt.host.processes import Launch

        if Launch.from_environment().rank == 0:
            print(f'Loading {algo}.yaml from {config_file(f"{algo}.yaml")}')
        return config.Config.dict2config(load_defaults(env_id, algo))

    config.get_default_kwargs_yaml = get_default_kwargs_yaml


def _check_grids(experiment_grid: ModuleType) -> None:
    """Let the experiment grid check variants of our algorithms.

    It has its own copy of the path to OmniSafe's YAML files. It also swallows the errors of
    evaluating and rendering.
    """
    grid = _reach(experiment_grid, 'ExperimentGrid')
    original = _reach(grid, 'check_variant_vaild')

    @functools.wraps(original)
    def check_variant_vaild(self: Any, variant: dict[str, Any]) -> None:
        algo = variant.get('algo')
        if algo not in ALGORITHMS:
            original(self, variant)
            return
        from omnisafe_qpt.host.config import load_defaults, validate

        cfgs = {key: value for key, value in variant.items() if key not in ('algo', 'env_id')}
        validate(cfgs, load_defaults(variant['env_id'], algo), 'the grid')

    grid.check_variant_vaild = check_variant_vaild
    for name in ('evaluate', 'render'):
        setattr(grid, name, _reporting(_reach(grid, name), _has_own_variants))


def _has_own_variants(grid: Any) -> bool:
    return 'algo' in grid.keys and not ALGORITHMS.keys().isdisjoint(
        grid.vals[grid.keys.index('algo')],
    )


def _configure_agents(algo_wrapper: ModuleType) -> None:
    """Put the configuration together as the algorithms' users mean it.

    ``AlgoWrapper._init_config`` is where OmniSafe merges the YAML, the custom options and the
    command line's flags, unchecked: presets, checks and automatic values belong right there.
    """
    agent_class = _reach(algo_wrapper, 'AlgoWrapper')
    original = _reach(agent_class, '_init_config')

    @functools.wraps(original)
    def _init_config(self: Any) -> Any:
        if self.algo not in ALGORITHMS:
            _check_spelling(self.algo)
            return original(self)
        require_available()
        from omnisafe_qpt.host.processes import join_processes, speaking_in_turn
        from omnisafe_qpt.workers import refuse_reimport

        refuse_reimport()
        with speaking_in_turn():
            _require_environment(self)
            _prepare_options(self)
            cfgs = original(self)
            _settle_machine(cfgs)
            # Before OmniSafe does it, right after this, and gives up on slow evaluations.
            join_processes(cfgs.train_cfgs.device)
        return cfgs

    agent_class._init_config = _init_config
    for name in ('evaluate', 'render', 'plot'):
        method = _in_first_process(_reach(agent_class, name))
        method = _requiring_episodes(method) if name == 'plot' else method
        setattr(agent_class, name, _reporting(method, _is_own_agent))


def _is_own_agent(agent: Any) -> bool:
    return agent.algo in ALGORITHMS


def _check_spelling(algo: Any) -> None:
    """Refuse a name that differs from one of ours in case or hyphens; others are OmniSafe's."""
    for name in ALGORITHMS:
        if str(algo).replace('-', '').replace('_', '').upper() == name.upper():
            raise UserError(
                f'unknown algorithm {algo!r}: names are case-sensitive; did you mean {name}?',
            )


def _in_first_process(method: Callable[..., Any]) -> Callable[..., Any]:
    """Leave to the first of several processes what needs the run folder, which it alone has."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        from omnisafe_qpt.host.processes import Launch

        if _is_own_agent(self) and Launch.from_environment().rank > 0:
            return None
        return method(self, *args, **kwargs)

    return wrapper


def _requiring_episodes(plot: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to plot the returns of a run that measured none."""

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
    """Import the modules that the user's options name, and refuse an unknown environment."""
    from omnisafe_qpt.host.checkpoint import find_run
    from omnisafe_qpt.host.imports import import_modules, module_names, require_environment
    from omnisafe_qpt.host.records import read_config

    train_cfgs = _user_options(agent).get('train_cfgs')
    options = train_cfgs if isinstance(train_cfgs, dict) else {}
    import_modules(options.get('import'), 'train_cfgs:import')
    resumed, modules = options.get('resume'), []
    if resumed not in (None, 'latest'):
        recorded = read_config(find_run(str(resumed)))['train_cfgs']
        modules = module_names(recorded.get('import'), f'train_cfgs:import of {resumed}')
    require_environment(agent.env_id, modules)


def _prepare_options(agent: Any) -> None:
    """Check what the user asked for, and bring it into the order in which it counts.

    The algorithm's YAML, then the preset, then the settings of the run that is resumed, then the
    user's options, then the flags given on the command line.
    """
    from omnisafe_qpt.host.config import (
        check_choices,
        check_counts,
        load_defaults,
        load_preset,
        merge,
        resolve_target_return,
        validate,
    )

    defaults = load_defaults(agent.env_id, agent.algo)
    options = _user_options(agent)
    validate(options, defaults, _command.source if _command else 'custom_cfgs')
    flags = _given_flags(agent.train_terminal_cfgs or {})
    validate({'train_cfgs': flags}, defaults, 'train_terminal_cfgs')
    settings = _settings_to_resume(agent, options, flags, defaults)
    preset = options.get('train_cfgs', {}).get('preset', defaults['train_cfgs'].get('preset'))
    if preset is not None:
        preset_settings = load_preset(str(preset), agent.algo, agent.env_id)
        validate(preset_settings, defaults, f'the preset {preset}')
        settings = merge(preset_settings, settings)
    options = merge(settings, options)
    complete = merge(merge(defaults, options), {'train_cfgs': flags})
    _check_train_cfgs(complete['train_cfgs'])
    check_counts(complete)
    check_choices(complete)
    algo_cfgs = complete['algo_cfgs']  # of the baselines without a target
    resolve_target_return(algo_cfgs.get('target_return'), agent.env_id, algo_cfgs['cost_limit'])
    agent.custom_cfgs = options
    if agent.train_terminal_cfgs is not None:
        # OmniSafe looks these two up without asking whether they are there.
        agent.train_terminal_cfgs = {'parallel': 1, 'vector_env_nums': 1, **flags}


def _settings_to_resume(
    agent: Any,
    options: dict[str, Any],
    flags: dict[str, Any],
    defaults: dict[str, Any],
) -> dict[str, Any]:
    """Read the settings of the run to go on with, if there is one, and name it in the options."""
    from omnisafe_qpt.host.config import merge
    from omnisafe_qpt.host.processes import Launch
    from omnisafe_qpt.host.resume import run_to_resume, settings_to_resume

    if options.get('train_cfgs', {}).get('resume') is None:
        return {}
    run = run_to_resume(agent.algo, options, agent.env_id, defaults)
    if run is None and Launch.from_environment().rank == 0:
        text = f'No run of {agent.algo} in {agent.env_id} to go on with yet: this is a new one'
        print(printable(text))
    options['train_cfgs']['resume'] = None if run is None else str(run)
    if run is None:
        return {}
    given = merge(options, {'train_cfgs': flags})
    allow_hooks = _command is not None and _command.allows_hooks
    return settings_to_resume(run, agent.algo, given, agent.env_id, defaults, allow_hooks)


def _check_train_cfgs(train_cfgs: dict[str, Any]) -> None:
    """Refuse what OmniSafe itself would trip over, before it does."""
    for name in ('parallel', 'vector_env_nums'):
        if train_cfgs[name] != 1:
            raise UserError(f'{name} must be 1 for an offline algorithm, not {train_cfgs[name]}')


def _user_options(agent: Any) -> dict[str, Any]:
    """Take the user's own options, some of which OmniSafe's command line overrides."""
    from omnisafe_qpt.host.config import for_environment, merge

    options = merge({}, agent.custom_cfgs or {})
    if _command is not None and _command.sets_options:
        log_dir = options['logger_cfgs']['log_dir']
        options = merge(options, _command.user_options())
        if _command.modules:
            options = merge(options, {'train_cfgs': {'import': ','.join(_command.modules)}})
        if 'log_dir' in _command.given:
            options['logger_cfgs']['log_dir'] = log_dir
    options = for_environment(options, agent.env_id)
    return {key: value for key, value in options.items() if key not in ('algo', 'env_id')}


def _given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Keep the flags that were given; OmniSafe's command line passes all, given or not."""
    return {
        name: value
        for name, value in flags.items()
        if name not in ('algo', 'env_id')
        and (_command is None or not _command.sets_options or name in _command.given)
    }


def _settle_machine(cfgs: Any) -> None:
    """Replace ``auto`` by this process's device and number of threads."""
    from omnisafe_qpt.host.config import AUTO, load_defaults, resolve_acceleration
    from omnisafe_qpt.host.processes import Launch

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
        if cfgs.algo in _SLOW_ON_CPU and cfgs.algo_cfgs.batch_size >= usual:
            message += (
                ', where an update of the default size takes seconds and a run days; for a run of '
                'minutes add --custom-cfgs train_cfgs:preset --custom-cfgs cpu'
            )
        print(message, file=sys.stderr)


# -- OmniSafe: saved runs -------------------------------------------------------------------------


def _load_saved_runs(evaluator: ModuleType) -> None:
    """Let OmniSafe's evaluator load our runs.

    Its own loading only knows actors that map one observation to one action. The deployed policy
    needs the rewards and costs it received, so it comes with an environment that feeds them back.
    """
    evaluator_class = _reach(evaluator, 'Evaluator')
    config_class = _reach(evaluator, 'Config')
    original = _reach(evaluator_class, 'load_saved')

    @functools.wraps(original)
    def load_saved(  # pylint: disable=too-many-arguments
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
        if cfgs.get('algo') not in ALGORITHMS:
            original(self, save_dir, model_name, render_mode, camera_name, camera_id, width, height)
            return
        require_available()
        from omnisafe_qpt.host.deployment import build_evaluation

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
        # What Evaluator.evaluate and Evaluator.render read.
        self._save_dir, self._model_name, self._render_mode = save_dir, model_name, render_mode
        self._dict_cfgs, self._cfgs = cfgs, config_class.dict2config(cfgs)
        self._env, self._actor = build_evaluation(save_dir, model_name, cfgs, env_kwargs)

    evaluator_class.load_saved = load_saved


def without_auto_reset(env: Any) -> Any:
    """Keep an environment of OmniSafe's from resetting itself at the end of an episode.

    OmniSafe asks Safety-Gymnasium for automatic resets and takes no other wish. Evaluation resets
    with a seed of its own, and each reset of a navigation task takes seconds.

    Args:
        env (CMDP): An environment as ``omnisafe.envs.core.make`` returns it, unwrapped.

    Returns:
        The same environment.
    """
    inner = getattr(env, '_env', None)
    if type(inner).__name__ == 'SafeAutoResetWrapper':
        import gymnasium

        # One plain wrapper in its place: OmniSafe looks for the horizon at this depth.
        env._env = gymnasium.Wrapper(inner.env)
    return env


def unwrapped(env: Any) -> Any:
    """Take an OmniSafe environment out of its wrappers, which hide its horizon.

    Args:
        env (CMDP): The environment; a wrapper answers None to ``max_episode_steps``.
    """
    from omnisafe.envs.core import Wrapper

    while isinstance(env, Wrapper):
        env = env._env
    return env


def simulator_of(env: Any) -> Any:
    """Return the simulator inside an OmniSafe environment, out of all wrappers.

    Args:
        env (CMDP): The environment; each of OmniSafe's keeps its simulator as ``_env``.

    Returns:
        The simulator; the environment itself where it keeps none, as those that users write.
    """
    env = unwrapped(env)
    simulator = getattr(env, '_env', env)
    return getattr(simulator, 'unwrapped', simulator)


def environment_class(env_id: str) -> type:
    """Return the class that OmniSafe has for an environment."""
    from omnisafe.envs import core

    return _reach(core, 'ENV_REGISTRY').get_class(env_id, None)


# What OmniSafe's algorithms call their policy in a checkpoint: online ones, offline ones, VAE-BC.
_POLICY_NAMES = ('pi', 'actor', 'vae')
# The policies of the offline algorithms, whose settings do not say; all others are Gaussian.
_OFFLINE_ACTORS = {'BCQ': 'perturbation', 'BCQLag': 'perturbation', 'VAEBC': 'vae'}


def policy_parameters(checkpoint: Any) -> dict[str, Any] | None:
    """Take the policy's parameters out of a run's checkpoint.

    Args:
        checkpoint (Any): What ``torch_save/epoch-N.pt`` holds.

    Returns:
        The parameters, or None where the algorithm has no policy but plans with a model.
    """
    if not isinstance(checkpoint, dict) or 'dynamics' in checkpoint:
        return None
    return next((checkpoint[name] for name in _POLICY_NAMES if name in checkpoint), None)


def load_actor(config: dict[str, Any], checkpoint: Any, obs_dim: int, act_dim: int) -> Any:
    """Build the policy of a run of one of OmniSafe's own algorithms.

    OmniSafe's evaluator does so in private, with an environment of its own, and not for offline
    algorithms.

    Args:
        config (dict[str, Any]): The run's ``config.json``.
        checkpoint (Any): What ``torch_save/epoch-N.pt`` holds.
        obs_dim (int): Size of the policy's input.
        act_dim (int): A.

    Returns:
        The ``omnisafe.models.base.Actor``.

    Raises:
        KeyError: If the settings lack something.
        RuntimeError: If the parameters do not fit the settings.
    """
    import numpy as np
    from gymnasium.spaces import Box
    from omnisafe.models.actor import ActorBuilder

    models = config['model_cfgs']
    sizes = models.get('actor', models)  # VAE-BC keeps them one level higher
    actor = ActorBuilder(
        obs_space=Box(-np.inf, np.inf, (obs_dim,)),
        act_space=Box(-1.0, 1.0, (act_dim,)),
        hidden_sizes=sizes['hidden_sizes'],
        activation=sizes['activation'],
        weight_initialization_mode=models['weight_initialization_mode'],
    ).build_actor(
        models.get('actor_type') or _OFFLINE_ACTORS.get(config['algo'], 'gaussian_learning'),
    )
    actor.load_state_dict(policy_parameters(checkpoint))
    return actor


def frozen_normalizer(checkpoint: dict[str, Any]) -> Callable[[Any], Any]:
    """Return how a run's policy sees observations, as its normaliser stood at the checkpoint.

    OmniSafe's own ``Normalizer`` goes on learning from whatever it normalises.

    Args:
        checkpoint (dict[str, Any]): What ``torch_save/epoch-N.pt`` holds.

    Returns:
        A function of a tensor of shape (S,).
    """
    state = checkpoint.get('obs_normalizer')
    if state is None or state['_count'] <= 1:
        return lambda observation: observation

    def normalize(observation: Any) -> Any:
        scaled = (observation - state['_mean']) / state['_std']
        return scaled.clamp(-state['_clip'], state['_clip'])

    return normalize


def dataset_names() -> list[str]:
    """List the datasets that OmniSafe's loader knows by name; it has no public list of them."""
    from omnisafe.common.offline.dataset import OfflineDataset

    return list(_reach(OfflineDataset, '_name_to_metadata'))


def _read_run(folder: str) -> dict[str, Any]:
    """Read a run's configuration; empty where there is none, which OmniSafe reports itself.

    Raises:
        UserError: If it is damaged, or is of one of our algorithms and is not as our runs have it.
    """
    from pathlib import Path

    from omnisafe_qpt.schema import anything, mapping, read_json

    path = Path(folder, 'config.json')
    if not path.is_file():
        return {}
    cfgs = read_json(path, mapping(anything))
    if cfgs.get('algo') not in list(ALGORITHMS):
        return cfgs
    from omnisafe_qpt.host.records import read_config

    return read_config(path.parent)


# -- OmniSafe: the command line -------------------------------------------------------------------


def _extend_command_line(command_app: ModuleType) -> None:
    """Teach the commands of ``omnisafe`` which flags were given, and to report mistakes in a line.

    A command's class is the one place where typer shows a parsed command line, with the source of
    each value, and where the whole command can be watched. The parser of ``--custom-cfgs`` turns
    every value with a dot into a float; it is replaced while a command runs for one of ours.
    """
    from typer.core import TyperCommand

    for command in _reach(_reach(command_app, 'app'), 'registered_commands'):
        command.cls = type('Command', (_ReportingCommand, command.cls or TyperCommand), {})
        command.callback = _with_options(command.callback)
    original = _reach(command_app, 'custom_cfgs_to_dict')

    @functools.wraps(original)
    def custom_cfgs_to_dict(key_list: str, value: Any) -> dict[str, Any]:
        algo = None if _command is None else _command.params.get('algo')
        if algo not in ALGORITHMS:
            return original(key_list, value)
        from omnisafe_qpt.host.config import load_defaults, parse_option

        return parse_option(key_list, value, load_defaults(_command.params['env_id'], algo))

    command_app.custom_cfgs_to_dict = custom_cfgs_to_dict


# The parameters of the options --import and --allow-hooks.
_MODULES, _HOOKS_ALLOWED = 'imported_modules', 'allow_hooks'
# The commands that may resume a run.
_TRAINING = ('train', 'train_config')


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--import``, which is acted on before the command runs.

    A command that trains gets ``--allow-hooks`` as well.
    """
    import inspect

    import typer

    added = {
        _MODULES: (
            list[str],
            typer.Option(
                [],
                '--import',
                metavar='MODULE',
                help='import this module first, which registers an environment of your own',
            ),
        ),
    }
    if function.__name__ in _TRAINING:
        added[_HOOKS_ALLOWED] = (
            bool,
            typer.Option(
                False,
                '--allow-hooks',
                help='import and call the augmentation hook of a run that is resumed, which is '
                'code of whoever started the run; without this option such a run is refused, '
                'unless you name the hook yourself in algo_cfgs:augmentation_hook',
            ),
        )

    @functools.wraps(function)
    def command(**options: Any) -> Any:
        return function(**{name: options[name] for name in options if name not in added})

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in added.items()
    ]
    signature = inspect.signature(function)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *options],
    )
    kinds = {name: kind for name, (kind, _) in added.items()}
    command.__annotations__ = {**function.__annotations__, **kinds}
    return command


class _ReportingCommand:
    """Mixed into the commands of ``omnisafe``."""

    name: str

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a user's mistake ends it with one line and status 1."""
        with _running(_Command(self.name, ctx)) as command:
            try:
                command.check_file()
                command.import_modules()
                if command.name == 'eval' and _evaluate_runs(command.params):
                    return None
                return super().invoke(ctx)
            except UserError as error:
                _exit_with(error)
            except OSError as error:
                problem = disk_problem(error)
                if problem is None or command.algo not in ALGORITHMS:
                    raise
                _exit_with(UserError(problem))
            except KeyboardInterrupt as error:
                if command.algo not in ALGORITHMS:
                    raise
                if not hasattr(error, 'exit_status'):  # or it has been said where it was stopped
                    print('Interrupted', file=sys.stderr)
                raise SystemExit(getattr(error, 'exit_status', 130)) from error


class _Command:
    """What a command of ``omnisafe`` was called with.

    Args:
        name (str): The name of the command.
        ctx (typer.Context): Its context.

    Attributes:
        params (dict[str, Any]): The value of each parameter.
        modules (list of str): What ``--import`` named.
        allows_hooks (bool): Whether ``--allow-hooks`` was given.
        given (set of str): The parameters that were given rather than left at their default.
    """

    def __init__(self, name: str, ctx: Any) -> None:
        self.name = name
        self.params: dict[str, Any] = dict(ctx.params)
        self.modules: list[str] = list(ctx.params.get(_MODULES) or ())
        self.allows_hooks = bool(ctx.params.get(_HOOKS_ALLOWED))
        self.given = {
            param
            for param in ctx.params
            if getattr(ctx.get_parameter_source(param), 'name', '') != 'DEFAULT'
        }

    @property
    def sets_options(self) -> bool:
        """Whether the command takes options from the user and trains one agent with them."""
        return self.name in ('train', 'train-config')

    @property
    def source(self) -> str:
        """Where the user wrote the options, for messages."""
        return self.params['config_path'] if self.name == 'train-config' else '--custom-cfgs'

    @property
    def algo(self) -> str | None:
        """The algorithm that it trains, None if there is none."""
        if self.name == 'train-config':
            return self.user_options().get('algo')
        return self.params.get('algo')

    def check_file(self) -> None:
        """Refuse a configuration file that nobody can read, which OmniSafe shows as a traceback.

        Raises:
            UserError: If the file is missing or is not YAML.
        """
        path = self.params.get('config_path', '')
        if path.endswith('.yaml'):  # OmniSafe reports other names itself
            import yaml

            from omnisafe_qpt.host.config import read_yaml

            try:
                read_yaml(path)
            except UserError as error:
                # OmniSafe's loader builds more types than ours; they are another algorithm's. What
                # it refuses as well it would end in an assertion.
                if not isinstance(error.__cause__, yaml.constructor.ConstructorError):
                    raise
                try:
                    with open(path, encoding='utf-8') as file:
                        yaml.load(file, Loader=yaml.FullLoader)
                except yaml.YAMLError:
                    raise error from None

    def import_modules(self) -> None:
        """Import what ``--import`` named, for any of OmniSafe's algorithms.

        Raises:
            UserError: If that fails.
        """
        if self.modules:
            from omnisafe_qpt.host.imports import import_modules

            self.modules = import_modules(self.modules)

    def user_options(self) -> dict[str, Any]:
        """Read the user's options from where the user wrote them."""
        from omnisafe_qpt.host.config import load_defaults, merge, parse_option, read_yaml

        if self.name == 'train-config':
            return read_yaml(self.params['config_path'])
        pairs = self.params['custom_cfgs'] or []
        defaults = load_defaults(self.params['env_id'], self.params['algo'])
        options: dict[str, Any] = {}
        for key, value in zip(pairs[0::2], pairs[1::2], strict=True):
            options = merge(options, parse_option(key, value, defaults))
        return options


@contextlib.contextmanager
def _running(command: _Command) -> Iterator[_Command]:
    # OmniSafe's functions in between have no way to hand it on.
    global _command  # pylint: disable=global-statement
    previous, _command = _command, command
    try:
        yield command
    finally:
        _command = previous


def _reporting(
    method: Callable[..., Any],
    concerns_us: Callable[[Any], bool],
) -> Callable[..., Any]:
    """Report errors that OmniSafe's commands swallow, of which they print the class only."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if _command is None or not concerns_us(self):
                raise
            _exit_with(error)

    return wrapper


def _exit_with(error: Exception) -> None:
    """End the process with one line on stderr.

    Raises:
        SystemExit: Always, with status 1.
    """
    message = ' '.join(str(error).split('\n'))
    if not isinstance(error, UserError):
        message = f'{type(error).__name__}: {message}'
    print(f'Error: {message}', file=sys.stderr)
    raise SystemExit(1) from error


def _evaluate_runs(params: dict[str, Any]) -> bool:
    """Evaluate the runs of our algorithms in a folder, if that is what the folder holds.

    OmniSafe takes the folder that holds the seeds' folders only, stops at the first seed without
    a checkpoint, and forgets ``--render-mode``.

    Args:
        params (dict[str, Any]): The parameters of ``omnisafe eval``.

    Returns:
        Whether the folder was one of ours; other folders are left to OmniSafe.

    Raises:
        UserError: If nothing in the folder can be evaluated.
    """
    folder = params['result_dir']
    if not os.path.isdir(folder):
        return False
    candidates = [folder, *sorted(item.path for item in os.scandir(folder) if item.is_dir())]
    runs = [run for run in candidates if _read_run(run).get('algo') in ALGORITHMS]
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
    """Drop what a failure left half-made: MuJoCo's viewer fails once more when it is deleted."""
    import traceback

    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    'omnisafe.envs': _add_environments,
    'omnisafe.utils.config': _serve_defaults,
    'omnisafe.algorithms.offline': _add_algorithms,
    'omnisafe.algorithms.algo_wrapper': _configure_agents,
    'omnisafe.evaluator': _load_saved_runs,
    'omnisafe.common.experiment_grid': _check_grids,
    'omnisafe.utils.command_app': _extend_command_line,
}
