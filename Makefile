# Works from a bare checkout with git, make and Python 3.11 or newer (with venv).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_VERSION := 0.13.9

CLIENT_TESTS := tests/clients/node
WORKERS := 2
BENCH_TOOLS := cc:gcc cc:libc6-dev redis-server redis-cli:redis-tools fio wrk java:default-jre-headless mvn:maven
FUZZ_SECONDS := 60
NO_KAFKA := Java or Maven is missing: the tests on Apache Kafka are skipped

.PHONY: serve demo test test-kafka clients check format crash crash-kafka fuzz load bench bench-quick bench-peers lock clean
.DEFAULT_GOAL := test

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src  # for commands to start fast also where Python must not write its cache
	touch $(READY)

serve: $(READY)  ## a server on 127.0.0.1:8080, records in ./flashq-data (ARGS="--port 9000" for more)
	@exec $(BIN)/flashq serve --data-dir ./flashq-data $(ARGS)

demo: $(READY)  ## a tour: post, poll, groups, and a crash (ARGS=--quick asks nothing)
	@$(BIN)/flashq demo $(ARGS)

test: $(READY)  ## every test that fits in five minutes
	$(BIN)/python -m pytest -m "not alone and not crash and not kafka and not load" -n $(WORKERS) --dist loadfile $(ARGS)
	$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? = 5 ]  # 5: ARGS chose none of these
	@command -v java >/dev/null && command -v mvn >/dev/null || echo "$(NO_KAFKA)"

test-kafka: $(READY)  ## the tests on Apache Kafka: three brokers, from Maven Central, in a temporary directory
	@if command -v java >/dev/null && command -v mvn >/dev/null; \
	then $(BIN)/python -m pytest -m "kafka and not crash" $(ARGS); else echo "$(NO_KAFKA)"; fi

clients:  ## install the clients some tests talk with: curl, wrk, Node's eventsource (as root: Debian packages too)
	@missing=; for tool in curl wrk npm; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then echo "not installed:$$missing; tests that need them are skipped"; fi
	@if command -v npm >/dev/null; then cd $(CLIENT_TESTS) && npm ci --silent --no-audit --no-fund; fi

crash: $(READY)  ## kills, power cuts and failing disks, half an hour or more (root, loop devices, strace); writes docs/reliability.md
	$(BIN)/python -m pytest -m "crash and not kafka" -s --timeout=3600 $(ARGS)

crash-kafka: $(READY)  ## kill the leader of a Kafka cluster under load, twenty times
	$(BIN)/python -m pytest -m "crash and kafka" -s --timeout=3600 $(ARGS)

load: $(READY)  ## thousands of clients and topics, and a mixed load with kills for 20 minutes (FLASHQ_SOAK_SECONDS)
	$(BIN)/python -m pytest -m load -s --timeout=7200 $(ARGS)

fuzz: $(READY)  ## mutated input against each target for FUZZ_SECONDS, guided by the branches it takes
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r fuzz/requirements.lock
	for target in frames requests bodies; do \
		$(BIN)/python -m fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; done

check: $(READY)  ## lint, types, import contracts, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/audit.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## side by side with peers and limits (ARGS="--only single" for some rows)
	$(BIN)/python -m benchmarks --keep $(ARGS)

bench-quick: $(READY)  ## the same with fewer rows and rounds, under two minutes, printed only
	$(BIN)/python -m benchmarks --quick $(ARGS)

bench-peers: $(READY)  ## install what FlashQ is measured against (as root: Debian packages too)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps --requirement benchmarks/requirements.lock
	@missing=; for tool in $(BENCH_TOOLS); do command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then echo "not installed:$$missing; the rows that need them will say so"; fi
	@if command -v mvn >/dev/null; then mvn --quiet --batch-mode -f tests/kafka/pom.xml package; \
	else echo "not installed: Apache Kafka, which comes by mvn; the rows that need it will say so"; fi

lock:  ## resolve the newest allowed versions into requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --group dev pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --group bench --constraint requirements.lock --output-file benchmarks/requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --group fuzz --output-file fuzz/requirements.lock

clean:
	rm -rf $(VENV)
