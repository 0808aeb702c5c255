# `make sample` and `make test` need Python >= 3.10 and make; they set up the rest by themselves in $(VENV).
# Add a target with a `## text` after it: `make help` lists it.

PYTHON ?= python3
VENV ?= .venv
FOLDER ?= tests/golden
PYTEST_ARGS ?=
# Processes that run tests; each takes whole files of tests, and needs up to 2 GB.
JOBS ?= 2
# 1: PyTorch for processors only, a fraction of the size. auto: where there is no driver of a GPU. Else: the usual build.
CPU ?=
# 1, as in CI: packages by requirements.lock, each compared with its hash. PyTorch's build depends on the machine.
LOCKED ?= $(if $(CI),1)

PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest --numprocesses=$(JOBS) --dist=loadscope
# Nothing is compiled that may never be imported: 170 MB less.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
export PATH := $(abspath $(VENV))/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help venv dev sample native compiler quickstart demo-model docs test lint types tests quick format bench gpu faults heard golden parity lock lowest chromium clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.installed $(VENV)/.installed-monitor ## .venv with requirements.txt, the package and TensorBoard (CPU=1: no CUDA)
	@echo "$(VENV) is ready"

dev: $(VENV)/.installed-dev ## the same with requirements-dev.txt
	@echo "$(VENV) is ready to work on the code"

# Songs of 10 s on whatever device is there; the same command is in README.md.
sample: CPU := $(or $(CPU),auto)
sample: $(VENV)/.installed native ## hear it: two songs by the demo model, and the page to play them
	$(PY) jukebox/sample.py --model=demo --name=samples/demo --n_samples=2 --sample_length_in_seconds=10 \
		--total_sample_length_in_seconds=10 --artist="anna bell" --genre=disco \
		--lyrics="mila sola timi\kalu mesi loki\sama tole kisu" --resume --open

# Without a compiler PyTorch does the same work, slower.
native: $(VENV)/.installed ## build the native sampler for CPUs, where there is a C++ compiler
	@$(PY) -m jukebox.native.build

quickstart: $(VENV)/.installed ## train a VQ-VAE, a prior and an upsampler on a minute of made-up songs, and sample
	$(PY) examples/quickstart.py

demo-model: $(VENV)/.installed ## train the demo model again, some three hours
	$(PY) examples/demo_model.py

docs: $(VENV)/.installed ## write the generated parts of docs/ again
	$(PY) tools/hparams_reference.py
	$(PY) tools/pattern_drawings.py

test: lint types tests ## style, types and the whole test suite; what CI runs

lint: $(VENV)/.installed-dev ## style: ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.installed-dev ## types: mypy
	$(PY) -m mypy

tests: $(VENV)/.installed-dev chromium compiler ## all tests: pytest (PYTEST_ARGS="-k window", JOBS=2)
	$(PYTEST) $(PYTEST_ARGS)

quick: $(VENV)/.installed-dev ## the tests that are not marked slow
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

golden: $(VENV)/.installed ## compare with the reference's numbers (FOLDER=tests/golden DEVICE=cuda)
	$(PY) tests/golden.py $(FOLDER) $(if $(DEVICE),--device=$(DEVICE))

parity: $(VENV)/.installed-parity ## compare with transformers, which is installed for it
	$(PY) -m pytest tests/parity $(PYTEST_ARGS)

format: $(VENV)/.installed-dev ## rewrite the code in the style that `make lint` asks for
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: $(VENV)/.created ## write requirements.lock again: all packages for all Pythons and systems, with hashes
	$(PIP) uv==0.13.9
	$(PY) -m uv pip compile --quiet --no-config --universal --python-version 3.10 --generate-hashes --no-header \
		--no-annotate requirements.txt requirements-dev.txt -o requirements.lock

# Python 3.10 has builds of all of them: `make lowest PYTHON=python3.10`.
lowest: $(VENV)-lowest/.installed ## the quick tests with the oldest packages that setup.py allows (LOWEST="tests/prior")
	$(VENV)-lowest/bin/python -m pytest -m "not slow" $(LOWEST) $(PYTEST_ARGS)

bench: $(VENV)/.installed ## speed and memory on a CPU beside other implementations, installed for it (QUICK=1: a few rows)
	$(PY) benchmarks/bench.py $(if $(QUICK),--quick)

gpu: $(VENV)/.installed ## proves and times everything on a GPU; without one the shortest form, on the CPU
	$(PY) benchmarks/gpu.py

# Every test with the mark `faults`, with higher counts; the table comes whether they pass or not, and in faults.md.
faults: $(VENV)/.installed-dev chromium compiler ## try to break every promise of docs/reliability.md, some 15 minutes
	JUKEBOX_FAULTS=faults.md JUKEBOX_TEST_MUTATIONS=1000 JUKEBOX_TEST_KILLS=100 JUKEBOX_TEST_STEPS=20000 \
		$(PYTEST) -m faults $(PYTEST_ARGS)

# A folder in HEARD is resumed.
HEARD ?= logs/heard
heard: $(VENV)/.installed-dev ## train README's five lines and measure what one hears, half an hour
	JUKEBOX_HEARD=$(HEARD) $(PY) -m pytest -s tests/training/test_heard.py $(PYTEST_ARGS)

clean: ## remove .venv, caches and build files; runs and samples stay
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info apex/build apex/*.egg-info tensorboardX/build tensorboardX/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The browser that the tests of the player page drive.
chromium:
	@sh tools/system-package.sh chromium "command -v chromium"

# What the native sampler is built with.
compiler:
	@sh tools/system-package.sh g++ "command -v c++ || command -v g++ || command -v clang++"

# All that the lock names but what PyTorch's build brings; before PyTorch, which then finds the rest of its needs.
locked = awk '/^[a-z]/ { keep = !/^(torch|nvidia-|cuda-)/ } keep' requirements.lock > $(VENV)/locked.txt && \
	$(PIP) --require-hashes --no-deps -r $(VENV)/locked.txt

# Stamps say what was done, so that a second `make` is quick.
$(VENV)/.created:
	@sh tools/check-python.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch by its pin before anything else: a package that asks for any torch must find this one.
$(VENV)/.installed: $(VENV)/.created requirements.txt $(if $(LOCKED),requirements.lock) setup.py
	$(if $(LOCKED),$(locked))
	sh tools/install-torch.sh $(PY) $$(grep '^torch==' requirements.txt) $(CPU)
	$(if $(LOCKED),,$(PIP) -r requirements.txt)
	$(PIP) --no-deps $(if $(LOCKED),--no-build-isolation) -e .
	@$(PY) -m jukebox.native.build
	@touch $@

$(VENV)/.installed-monitor: $(VENV)/.installed tensorboardX/setup.py
	$(PIP) ./tensorboardX
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(if $(LOCKED),@true,$(PIP) -r requirements-dev.txt)
	@touch $@

# `>=` of setup.py becomes `==`.
$(VENV)-lowest/.installed: setup.py
	$(PYTHON) -m venv $(VENV)-lowest
	sed -n '/install_requires/,/\]/s/^ *"\([A-Za-z-]*\)>=\([0-9.]*\)",$$/\1==\2/p' setup.py > $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet -r $(VENV)-lowest/lowest.txt \
		$$(grep -E '^(packaging|playwright|pytest|huggingface_hub)==' requirements-dev.txt)
	@touch $@

# The constraint keeps the tested versions of everything else.
$(VENV)/.installed-parity: $(VENV)/.installed-dev requirements-parity.txt
	$(PIP) -r requirements-parity.txt -c requirements.txt
	@touch $@
