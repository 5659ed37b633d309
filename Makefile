# One environment in .venv serves all targets but the benchmarks, which have their own
# in .venv-benchmark. They are filled again only when a
# requirements file is newer than the stamp of its last installation.

PYTHON ?= python3
VENV := .venv
VENV_BENCHMARK := .venv-benchmark
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip install --disable-pip-version-check
NOTEBOOK ?= $(wildcard Homework2_*.ipynb)
UV_COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate
PIP_BENCHMARK := $(VENV_BENCHMARK)/bin/python -m pip install --disable-pip-version-check

# An environment outlives the Python it was made with, but cannot start without it.
ifeq ($(filter clean help,$(MAKECMDGOALS)),)
GONE := $(shell for folder in $(VENV) $(VENV_BENCHMARK); do [ ! -e $$folder/created ] || \
	$$folder/bin/python -c 'import pip' 2>/dev/null || echo $$folder; done)
ifneq ($(GONE),)
$(error the Python of $(GONE) has vanished: run `make clean`, then this again)
endif
endif

.PHONY: help run companion test test-slow test-browser check format submission report outputs
.PHONY: lock chromium benchmark benchmark-search benchmark-training clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /make \1	/'

run: $(VENV)/installed ## run the homework notebook from top to bottom, in place
	$(VENV_PYTHON) tools/run_notebook.py

companion: $(VENV)/installed-companion ## run the notebook of the second assignment, in place
	$(VENV_PYTHON) tools/run_notebook.py companion/DeepLearningAssignment.ipynb

test: $(VENV)/installed-dev ## check style, then run all tests
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed-dev ## run the tests that take long: whole notebooks, kills
	$(VENV_PYTHON) -m pytest -m slow -n 2 --dist loadfile

test-browser: chromium $(VENV)/installed-dev ## run the notebook in JupyterLab
	$(VENV_PYTHON) -m pytest tests/browser

check: ## all tests: the quick ones, the slow ones, those in a browser
	$(MAKE) test
	$(MAKE) test-slow
	$(MAKE) test-browser

format: $(VENV)/installed-dev ## format code and notebooks, mend what can be mended
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

# What is set on make's command line is in the environment: any character may be in it.
submission: $(VENV)/installed ## write the file to hand in: NUMBER=… LAST=… FIRST=…
	@$(VENV_PYTHON) tools/make_submission.py "$$NUMBER" "$$LAST" "$$FIRST"

report: $(VENV)/installed-dev ## write the notebook as a page: NOTEBOOK=… for another
	$(VENV_PYTHON) -m nbconvert --to html --template classic --output-dir dist "$(NOTEBOOK)"

outputs: $(VENV)/installed-dev ## print the notebook without its code: texts and tables
	@$(VENV_PYTHON) -m nbconvert --to markdown --no-input --stdout --log-level ERROR \
		"$(NOTEBOOK)"

# One environment serves the first three. The benchmarks have other releases of what the
# notebook does not need, and Xplique without what it asks for (see the file).
lock: $(VENV)/installed-dev ## resolve all requirements, with digests
	$(UV_COMPILE) requirements-dev.txt --output-file requirements-dev.lock
	$(UV_COMPILE) -c requirements-dev.lock companion/requirements.txt \
		--output-file companion/requirements.lock
	$(UV_COMPILE) -c requirements-dev.lock requirements.txt \
		--output-file requirements.lock
	$(UV_COMPILE) -c requirements.lock benchmarks/requirements.txt \
		--output-file benchmarks/requirements.lock
	$(UV_COMPILE) --no-deps benchmarks/requirements-xplique.txt \
		--output-file benchmarks/requirements-xplique.lock

benchmark: $(VENV_BENCHMARK)/installed ## compare the descent with what others use
	$(VENV_BENCHMARK)/bin/python benchmarks/optimization.py

benchmark-search: $(VENV_BENCHMARK)/installed ## search the settings of the others
	$(VENV_BENCHMARK)/bin/python benchmarks/optimization.py --search

benchmark-training: $(VENV_BENCHMARK)/installed ## compare the training, at full length
	$(VENV_BENCHMARK)/bin/python benchmarks/training.py

clean: ## remove the environments and all caches
	rm -rf $(VENV) $(VENV_BENCHMARK) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

# "created" is written last: an environment that was left half-made is made anew.
$(VENV)/created $(VENV_BENCHMARK)/created:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "no command '$(PYTHON)': install Python 3.11 to 3.13, or name one with" \
			"make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "expected Python 3.11 to 3.13, '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1):" \
			"name another one with make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(@D) || { \
		echo "could not create $(VENV): install the venv module of '$(PYTHON)'" \
			"(Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	@touch $@

# The lock files name every package with its digests; `make lock` writes them.
$(VENV)/installed: requirements.lock $(VENV)/created
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	@touch $@

$(VENV)/installed-companion: companion/requirements.lock $(VENV)/installed
	$(PIP_INSTALL) --require-hashes -r companion/requirements.lock
	@touch $@

# These are all the packages, those of the two above included.
$(VENV)/installed-dev: requirements-dev.lock $(VENV)/created
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $(VENV)/installed $(VENV)/installed-companion $@

# Debian's package is the browser itself; other systems have others.
chromium:
	@for name in $${CHROMIUM:-chromium chromium-browser google-chrome chrome}; do \
		command -v "$$name" && exit; \
	done; \
	{ [ "$$(id -u)" -eq 0 ] && grep -qx ID=debian /etc/os-release && \
		apt-get update && apt-get install -y chromium; } || { \
		echo "found no Chromium: install it (Debian: apt-get install chromium), or" \
			"name another build of it with CHROMIUM=PATH" >&2; exit 1; }

# The peers live apart, so that the notebook and the tests do without them.
$(VENV_BENCHMARK)/installed: benchmarks/requirements.lock $(VENV_BENCHMARK)/created
$(VENV_BENCHMARK)/installed: benchmarks/requirements-xplique.lock
	$(PIP_BENCHMARK) --require-hashes -r benchmarks/requirements.lock
	$(PIP_BENCHMARK) --require-hashes --no-deps -r benchmarks/requirements-xplique.lock
	@touch $@
