# hepaflow: the two commands are `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# How long `make demo` runs, such as DURATION=20s; without it, until Ctrl-C.
DURATION ?=
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: demo
demo: setup ## Install what is missing, build, and run the main job on a recorded stream
	cargo build --release --locked
	scripts/demo.sh $(DURATION)

.PHONY: test
test: setup-tests lint ## Install what is missing and run every test
	scripts/test.sh

.PHONY: screenshots
screenshots: setup-tests ## Take the pictures of the dashboard that the README shows
	cargo test --release --locked --test dashboard -- --ignored --exact screenshots

.PHONY: lint
lint: ## Formatting, clippy and documentation, warnings denied; dependency rules
	cargo fmt --check
	cargo clippy --locked --all-targets --features train -- -D warnings
	cargo clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --features train --quiet
	scripts/check-dependencies.py

.PHONY: bench
bench: setup ## Run the benchmarks; see benches/README.md for what they say
	cargo bench --locked

.PHONY: bench-peers
bench-peers: setup ## Time the CPU engine beside PyTorch, ONNX Runtime and OpenVINO
	scripts/bench_peers.sh peers

.PHONY: bench-stream
bench-stream: setup ## Time overlapping windows beside PyTorch and OpenVINO, which share nothing
	scripts/bench_peers.sh stream_peers

.PHONY: bench-training
bench-training: setup ## Time steps of training beside PyTorch on the CPU
	FEATURES=train scripts/bench_peers.sh training_peers

.PHONY: study
study: setup ## Train and judge the three kinds of network on a synthetic cohort
	cargo build --release --locked --features train
	scripts/study.sh

.PHONY: bench-ingest
bench-ingest: setup-tests ## Time ingest beside OpenCV, PyAV and storescp; live streams a core takes
	scripts/bench_ingest.sh

.PHONY: fuzz
fuzz: setup-tests ## Feed damaged bytes to every door for a minute each (needs nightly Rust)
	scripts/fuzz.sh

.PHONY: setup
setup:
	@scripts/install-dependencies.sh

.PHONY: setup-tests
setup-tests:
	@scripts/install-dependencies.sh --tests
	@scripts/fetch-test-data.sh
	@scripts/fetch-onnxruntime.sh >/dev/null
