# make serve and make test are all that is needed; make help lists the rest.
PYTHON ?= /usr/bin/python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
EXT := $(wildcard ext/regproxy/*.pxd ext/regproxy/dataplane/*.pyx ext/regproxy/dataplane/*.pxd)
MODULES := $(patsubst ext/regproxy/dataplane/%.pyx,regproxy.dataplane.%,$(filter %.pyx,$(EXT)))
LINTED := regproxy tests bench setup.py

# What `make serve` runs with; the environment wins.
REGPROXY_LISTEN ?= [::]:3128
REGPROXY_ADMIN_LISTEN ?= [::]:3129
REGPROXY_CACHE_DIR ?= $(CURDIR)/.local/cache
REGPROXY_CA_DIR ?= $(CURDIR)/.local/ca
# host:port as a client on this machine calls it: every address is localhost to it.
reached = $(patsubst [::]:%,localhost:%,$(patsubst 0.0.0.0:%,localhost:%,$(patsubst :%,localhost:%,$1)))
CLIENTS = $(call reached,$(REGPROXY_LISTEN))
ADMIN = $(call reached,$(REGPROXY_ADMIN_LISTEN))

# cython-lint runs pycodestyle, which is looked for in PATH.
export PATH := $(BIN):$(PATH)
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-trixie test-asan fuzz lint types check build build-packages test-packages bench-packages demo-packages test-image test-debug demo bench bench-full bench-guard bench-guard-update bench-pages bench-distribution soak conformance e2e-new mixin
.PHONY: pictures format clean chart deb test-deploy test-deb docs

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1 \t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

serve: build ## run the proxy on directories under .local
	@printf '%s\n' \
	  '' \
	  'Point a client on this machine at it (from others: by this machine'"'"'s name):' \
	  '' \
	  '  export HTTPS_PROXY=http://$(CLIENTS)' \
	  '  curl -o ca.crt http://$(CLIENTS)/ca.crt   # the CA that clients have to trust' \
	  '  SSL_CERT_FILE=$$PWD/ca.crt skopeo inspect docker://registry.k8s.io/pause:3.9' \
	  '' \
	  'It is ready when http://$(ADMIN)/readyz says so; metrics are at /metrics there, and a page at /, whose' \
	  'tokens are in $(REGPROXY_CACHE_DIR)/state. Commands beside it want to know where that is:' \
	  '' \
	  '  export REGPROXY_CACHE_DIR=$(REGPROXY_CACHE_DIR) REGPROXY_CA_DIR=$(REGPROXY_CA_DIR)' \
	  '  $(BIN)/regproxy cache list' \
	  '' \
	  'Ctrl-C ends it.' \
	  ''
	@REGPROXY_LISTEN='$(REGPROXY_LISTEN)' REGPROXY_ADMIN_LISTEN='$(REGPROXY_ADMIN_LISTEN)' \
	  REGPROXY_CACHE_DIR='$(REGPROXY_CACHE_DIR)' REGPROXY_CA_DIR='$(REGPROXY_CA_DIR)' \
	  exec $(BIN)/regproxy serve

# The guard counts instructions, but what it asks for has to fit into a second.
test: ## install what is missing, build, lint, check types, count instructions, run all tests
	@$(MAKE) --no-print-directory build test-packages
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint types
	@$(MAKE) --no-print-directory bench-guard
	@$(MAKE) --no-print-directory check

TRIXIE ?= test
test-trixie: ## the same on a fresh Debian 13, a debootstrap root, as root; TRIXIE="check JOBS=2" runs make with that there
	$(PYTHON) -m tests.load.fresh_debian $(TRIXIE)

lint: build test-packages ## ruff, cython-lint and shellcheck
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/cython-lint ext tests/fuzz/harness
	shellcheck .ci/run .ci/packages deploy/image/finish deploy/deb/* deploy/helm/regproxy/files/nodes.sh

types: build ## mypy, and the stubs against the built modules
	$(BIN)/mypy
	$(BIN)/stubtest --ignore-disjoint-bases --allowlist .ci/stubtest.allow $(MODULES)

# Most tests wait for something most of the time: twice as many at a time as there are cores. By worksteal a
# module's tests stay together, mostly, so what they share is started once, not by each process. With bytecode
# each of these processes finds the tests' assertions rewritten.
JOBS ?= $(shell expr 2 \* $$(nproc))
check: build test-packages ## the tests alone; PYTEST=... adds arguments, JOBS=0 runs them one by one
	PYTHONDONTWRITEBYTECODE= REGPROXY_DEBUG=1 $(BIN)/pytest -n $(JOBS) --dist worksteal $(PYTEST)

test-asan: build test-packages ## the data plane's tests with AddressSanitizer and UBSan, about 4 minutes, 6 where it has to be built
	$(BIN)/python -m tests.support.sanitized

FUZZ ?= --seconds 600
fuzz: build test-packages ## all fuzzing targets, two at a time, with ASan and UBSan, 10 minutes; FUZZ='--seconds 60 --targets chunks' to choose
	$(BIN)/python -m tests.fuzz $(FUZZ)

demo: build demo-packages ## pull an image twice through the proxy and watch it
	@env -u HTTPS_PROXY -u https_proxy -u HTTP_PROXY -u http_proxy $(BIN)/python -m tests.e2e.demo

bench: build bench-packages ## measure it against nginx, squid, docker-registry and trafficserver, 10 minutes; build/bench/report.md
	@$(MAKE) --no-print-directory -C bench bench PYTHON=$(BIN)/python

bench-full: build bench-packages ## the same, with the figures that count
	@$(MAKE) --no-print-directory -C bench bench-full PYTHON=$(BIN)/python

bench-distribution: build ## build distribution 3 by Go, to be measured, too: python -m bench.run short --peers nginx,distribution
	$(BIN)/python -c 'from tests.conformance.programs import CACHE, DISTRIBUTION; DISTRIBUTION.build(CACHE)'

bench-pages: build test-packages ## how long the admin port's pages take with 100,000 images in the cache, 4 minutes
	$(BIN)/python -m tests.load.many_images

pictures: build test-packages ## draw the pictures of the web page anew, in docs/images
	$(BIN)/python -m tests.project.pictures

bench-guard: build test-packages ## instructions of the hot paths beside those in bench/guard/counts.json, under a minute
	$(BIN)/python -m bench.guard

bench-guard-update: build test-packages ## store them anew; the commit says why they have changed
	$(BIN)/python -m bench.guard --update

conformance: build test-packages ## the distribution-spec's own suite on two registries, by all ways in, 10 minutes; builds both by Go
	$(BIN)/python -m tests.conformance

e2e-new: build test-packages ## today's clients from a debootstrap root of Debian sid, as root, 4 minutes and 3 to make that
	$(BIN)/python -m tests.load.new_clients

test-image: build test-packages ## the container images: built by buildah on a debootstrap base, run by podman, as root, 15 minutes
	$(BIN)/python -m tests.image

test-debug: build test-packages ## the debug views, where Python is older than 3.12, with mitmproxy on a Debian 13's Python, as root
	$(BIN)/python -m tests.load.debug_views

soak: build test-packages ## kill it 200 times under load, 500 random fault scripts, a push of 10 GB, 30 minutes of mixed load on a small cache
	$(BIN)/python -m tests.load.chaos --rounds 200
	$(BIN)/python -m tests.load.scripts --examples 500
	$(BIN)/python -m tests.load.large_push --gigabytes 10
	$(BIN)/python -m tests.load.soak --minutes 30

# jsonnet writes where a folder is, and leaves files that are no longer rendered.
mixin: test-packages ## rules, alerts and dashboards anew from deploy/mixin, formatted
	jsonnetfmt -i deploy/mixin/*.*sonnet deploy/mixin/*/*.libsonnet
	rm -rf deploy/prometheus deploy/grafana && mkdir deploy/prometheus deploy/grafana
	jsonnet -S -m deploy/prometheus deploy/mixin/rules.jsonnet
	jsonnet -m deploy/grafana deploy/mixin/dashboards.jsonnet

# mkdocs-material tells of its maintenance in each run otherwise. With --quiet mkdocs counts no warning.
docs: $(VENV)/.docs ## the documentation as a site, in build/site, its links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m tests.project.site build/site

chart: build ## the Helm chart's table of values and its copies of rules and dashboards anew
	$(BIN)/python -m tests.deploy.chart

test-deploy: build test-packages ## the Helm chart, the kustomize base, the dashboards, by their own programs; builds these by Go, 15 minutes the first time
	$(BIN)/pytest tests/deploy/with_helm.py tests/deploy/with_dashboard_linter.py $(PYTEST)

deb: build-packages ## a Debian package for this machine's release, in dist
	deploy/deb/build dist

test-deb: build deb ## install, run, upgrade and remove it in a debootstrap root of Debian 12, on Debian 12, as root
	$(BIN)/python -m tests.deploy.deb

format: build ## let ruff format the Python files
	$(BIN)/ruff format $(LINTED)
	$(BIN)/ruff check --fix $(LINTED)

clean: ## remove what was built, and the venv
	rm -rf build dist regproxy.egg-info $(VENV)
	rm -f regproxy/dataplane/*.so

# --- the build ---------------------------------------------------------------------------------------------

build: $(VENV)/.built ## make the venv and build the data plane

build-packages:
	@.ci/packages build

test-packages:
	@.ci/packages test

demo-packages:
	@.ci/packages demo

bench-packages:
	@.ci/packages bench

$(VENV)/bin/python: | build-packages
	$(PYTHON) -m venv $(VENV)

# The build's own requirements come first, so that the modules are built with what is installed here, and once.
$(VENV)/.installed: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/pip install -q 'setuptools>=77' 'cython>=3.1,<4'
	REGPROXY_BUILD=0 $(BIN)/pip install -q --no-build-isolation -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	REGPROXY_BUILD=0 $(BIN)/pip install -q --no-build-isolation -e '.[docs]'
	touch $@

$(VENV)/.built: $(VENV)/.installed $(EXT)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@
