# make run | serve | test | check | chaos | bench | bench-publish
#   PORT=8123 to choose the port, PYTHON=python3.13 the interpreter

PORT ?= 8000
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run serve test check chaos bench bench-publish clean

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
	$(BIN)/python -m tests.systemd
	$(BIN)/python -m pytest $(ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make chaos BROKER=redis: SECONDS=300
chaos: BROKER ?= db:
chaos: SECONDS ?= 300
chaos: .venv/dev.stamp
	$(BIN)/python -m tests.chaos --broker $(BROKER) --seconds $(SECONDS)

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

.venv/run.stamp: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev.stamp: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch .venv/run.stamp $@

.venv/bench.stamp: requirements.txt benchmarks/requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch .venv/run.stamp $@
