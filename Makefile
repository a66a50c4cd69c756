# Targets with a comment after ## are listed by `make`.
.DEFAULT_GOAL := help
.PHONY: help setup repro guidance points test lint verify seeds portable kills proofs metrics samplers samplers-full spacings-full guidance-full datasets ablation study bench side-by-side notebooks lab lock clean

PYTHON ?= python3
# dvc calls `python` and its queue calls `dvc`, both by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The environment holds these packages and no others, wherever the user keeps more.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/runtime ## Create .venv and install requirements.txt

repro: .venv/runtime ## Run the pipeline: what is up to date is not run again
	@python -m stages.preflight && dvc repro

guidance: .venv/runtime ## Run pipelines/guidance: what is up to date is not run again
	@cd pipelines/guidance && PYTHONPATH=../.. python -m stages.preflight && dvc repro

points: .venv/runtime ## Run pipelines/points, for a file of your own: what is up to date is not run again
	@cd pipelines/points && PYTHONPATH=../.. python -m stages.preflight && dvc repro

test: .venv/dev ## Pass the tests
	@python -m pytest -n 3 --dist loadfile

lint: .venv/dev ## Check format, style and types
	@ruff format --check .
	@ruff check .
	@mypy

verify: .venv/runtime ## Prove, in a temporary clone, that HEAD's results come out bit for bit; PIPELINE=guidance, PIPELINE=points
	@.ci/verify $(PIPELINE)

seeds: .venv/runtime ## Measure how much every metric varies over seeds: benchmarks/seeds.json
	@python -m benchmarks.seeds

portable: .venv/runtime ## Prove that threads and vector width change no bit; with qemu-user, processors too
	@python -m benchmarks.portable_bits --emulate

kills: .venv/runtime ## Kill the pipeline twenty times, and see the same bits come out
	@python -m benchmarks.kills

proofs: portable kills .venv/dev ## Run the proofs that take long, three quarters of an hour
	@python -m pytest -m proof

metrics: .venv/runtime ## Print the README's table of results, with the spread over ten seeds
	@python -m benchmarks.metrics

samplers: .venv/runtime ## Print the table of samplers, from reports/samplers.csv
	@python -m benchmarks.samplers

samplers-full: .venv/runtime ## Measure samplers and spacings in nats over ten seeds; continues where it was interrupted
	@python -m benchmarks.study_samplers

spacings-full: .venv/runtime ## Search the best times, and coefficients, for few steps without a limit on time
	@python -m benchmarks.study_spacings
	@python -m benchmarks.study_bespoke

guidance-full: .venv/runtime ## Measure guidance in nats over ten seeds; continues where it was interrupted
	@python -m benchmarks.study_guidance

datasets: .venv/runtime ## Train on every data set, and draw samples beside the truth
	@python -m benchmarks.study_datasets

ablation: .venv/runtime ## Measure what each part of the training recipe contributes
	@python -m benchmarks.ablation

study: .venv/runtime ## Compare schedules, prediction types and sizes of the training set; continues where it was interrupted
	@python -m benchmarks.study_generalisation
	@python -m benchmarks.study_schedules

bench: .venv/bench ## Compare with smalldiffusion and diffusers, 35 minutes: benchmarks/libraries.json
	@PYTHONPATH=.venv/libraries python -m benchmarks.libraries

side-by-side: .venv/runtime ## Time one experiment alone and two side by side
	@python -m benchmarks.side_by_side

notebooks: .venv/notebooks ## Execute the notebooks into notebooks/executed; QUICK=1: small, write nothing
	@python notebooks/execute.py

# JupyterLab's kernels get the pinned arithmetic and find `ddpm` as those of `make notebooks` do.
lab: .venv/notebooks ## Open the notebooks in JupyterLab
	@PYTHONPATH="$(CURDIR)" python -c \
	  'import os, stages; os.execvp("jupyter", ["jupyter", "lab", "notebooks"])'

lock: ## Resolve pyproject.toml's ranges into the three files of requirements
	@.ci/lock $(PYTHON)

clean: ## Remove .venv and the tools' caches; data, models, reports and DVC's cache stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info dvc_plots notebooks/.ipynb_checkpoints
	@find ddpm stages tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.venv/runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "Python is %d.%d but 3.11 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/dev: .venv/runtime requirements-dev.txt
	.venv/bin/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

# A folder beside the packages above and not an environment that repeats them: torch stays the same.
.venv/bench: .venv/dev requirements-bench.txt
	.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .venv/libraries \
	  --requirement requirements-bench.txt
	@touch $@

.venv/notebooks: .venv/runtime requirements-notebooks.txt
	.venv/bin/python -m pip install --quiet --requirement requirements-notebooks.txt
	@jupytext-config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json \
	  set-default-viewer python  # a click on a .py file opens it as a notebook
	@touch $@
