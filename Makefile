# make run | serve | test | check | fuzz | test-matrix | audit | chaos | bench | bench-publish
#   PORT=8123 to choose the port, PYTHON=python3.13 the interpreter, JOBS=0 to test in one process (for --pdb, say)

PORT ?= 8000
PYTHON ?= python3
JOBS ?= 4
BIN := .venv/bin

.PHONY: run serve test check fuzz test-matrix audit chaos bench bench-publish clean

run: .venv/run.stamp
	DJANGO_DEBUG=1 $(BIN)/python manage.py migrate --verbosity 0
	DJANGO_DEBUG=1 $(BIN)/python manage.py runserver $(PORT)

serve: export DJANGO_SECRET_KEY ?= $(shell $(PYTHON) -c "import secrets; print(secrets.token_urlsafe(50))")
serve: export DJANGO_ALLOWED_HOSTS ?= localhost,127.0.0.1,[::1]
serve: .venv/run.stamp
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py collectstatic --noinput --verbosity 0
	$(BIN)/gunicorn sse_demo.asgi --bind 127.0.0.1:$(PORT)

test: .venv/dev.stamp
	$(BIN)/python -m tests.browser.chromium
	$(BIN)/python -m tests.debian
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope $(ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests with the oldest and the newest versions, each in its own environment. The interpreters are those on PATH or
# pyenv's; PYTHON313=/opt/python/bin/python3 names another one.
MATRIX ?= 3.11-django-5.2 3.13-django-6.1

test-matrix: $(MATRIX:%=test-%)

test-%: .venv/%.stamp
	.venv/$*/bin/python -m tests.browser.chromium
	.venv/$*/bin/python -m tests.debian
	.venv/$*/bin/python -m pytest --numprocesses $(JOBS) --dist loadscope $(ARGS)

# Known vulnerabilities in what is installed, as the package index knows them.
audit: .venv/dev.stamp .venv/audit.stamp
	.venv/audit/bin/pip-audit --strict --vulnerability-service pypi \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# make chaos BROKER=redis: SECONDS=300
chaos: BROKER ?= db:
chaos: SECONDS ?= 300
chaos: .venv/dev.stamp
	$(BIN)/python -m tests.chaos --broker $(BROKER) --seconds $(SECONDS)

# make fuzz CASES=5000 for each property; then what clients do that mean harm, with ten times as many of them
fuzz: .venv/dev.stamp
	$(BIN)/python -m tests.fuzz
	STREAMS=10000 $(BIN)/python -m pytest tests/live/test_abuse.py

bench-publish: .venv/dev.stamp
	$(BIN)/python -m benchmarks.publish

# This project beside its peers: see benchmarks/run.py.
bench: .venv/bench.stamp
	DJANGO_SECRET_KEY=benchmark $(BIN)/python manage.py collectstatic --noinput --verbosity 0
	DJANGO_SECRET_KEY=benchmark $(BIN)/python -m benchmarks.run

clean:
	rm -rf .venv staticfiles .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/audit.stamp: | .venv/bin/python
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

version = $(firstword $(subst -, ,$*))

.PRECIOUS: .venv/%.stamp
.venv/%.stamp: requirements.txt requirements-compare.txt requirements-dev.txt
	@mkdir -p .venv
	@for python in "$(PYTHON$(subst .,,$(version)))" python$(version) "$$(pyenv prefix $(version) 2>/dev/null)/bin/python"; do \
		"$$python" -c "" 2>/dev/null && exec "$$python" -m venv --clear .venv/$*; \
	done; echo "No Python $(version): install it, or name it with PYTHON$(subst .,,$(version))=PATH." >&2; exit 1
	.venv/$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt "Django==$(lastword $(subst -, ,$*)).*"
	@touch $@

.venv/run.stamp: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev.stamp: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch .venv/run.stamp $@

.venv/bench.stamp: requirements.txt benchmarks/requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch .venv/run.stamp $@
