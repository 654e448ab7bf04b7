# make help tells what there is.

PORT ?= 8000
PYTHON ?= python3
JOBS ?= 4
BIN := .venv/bin

.PHONY: help run serve test check compare fuzz test-matrix audit chaos bench bench-publish docs clean

help:  # this
	@echo "make TARGET, with PORT=8123 for another port and PYTHON=python3.13 for another interpreter:"
	@sed -n 's/^\([a-z-]*\):[^#]*  # \(.*\)/  \1\t\2/p' Makefile | expand -t 18

run: .venv/run.stamp  # the demonstration, at http://localhost:8000/
	DJANGO_DEBUG=1 $(BIN)/python manage.py migrate --verbosity 0
	DJANGO_DEBUG=1 $(BIN)/python manage.py runserver $(PORT)

serve: export DJANGO_SECRET_KEY ?= $(shell $(PYTHON) -c "import secrets; print(secrets.token_urlsafe(50))")
serve: export DJANGO_ALLOWED_HOSTS ?= localhost,127.0.0.1,[::1]
serve: .venv/run.stamp  # the same behind gunicorn, as in production
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py collectstatic --noinput --verbosity 0
	$(BIN)/gunicorn sse_demo.asgi --bind 127.0.0.1:$(PORT)

# Only modules of tests/ itself need neither a browser nor programs of Debian, which those of its directories run.
NAMED = $(filter tests%,$(ARGS))
PREPARE = $(if $(filter-out tests/test_%,$(or $(NAMED),tests)),\
	$(1)/python -m tests.browser.chromium && $(1)/python -m tests.debian && $(1)/python -m tests.browser.packages)

test: .venv/dev.stamp  # all tests; ARGS=tests/test_wire.py for some, JOBS=0 in one process (for --pdb, say)
	$(call PREPARE,$(BIN))
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope $(ARGS)

check: .venv/dev.stamp  # linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests with each version that is supported, in an environment of its own. The interpreters are those on PATH or
# pyenv's; PYTHON313=/opt/python/bin/python3 names another one.
MATRIX ?= 3.11-django-5.2 3.12-django-6.0 3.13-django-6.1

test-matrix: $(MATRIX:%=test-%)  # all tests on each supported version

test-%: .venv/%.stamp
	$(call PREPARE,.venv/$*/bin)
	.venv/$*/bin/python -m pytest --numprocesses $(JOBS) --dist loadscope $(ARGS)

audit: .venv/dev.stamp .venv/audit.stamp  # known vulnerabilities in what is installed
	.venv/audit/bin/pip-audit --strict --vulnerability-service pypi \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

chaos: BROKER ?= db:
chaos: SECONDS ?= 300
chaos: .venv/dev.stamp  # clients and faults; BROKER=redis: SECONDS=300
	$(BIN)/python -m tests.chaos --broker $(BROKER) --seconds $(SECONDS)

# The second line: what clients do that mean harm, with ten times as many of them.
fuzz: .venv/dev.stamp  # random requests; CASES=5000 for each property
	$(BIN)/python -m tests.fuzz
	STREAMS=10000 $(BIN)/python -m pytest tests/live/test_abuse.py

bench-publish: .venv/dev.stamp  # how fast one process publishes, by broker
	$(BIN)/python -m benchmarks.publish

compare: .venv/compare.stamp  # SSE beside polling, measured here; ARGS="--clients 1000"
	$(BIN)/python manage.py compare $(ARGS)

bench: .venv/bench.stamp  # this beside its peers; ROWS=own,mute ONLY=fan-out,nchan ROUNDS=3
	DJANGO_SECRET_KEY=benchmark $(BIN)/python manage.py collectstatic --noinput --verbosity 0
	DJANGO_SECRET_KEY=benchmark $(BIN)/python -m benchmarks.run

# A warning, such as a link that leads nowhere, is an error; the site is made anew, or a page once made would not be looked at.
docs: .venv/docs.stamp  # the documents as a site, in build/site/
	rm -rf build/site
	.venv/docs/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --write-all --quiet \
		--doctree-dir build/doctrees --conf-dir docs --builder html . build/site
	@echo "build/site/index.html"

clean:  # remove what these targets have made
	rm -rf .venv build staticfiles .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis

# One that fails (no python3-venv, an old Python) is not kept for the next try.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11, or is not there: name another with make PYTHON=python3.13." >&2; exit 1; }
	@$(PYTHON) -m venv .venv && $(BIN)/python -m pip --version > /dev/null || \
		{ rm -rf .venv; echo "No environment could be made in .venv. On Debian: apt-get install python3-venv." >&2; exit 1; }

.venv/audit.stamp: | .venv/bin/python
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

.venv/docs.stamp: docs/requirements.txt | .venv/bin/python
	$(BIN)/python -m venv .venv/docs
	.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
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

INSTALL = @echo "Installing $(1) into .venv, once; this can take minutes."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1)

.venv/run.stamp: requirements.txt | .venv/bin/python
	$(call INSTALL,requirements.txt)
	@touch $@

.venv/compare.stamp: requirements.txt requirements-compare.txt | .venv/bin/python
	$(call INSTALL,requirements-compare.txt)
	@touch .venv/run.stamp $@

.venv/dev.stamp: requirements.txt requirements-dev.txt | .venv/bin/python
	$(call INSTALL,requirements-dev.txt)
	@touch .venv/run.stamp $@

.venv/bench.stamp: requirements.txt benchmarks/requirements.txt | .venv/bin/python
	$(call INSTALL,benchmarks/requirements.txt)
	@touch .venv/run.stamp $@
