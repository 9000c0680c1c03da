# Two commands do everything on a fresh machine (Python 3.11+, g++ 12+, make): make demo, make test.
PYTHON ?= python3
# Another PyTorch than the pinned one, as 2.15.0, with the Triton and setuptools it asks for, in an environment of its own.
TORCH ?=
VENV := .venv$(addprefix -,$(TORCH))
PINS := $(if $(TORCH),build/constraints-$(TORCH).txt,constraints.txt)
BIN := $(VENV)/bin
CPP := $(shell find kernels reliability -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
OUT ?= demo
SIZE ?= full
REF ?= HEAD
SEED ?= 0
GPU_PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check test-wheel test-sanitize reliability audit lint format docs bench bench-compare test-gpu bench-gpu clean
.DELETE_ON_ERROR:

# Register two real brain scans (or, where they cannot be had, two synthetic ones) and print the report.
demo: $(VENV)/.built
	$(BIN)/python -m l2rfast.cli.demo $(OUT)

# TORCH=2.15.0 runs them on that version, and on the Triton it asks for. Types are checked with the pinned one alone.
test: $(if $(TORCH),,lint) $(VENV)/.libraries
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -p no:benchmark

# For use while writing: lint, and the tests that touch what differs from REF, without the real scans.
check: lint
	$(BIN)/python tests/changed.py $(REF)

# The wheel in environments that have nothing but it and what it asks for, each with another PyTorch than the kernels
# were built with: 5 GB from the network and some two minutes each. TORCHES=2.12.1 tries that version alone.
TORCHES ?= 2.11.0 2.12.1 2.14.1 2.15.0
test-wheel: $(VENV)/.built
	rm -rf build/wheels && $(BIN)/pip wheel -q --no-deps --wheel-dir build/wheels .
	for version in $(TORCHES); do \
		rm -rf build/torch && $(PYTHON) -m venv build/torch && \
		build/torch/bin/pip install -q --no-cache-dir "torch==$$version" build/wheels/*.whl && \
		build/torch/bin/python -P tests/installed.py cpp || exit 1; \
	done
	rm -rf build/torch

# The C++ kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, some two hours on two cores:
# the tests of operators, and random calls. g++ has what they need.
test-sanitize: $(VENV)/.built
	$(BIN)/python -m reliability.sanitizers address
	$(BIN)/python -m reliability.sanitizers thread

# All that tries to break the package, for a night: docs/reliability.md.
reliability: test-sanitize
	$(BIN)/python -m reliability.operators --cases 10000 --seed $(SEED)
	$(BIN)/python -m reliability.files --inputs 100000 --seed $(SEED)
	$(BIN)/python -m reliability.power
	$(BIN)/python -m reliability.training --kills 50 --seed $(SEED)
	$(BIN)/python -m reliability.long_run --registrations 2000
	$(BIN)/python -m bench.tables

# Whether holes are known of the pinned packages: asks the package index, so that it is not part of lint.
audit:
	$(PYTHON) -m venv build/audit && build/audit/bin/pip install -q pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

lint: $(VENV)/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/python -m bench.tables --check
	# The type checker does not read package-dir: show it the package as it is installed.
	rm -rf build/package && mkdir -p build/package/l2rfast
	ln -s $(CURDIR)/l2rfast/* $(CURDIR)/kernels $(CURDIR)/methods build/package/l2rfast/
	cd build/package && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p l2rfast

format: $(VENV)/.built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The site, its examples run on the demo's scans: build/docs/index.html. L2RFAST_DOCS=small runs them on small ones.
docs: $(VENV)/.built
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs

# Every case beside its peers, with every instruction set that there is: SIZE=quick in some minutes, SIZE=full in about
# two hours, which rewrites the report.
bench: $(VENV)/.benchmark
	$(BIN)/python -m bench --size $(SIZE)
	$(BIN)/python -m bench --size $(SIZE) --only compat --only compat-scripts \
		$(if $(filter full,$(SIZE)),--out bench/reports/compat)
	$(BIN)/python -m bench.registration --size $(SIZE)
	$(BIN)/python -m bench.busy --size $(SIZE)
	$(BIN)/python -m bench.tables

# Ours alone, at a commit and as it is in this folder: SIZE=quick or full.
bench-compare: $(VENV)/.benchmark
	$(BIN)/python -m bench.compare $(REF) --size $(SIZE)

# On a machine with a GPU, nvcc and a PyTorch for it, which GPU_PYTHON has; offline, in parts, each resumed.
test-gpu:
	$(GPU_PYTHON) -m bench.gpu --only packages --only build --only import --only test --only sanitize

bench-gpu:
	$(GPU_PYTHON) -m bench.gpu

clean:
	rm -rf .venv .venv-* build demo docs/howto docs/hands_on l2rfast/*.so l2rfast/viewer/niivue.js.gz *.egg-info

build/constraints-%.txt: constraints.txt
	mkdir -p build
	{ grep -vE '^(setuptools|torch|triton)==' $<; echo torch==$*; } > $@

$(VENV)/.created: $(PINS)
	$(PYTHON) -m venv $(VENV) || { echo "No virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q -c $(PINS) setuptools torch
	touch $@

# The package in place, its C++ kernels and every dependency at its pinned version; without build isolation the pinned
# setuptools builds.
$(VENV)/.built: $(VENV)/.created pyproject.toml setup.py $(CPP)
	$(BIN)/pip install -q -c $(PINS) --no-build-isolation -e '.[test,docs]'
	# A peer of the tests and the benchmark, without its dependencies: it asks for an old SimpleITK, which the loss that
	# is compared does not use.
	$(BIN)/pip install -q -c $(PINS) --no-deps fireants
	touch $@

# For the tests of patched libraries: the sources of some, which have their tests, and other versions of them.
SOURCES := voxelmorph==0.3.4 neurite==0.3.4 fireants==1.5.0
VERSIONS := monai==1.4.0 monai==1.6.0 neurite==0.3 fireants==1.4.0 voxelmorph==0.2
$(VENV)/.libraries: $(VENV)/.built
	$(BIN)/pip download -q --no-deps --no-binary voxelmorph,neurite,fireants -d build/libraries/sources $(SOURCES)
	for v in $(VERSIONS); do $(BIN)/pip install -q --no-deps -t build/libraries/$${v%==*}-$${v#*==} $$v || exit 1; done
	touch $@

# The peer that the tests do not need.
$(VENV)/.benchmark: $(VENV)/.built
	$(BIN)/pip install -q -c $(PINS) torch-interpol
	touch $@
