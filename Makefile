# omnisafe-qpt. `make help` lists what there is to do.
#
# Only POSIX sh and make's basics are used, so that macOS's make 3.81 will do.

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow coverage fuzz lint format docs lock clean
.NOTPARALLEL:
# Images for containers often set it. Without bytecode each process compiles OmniSafe anew, in 10 s.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
# Give one to choose: make setup PYTHON=python3.10 TORCH=cpu
PYTHON ?=
TORCH ?= auto
# Of the bundled sample to train on: make train ENV=SafetyCarButton1-v0
ENV = SafetyBallCircle-v0
# More arguments for pytest: make test ARGS='-k critics -x'
ARGS ?=

help: ## List the targets
	@echo 'Usage: make TARGET [PYTHON=python3.10] [TORCH=auto|cpu|cuda]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1@\2/p' Makefile | awk -F@ '{printf "  %-11s %s\n", $$1, $$2}'

# A name on the PATH may be a launcher for a version that is not there: each is tried by running it.
# An environment made earlier comes first, so that its version is kept.
setup: ## Create .venv with everything in it (does nothing when up to date)
	@set -- '$(PYTHON)'; \
	if [ -z "$$1" ]; then set -- $(VENV)/bin/python python3 python3.11 python3.10; fi; \
	for python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' \
			>/dev/null 2>&1; then exec "$$python" tools/setup_env.py --torch '$(TORCH)'; fi; \
	done; \
	echo "error: found no Python 3.10 or 3.11 (tried: $$*)." >&2; \
	echo 'Install one, or name it: make setup PYTHON=/path/to/python3.10' >&2; \
	exit 1

train: setup ## Train QPT on a bundled sample and evaluate it at four cost limits (minutes, no GPU)
	@$(VENV)/bin/omnisafe train --algo QPT --env-id '$(ENV)' --log-dir runs \
		--custom-cfgs train_cfgs:preset --custom-cfgs cpu \
		--custom-cfgs train_cfgs:dataset --custom-cfgs sample
	@set -e; run=$$(ls -td 'runs/train/QPT-{$(ENV)}-sample/'seed-* | head -n 1); \
	$(VENV)/bin/omnisafe-qpt evaluate "$$run" --cost-limit 5 --cost-limit 10 --cost-limit 20 \
		--cost-limit 40 --plot "$$run/limits.png" --json "$$run/limits.json"; \
	$(VENV)/bin/omnisafe-qpt report "$$run" --evaluation "$$run/limits.json"; \
	echo "$$run/limits.png: return and cost against the limit"; \
	echo; echo 'Next, the same policy at another limit, its first episode as a film, and all options:'; \
	echo "  $(VENV)/bin/omnisafe-qpt evaluate '$$run' --cost-limit 15"; \
	echo "  $(VENV)/bin/omnisafe-qpt evaluate '$$run' --cost-limit 10 --episodes 1 --video '$$run'"; \
	echo '  $(VENV)/bin/omnisafe-qpt --help'

# Work is small: more threads would wait for each other more than they help. Two processes share the
# files of tests; ARGS='-n 0' puts all into one.
test: setup ## Run the default tests
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --durations=10 -n 2 --dist loadfile $(ARGS)

test-slow: setup ## Run the slow tests
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --durations=10 -m slow $(ARGS)

# Slower than `make test`. Settings are in pyproject.toml.
coverage: setup ## Run the default tests, and print the share of the package that they run
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term $(ARGS)

# One case again: make fuzz ARGS='--seed 0 --case 17'
fuzz: setup ## Read 1,000 damaged files of all kinds (ARGS='--cases 1000 --seed 0')
	@OMP_NUM_THREADS=1 $(VENV)/bin/python tests/fuzz.py $(ARGS)

# Mypy has a cache, so that only the first run takes long.
lint: setup ## Check the code's style and types, without changing it
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup ## Mend the code's style where that can be automatic
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# Sphinx has a folder of its own, so that its versions and those of the tests do not depend on each
# other. The pages import the package, which is why `setup` comes first.
docs: setup ## Build the documentation in docs/_build/html; warnings are errors
	@cmp -s requirements/docs.txt $(VENV)/docs/installed.txt || { \
		rm -rf $(VENV)/docs && $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
			--no-deps --target $(VENV)/docs --requirement requirements/docs.txt \
		&& cp requirements/docs.txt $(VENV)/docs/installed.txt; }
	@PYTHONPATH='$(CURDIR)/$(VENV)/docs' $(VENV)/bin/python -m sphinx -W --keep-going -q \
		-b html docs docs/_build/html
	@echo 'Open docs/_build/html/index.html'

# Torch and the CUDA libraries that come with it get a list of their own: the CPU build needs none.
lock: setup ## Renew the pinned lists in requirements/ from setup.py
	@for version in 3.10 3.11; do \
		list="requirements/py$$(echo $$version | tr -d .)"; \
		echo "Resolving for Python $$version"; \
		$(VENV)/bin/uv pip compile setup.py --extra dev --extra export --quiet --no-header --no-annotate \
			--constraints requirements/constraints.in --python-version "$$version" \
			--python-platform x86_64-manylinux_2_28 >"$$list.tmp" \
			|| { rm -f "$$list.tmp"; exit 1; }; \
		for part in "" -torch; do \
			keep=$$([ -n "$$part" ] || echo -v); \
			{ echo '# Written by `make lock`: change setup.py or constraints.in instead.'; \
			  grep $$keep -E '^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==' "$$list.tmp"; \
			} >"$$list$$part.txt"; \
		done; \
		rm -f "$$list.tmp"; \
	done
	@echo 'Resolving for the documentation'
	@{ echo '# Written by `make lock`: change the extra `docs` in setup.py instead.'; \
	  $(VENV)/bin/python -c 'import importlib.metadata as m; print(*(line.split(";")[0] for line in \
		m.requires("omnisafe-qpt") if "docs" in line.partition(";")[2]), sep="\n")' \
	  | $(VENV)/bin/uv pip compile - --no-config --quiet --no-header --no-annotate --python-version 3.10; \
	} >requirements/docs.tmp && mv requirements/docs.tmp requirements/docs.txt

clean: ## Remove .venv, caches and build output; runs/ stays
	@rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage*
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
