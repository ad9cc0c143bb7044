# Builds in release mode only, so that the demo and the tests share one build.
SHELL := /bin/bash
CARGO ?= cargo
# Open MPI refuses to run as root without --allow-run-as-root.
MPIRUN ?= mpirun $(if $(filter 0,$(shell id -u)),--allow-run-as-root) --oversubscribe --bind-to none
RUN ?= runs/fashion
FUZZ_SECONDS ?= 60
# Many tests wait for other processes, so more of them than cores run at once.
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(nproc))))
CHAOS_FUZZ_SECONDS ?= 600
# The folder for the large files of `make interchange`; if empty, the system's temporary folder.
INTERCHANGE_FOLDER ?=
admiral := target/release/admiral

.PHONY: help demo dist test test-long test-golden test-gpu interchange reproduce chaos fuzz build lint setup clean-demo

help:
	@echo 'make build        install requirements, build admiral and admiral-launch'
	@echo 'make demo         build, train on Fashion-MNIST on 2 ranks, draw samples'
	@echo 'make test         install requirements, build, run the tests'
	@echo 'make test-long    run the exhaustive versions of some tests'
	@echo 'make test-golden  run only the comparison with golden numbers ($$ADMIRAL_GOLDEN_DIR)'
	@echo 'make test-gpu     check kernels, golden numbers, resume and speed on the first CUDA device'
	@echo 'make interchange  compare files, weights and metrics with those of PyTorch programs (installs several GB)'
	@echo 'make reproduce    look for the findings of the paper in small models (an hour on 2 cores)'
	@echo 'make fuzz         fuzz each reader of files for $(FUZZ_SECONDS) seconds'
	@echo 'make chaos        kill runs at random and at each operation of a save; fuzz each reader for $(CHAOS_FUZZ_SECONDS) s'
	@echo 'make dist         build archives of the programs that run without a build (dist/)'
	@echo 'make lint         check formatting, run clippy'
	@echo 'make clean-demo   remove the run of the demo ($(RUN))'

setup:
	@ci/setup build

build: setup
	$(CARGO) build --release --locked --package admiral --package admiral-launch

demo: build
	@ci/setup data
	@ci/demo '$(admiral)' '$(RUN)' $(MPIRUN)

dist: build
	@ci/setup dist
	ci/dist

test: setup
	@ci/setup data
	@ci/setup test
	$(CARGO) test --release --locked --workspace

test-long: setup
	@ci/setup test
	$(CARGO) build --release --locked --workspace
	$(CARGO) test --release --locked --workspace --tests -- --ignored long::

test-golden: setup
	$(CARGO) test --release --locked --test numbers golden

test-gpu: setup
	ci/gpu-check

interchange: build
	@ci/setup torch
	@ci/setup tensorflow
	.deps/torch-venv/bin/python ci/interchange-inception '$(admiral)'
	.deps/torch-venv/bin/python ci/interchange-evaluate '$(admiral)'
	.deps/torch-venv/bin/python ci/interchange-sample '$(admiral)'
	.deps/torch-venv/bin/python ci/interchange $(if $(INTERCHANGE_FOLDER),--folder '$(INTERCHANGE_FOLDER)') '$(admiral)'

reproduce: build
	@ci/setup data
	@ci/reproduce '$(admiral)' $(MPIRUN)

fuzz:
	@ci/setup fuzz
	ci/fuzz '$(FUZZ_SECONDS)'

chaos: setup
	@ci/setup test
	@ci/setup fuzz
	$(CARGO) build --release --locked --workspace
	$(CARGO) test --release --locked --test cluster -- --ignored --nocapture --test-threads 1 launch chaos blocked
	$(CARGO) test --release --locked --test runs -- --ignored --nocapture a_job_survives_many_kills
	ci/fuzz $(CHAOS_FUZZ_SECONDS)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

clean-demo:
	rm -rf '$(RUN)'
