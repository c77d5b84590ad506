# What to do with a clone of userdisk. `make` alone explains itself.

# A distribution's own Python is usually the best optimised; it must be able to make a venv.
PYTHON ?= $(shell for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	> /dev/null 2>&1 && { echo "$$python"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

# What is slow, or needs programs of other projects, in parts; everything else is the unit part.
NBD_TESTS := $(wildcard $(addprefix tests/,attach/test_nbd*.py guest/test_nbd*.py interop/test_nbd*.py \
	nbd/test_client.py nbd/test_connection.py nbd/test_memory.py nbd/test_replay.py \
	nbd/test_withheld.py nbd/test_transmission.py test_both_protocols.py \
	test_nbd_both_ends.py test_nbd_client.py test_nbd_edge.py))
TOOLS_TESTS := $(wildcard $(addprefix tests/,dotnet scenarios scsitool stgtest \
	backend/test_iscsi.py backend/test_spd.py cli/test_scsitool.py cli/test_stgtest.py \
	guest/test_stgtest_crash.py iscsi/test_initiator_hostile.py spd/test_connection.py \
	test_initiator*.py))
LAUNCHER_TESTS := $(wildcard $(addprefix tests/,console desktop launcher/system telemetry/system))
CORE_TESTS := $(wildcard $(addprefix tests/,attach bench cli conformance docs interop guest \
	iscsi/test_data_out.py iscsi/test_fast_path_checks.py iscsi/test_residuals.py \
	iscsi/test_fuzz*.py target/test_operations.py target/test_*fuzz.py test_conftest.py \
	test_fuzz_coverage.py \
	target/test_*model.py target/test_*oracle.py testing \
	test_block_sessions.py test_fencing.py test_portal_groups.py test_resize.py \
	test_server_medium.py))
SYSTEM_TESTS := $(CORE_TESTS) $(NBD_TESTS) $(TOOLS_TESTS) $(LAUNCHER_TESTS)
# Where others share the machine a test with real servers may be late: there it may try twice, and
# the summary lists it (RERUN).
AGAIN := $(if $(CI),--reruns 1 -r fER)
SOURCES := $(wildcard src tests bench examples)

.DEFAULT_GOAL := help
.PHONY: help setup packages check format unit core nbd tools launcher launcher-endurance scenarios test conformance fuzz bench demo dotnet clean

help: ## this text
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo 'PYTHON=/path/to/python3 chooses the Python (3.11 or later); now: $(or $(PYTHON),none found)'

setup: $(VENV)/ready ## make .venv with userdisk (editable), its extras and the tools for tests

# Two steps, so that `make demo` need not wait for the tools of the tests.
$(VENV)/usable: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'no Python >= 3.11 that can make a venv was found;' \
	  'on Debian: apt-get install python3-venv; or say PYTHON=/path/to/python3' >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv $(VENV); }
	@echo 'installing userdisk'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[all]' --constraint constraints.txt
	@touch $@

$(VENV)/ready: $(VENV)/usable
	@echo 'installing the tools for tests'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[test]' --constraint constraints.txt
	@touch $@

packages: ## install the Debian packages that tests use (packages.txt), if root and on Debian
	@command -v dpkg-query > /dev/null || { echo 'not a Debian system: tests that need a program' \
	  'which is missing are skipped'; exit 0; }; \
	missing=$$(for package in $$(sed 's/#.*//' packages.txt); do \
	  dpkg-query -W -f '$${db:Status-Status}' "$$package" 2> /dev/null | grep -qx installed \
	  || echo "$$package"; done | xargs); \
	test -n "$$missing" || exit 0; \
	if [ "$$(id -u)" != 0 ]; then echo "not root: tests that need these packages are skipped:" \
	  "$$missing"; exit 0; fi; \
	echo "installing $$missing"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq install --yes --no-install-recommends $$missing > /dev/null

check: setup ## style (ruff format, ruff check) and types (mypy --strict)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy -p userdisk

format: setup ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Those that failed try twice, too; --reruns would cost as much as all of these tests.
UNIT := $(BIN)/python -m pytest -q $(addprefix --ignore=,$(SYSTEM_TESTS))
unit: setup ## the fast tests: no root, no other programs
	$(UNIT) --numprocesses auto $(if $(CI),|| $(UNIT) --last-failed --last-failed-no-failures all)

core: setup packages ## iSCSI and attached disks with other people's initiators, kernels and tools
	$(BIN)/python -m pytest -q $(AGAIN) $(addprefix --ignore=,$(NBD_TESTS) $(TOOLS_TESTS)) $(CORE_TESTS)

nbd: setup packages ## NBD with other people's clients, servers and kernels
	$(BIN)/python -m pytest -q $(AGAIN) $(NBD_TESTS)

tools: setup packages ## the tools, the pipe protocol and its other languages
	$(BIN)/python -m pytest -q $(AGAIN) $(TOOLS_TESTS)

launcher: setup packages ## the launcher, the desktop, the console, metrics and traces
	$(BIN)/python -m pytest -q $(AGAIN) $(LAUNCHER_TESTS)

launcher-endurance: setup packages ## kill a disk's process every 5 s for 5 minutes (SECONDS=300) under fio
	LAUNCHER_ENDURANCE=$(or $(SECONDS),300) $(BIN)/python -m pytest -q -s \
	  tests/launcher/system/test_restarts.py -k test_a_file_system_goes_on

scenarios: setup packages ## WinSpd's own test list, on rawdisk in Python and in C#
	$(BIN)/python -m pytest -v tests/scenarios

test: unit core nbd tools launcher ## every test but the conformance suite

conformance: setup packages ## libiscsi's suite against every kind of disk; CONFORMANCE='1 2' for some
	$(BIN)/python -m tests.conformance $(CONFORMANCE)

fuzz: setup ## fuzz PDUs and commands longer, with new inputs; which lines that reaches
	FUZZ_RANDOM=1 FUZZ_EXAMPLES=$(or $(EXAMPLES),300) $(BIN)/python -m tests.fuzz_coverage iscsi
	FUZZ_RANDOM=1 FUZZ_COMMANDS=$(or $(COMMANDS),1000000) $(BIN)/python -m tests.fuzz_coverage target

bench: setup packages ## measure against other servers and the socket limit; BENCH='--quick' for a short run
	$(BIN)/python -m bench.run $(BENCH)

dotnet: ## build the C# library and its samples, with Mono's compiler
	$(MAKE) -C dotnet

demo: $(VENV)/usable ## see a Python class become a disk, in under a minute; STAY=1: keep it, with a console
	$(BIN)/python examples/demo.py $(if $(STAY),--stay)

clean: ## remove the environment, caches and what was built
	rm -rf $(VENV) build dist bench/bin dotnet/bin src/*.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
