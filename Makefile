# Everything is built once, in release mode: the demo and the tests share it.
SHELL := /bin/bash
CARGO ?= cargo
# As root, Open MPI wants to be told that this is meant.
MPIRUN ?= mpirun $(if $(filter 0,$(shell id -u)),--allow-run-as-root) --oversubscribe --bind-to none
RUN ?= runs/fashion
FUZZ_SECONDS ?= 60
CHAOS_FUZZ_SECONDS ?= 600
# Where `make interchange` puts its large files; empty is the system's temporary folder.
INTERCHANGE_FOLDER ?=
admiral := target/release/admiral

.PHONY: help demo test test-golden test-gpu interchange chaos fuzz build lint setup clean-demo

help:
	@echo 'make build        set up, build admiral and admiral-launch'
	@echo 'make demo         set up, build, train on Fashion-MNIST on 2 ranks, draw samples'
	@echo 'make test         set up, build, run every test'
	@echo 'make test-golden  only the numbers of the reference implementation ($$ADMIRAL_GOLDEN_DIR)'
	@echo 'make test-gpu     kernels, golden numbers, a resumed run and speed on the first CUDA device, as one table'
	@echo 'make interchange  import and export of every released network, held to PyTorch itself (some GB to install)'
	@echo 'make fuzz         hostile files to every reader, $(FUZZ_SECONDS) seconds each'
	@echo 'make chaos        kill runs over and over and at every operation of their saves, and fuzz ($$CHAOS_FUZZ_SECONDS a reader)'
	@echo 'make lint         formatting and clippy'
	@echo 'make clean-demo   remove what the demo made ($(RUN))'

setup:
	@ci/setup build

build: setup
	$(CARGO) build --release --locked --package admiral --package admiral-launch

demo: build
	@ci/setup data
	@ci/demo '$(admiral)' '$(RUN)' $(MPIRUN)

test: setup
	@ci/setup data
	@ci/setup test
	$(CARGO) test --release --locked --workspace

test-golden: setup
	$(CARGO) test --release --locked --test golden

test-gpu: setup
	ci/gpu-check

interchange: build
	@ci/setup torch
	.deps/torch-venv/bin/python ci/interchange $(if $(INTERCHANGE_FOLDER),--folder '$(INTERCHANGE_FOLDER)') '$(admiral)'

fuzz:
	@ci/setup fuzz
	ci/fuzz '$(FUZZ_SECONDS)'

chaos: setup
	@ci/setup test
	@ci/setup fuzz
	$(CARGO) build --release --locked --workspace
	$(CARGO) test --release --locked --test launch --test chaos -- --ignored --nocapture --test-threads 1
	ci/fuzz $(CHAOS_FUZZ_SECONDS)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

clean-demo:
	rm -rf '$(RUN)'
