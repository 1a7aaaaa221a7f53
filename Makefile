# DataFlow. `make` shows what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A fixed hash seed: what a seeded test did once it does again.
PYTEST := PYTHONHASHSEED=0 $(BIN)/pytest

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk 'BEGIN{FS=":.*## "}{printf "  make %-11s %s\n", $$1, $$2}'

# A lock change makes a new virtual environment: xds-protos overwrites files of later packages (docs/decisions/0003-two-locks.md).
$(VENV)/runtime: locks/1-xds.txt locks/2-runtime.txt
	@echo "== installing the runtime packages (about a minute the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "DataFlow needs Python 3.11 or newer, this is " + sys.version)'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Python's venv module is missing: on Debian, apt-get install python3-venv"; exit 1; }
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r locks/1-xds.txt
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r locks/2-runtime.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/runtime locks/3-dev.txt
	@echo "== installing the development packages"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r locks/3-dev.txt
	@touch $@

setup: $(VENV)/runtime ## install what `make demo` needs into .venv
setup-dev: $(VENV)/dev ## install what `make test` needs into .venv

kafka: .kafka/fetched ## fetch Apache Kafka into .kafka: what `dataflow up --log kafka` and `make check` run

# Maven verifies what it fetches (-C); the folder is renamed last, so that an interrupted fetch is not taken for a whole one.
.kafka/fetched: cli/local/kafka-pom.xml
	@command -v java >/dev/null || { echo "Java 17 or newer is missing: on Debian, apt-get install default-jre-headless"; exit 1; }
	@command -v mvn >/dev/null || { echo "Maven is missing: on Debian, apt-get install maven"; exit 1; }
	@echo "== fetching Apache Kafka (43 MB, once)"
	@rm -rf .kafka .kafka.new
	@mvn -q -B -C -f cli/local/kafka-pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.kafka.new/libs || { echo "Maven could not fetch Apache Kafka; it needs Maven Central or a mirror of it in its settings.xml"; rm -rf .kafka.new; exit 1; }
	@touch .kafka.new/fetched && mv .kafka.new .kafka

demo: $(VENV)/runtime ## a four-cell fleet, real traffic, two kills, a verdict (SABOTAGE=loss or leak must fail)
	@SABOTAGE=$(SABOTAGE) $(BIN)/dataflow demo

lock: $(VENV)/dev ## pin again after a change of locks/*.in
	@for f in 1-xds 2-runtime 3-dev; do $(BIN)/pip-compile -q --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --no-annotate --no-header -o locks/$$f.txt locks/$$f.in; done

generate: $(VENV)/dev ## Python from proto/, into proto/gen
	@rm -rf proto/gen && mkdir -p proto/gen
	@cd proto && ../$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=../$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=../$(BIN)/protoc-gen-mypy_grpc --python_out=gen --grpc_python_out=gen --mypy_out=quiet:gen --mypy_grpc_out=quiet:gen $$(find dataflow -name '*.proto' | sort)
	@find proto/gen -type d | sort | while read d; do touch $$d/__init__.py; done; rm -f proto/gen/__init__.py

test: $(VENV)/dev ## everything that a change must pass: unit to end to end, on real PostgreSQL, Envoy and processes
	@$(PYTEST) -n 2 --dist loadgroup --cov --cov-report= -m "not kafka" tests
	@$(BIN)/coverage report --format=total | sed 's/.*/coverage: & % of lines and branches (in this process; what fleets run is not counted)/'

check: lint kafka ## `make lint`, what needs Kafka, more simulations, the demo and both sabotages
	@$(PYTEST) -m kafka tests
	@SIM_RUNS=30 $(PYTEST) tests/simulation
	@$(BIN)/dataflow demo
	@for sabotage in loss leak; do if SABOTAGE=$$sabotage $(BIN)/dataflow demo >/tmp/dataflow-sabotage.$$$$ 2>&1; then cat /tmp/dataflow-sabotage.$$$$; echo "the sabotage '$$sabotage' was not found"; exit 1; else echo "the sabotage '$$sabotage' was found, as it must be"; fi; rm -f /tmp/dataflow-sabotage.$$$$; done

lint: $(VENV)/dev ## style, types, walls, contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) tests/house

sim: $(VENV)/dev ## a whole fleet from one seed: make sim SEED=42
	@SEED=$(SEED) SIM_RUNS=1 $(PYTEST) -s tests/simulation

golden: $(VENV)/dev ## write the golden files again, to be read before they are committed
	@UPDATE_GOLDEN=1 $(PYTEST) tests/golden

docs: $(VENV)/dev ## write the generated pages of docs/ again
	@$(BIN)/python -m docs.generate

contracts: $(VENV)/dev ## after a contract has landed: what `buf breaking` compares with from now on
	@$(BIN)/buf build -o proto/image.binpb

bench: $(VENV)/dev ## the figures of docs/validation.md, measured on this machine (about 8 min)
	@$(BIN)/python -m bench.figures

.PHONY: help setup setup-dev kafka demo lock generate test check lint sim golden docs contracts bench
