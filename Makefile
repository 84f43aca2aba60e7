# The map of the project: items -> responses -> traces -> tables -> figures + numbers -> paper. Start with `make help`.
# Everything is rebuilt by CONTENT. Before anything else `dontblink.lineage` reads from the sources what each stage
# depends on and writes one fingerprint a stage under results/<profile>/stages, rewritten only if it changed; a stamp
# under results/<profile>/done is as old as its stage's last run. A fresh clone, a pull or a touched file reruns nothing
# long, and no module is named here. Why something runs again: `make -n --debug=b all`.
ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU make >= 4.3 is needed and this is $(MAKE_VERSION); install it (macOS: `gmake`), or use environment.yml)
endif
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# Stages run side by side, one a core, unless -j says otherwise.
MAKEFLAGS := $(MAKEFLAGS) --no-builtin-rules $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell getconf _NPROCESSORS_ONLN))
PROFILE ?= testbed# small models on CPU; or paper: the real models, needs GPUs
override SET := $(if $(filter command,$(origin SET)),$(strip $(value SET)))# "section.key=value ..." for one run; from the command line only, never expanded
R := results/$(PROFILE)
S := $(R)/stages
D := $(R)/done
NOTEBOOKS := $(sort $(basename $(notdir $(wildcard notebooks/[0-9][0-9]_*.py))))# NN_section reads params section `section`

# The environment: an active one (conda's base does not count), else .venv built from the lock.
ENV := $(shell printf %q '$(subst ','\'',$(or $(value VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(value CONDA_PREFIX)),.venv))')
PYTHON ?= python3.11
PY := $(ENV)/bin/python
MARK := $(ENV)/.dontblink-$(firstword $(shell (cat requirements.lock pyproject.toml; pwd) | cksum))
READY := $(shell [ -e $(MARK) ] || echo install)# no file: a path with spaces can be no target
export SOURCE_DATE_EPOCH := 0
export PYTHONHASHSEED := 0
export HF_HUB_OFFLINE := $(if $(filter testbed,$(PROFILE)),1,0)

help: ## list the targets (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "  PROFILE=testbed (default, CPU) or paper (real models)"
	@echo '  SET="veto.coverage=0.8": other parameters for one run of all or pages; it overwrites the tracked figures'

env: $(READY) ## install the locked versions into the active environment, else into .venv
install:
	@.ci/install $(ENV) '$(PYTHON)'; rm -f $(ENV)/.dontblink-*; touch $(MARK)
# An included file is made before all else: fingerprints and parameters are those of now, whatever was asked for.
ifneq ($(filter all params extract evidence causal figures tex tex-check pages bench,$(MAKECMDGOALS)),)
$(shell mkdir -p $(R); [ -e $(R)/.looked ] || touch $(R)/.looked)
include $(R)/.looked
$(R)/.looked: again | $(READY)
	@$(PY) -m dontblink.lineage --profile $(PROFILE) --set '$(subst ','\'',$(SET))'
endif

all: figures $(D)/paper ## everything: extract if needed, every figure and number, the paper; was it reproduced?
	@$(PY) -m dontblink.publish.verify --write --profile $(PROFILE)
	@$(PY) -m dontblink.publish.verdict --profile $(PROFILE)
params: ; @: ## split params/<profile>.yaml into one JSON a section, under results/<profile>/params

extract: $(if $(DRY),dry-run,$(R)/extraction.json) ## responses and traces; resumes (PROFILE=paper: only this target; DRY=1: no model)
dry-run: params
	$(PY) -m dontblink_testbed.dry_run --profile $(PROFILE) $(if $(OFFICIAL),--official '$(subst ','\'',$(OFFICIAL))')
ifneq ($(filter testbed,$(PROFILE))$(filter extract,$(MAKECMDGOALS)),)
$(D)/extraction: $(S)/extraction $(if $(filter testbed,$(PROFILE)),,again) | $(READY)
	@$(PY) -m dontblink.extraction --profile $(PROFILE)
	@mkdir -p $(D); touch $@
else
$(D)/extraction: $(S)/extraction
	@echo "$@: no extraction of this code and these parameters; real models run only when asked to: make extract PROFILE=$(PROFILE)" >&2; exit 1
endif
# A recipe that does nothing, also under -n: make looks at the file's age again, which only new content changes.
$(R)/extraction.json: $(D)/extraction ; +@: look again at $@

figures: $(NOTEBOOKS:%=$(D)/%) ## run the notebooks whose inputs changed
$(NOTEBOOKS:%=$(D)/%): $(D)/%: $(S)/% $(R)/extraction.json | $(READY)
	@rm -f $@
	@$(PY) -m dontblink.publish.notebook notebooks/$*.py --params $(R)/params/$(patsubst $(firstword $(subst _, ,$*))_%,%,$*).json --profile $(PROFILE)
	@mkdir -p $(D); touch $@
$(D)/08_claims: $(filter-out %/08_claims,$(NOTEBOOKS:%=$(D)/%))
taken: $(NOTEBOOKS:%=$(D)/%) | $(READY)
	@$(PY) -m dontblink.publish.verdict --take --profile $(PROFILE)
$(D)/paper: $(S)/paper $(NOTEBOOKS:%=$(D)/%) | taken
	@$(if $(filter testbed,$(PROFILE)),$(PY) -m dontblink.publish.claims --readme --profile $(PROFILE))
	@$(PY) paper/build.py --profile $(PROFILE)
	@touch $@
tex: ## LaTeX of the paper into results/<profile>/paper
tex-check: ## the same, compiled where latexmk exists
tex tex-check: taken
	$(PY) paper/build.py --$(@:tex-check=check) --profile $(PROFILE)
diff: $(READY) ## which values moved since the last commit; ABOVE=0.1: by more than 0.1 % of what is known of them
	@$(PY) -m dontblink.publish.verdict --list --profile $(PROFILE) --above $(or $(ABOVE),0)
pages: $(D)/pages ## the notebooks and a trace viewer as a static site that opens from a file (half a minute)
$(D)/pages: $(S)/pages $(NOTEBOOKS:%=$(D)/%) | $(READY)
	$(PY) -m dontblink.publish.pages $(NOTEBOOKS) --profile $(PROFILE)
	@touch $@
lab: $(READY) ## JupyterLab; notebooks/*.py open as notebooks by double click
	JUPYTER_CONFIG_DIR="$$PWD/.jupyter" $(PY) -m jupyterlab $(LAB_ARGS)
testbed: $(READY) ## train the testbed's checkpoints from scratch (hours on 2 cores; resumes)
	for step in train "publish weights" calibrate "publish cards"; do $(PY) -m dontblink_testbed.$$step; done
evidence: $(R)/extraction.json | $(READY) ## evidence without annotators: proposed where boxes lack, judged where they are known; resumes (an hour)
	$(PY) -m dontblink.extraction evidence --profile $(PROFILE) && $(PY) -m dontblink.publish.evidence --profile $(PROFILE)
causal: $(R)/extraction.json | $(READY) ; @$(PY) -m dontblink.extraction $@ --profile $(PROFILE) ## looks taken away, replaced, kept up; into figures/causal; resumes (an hour)
simulate: $(READY) ## are intervals, tests and rules right where the truth is known? half an hour after all; resumes
	$(PY) -m dontblink_simulation && $(PY) -m dontblink_simulation rules
bench: all ## speed and memory against their bars, into bench/README.md: 35 minutes after all; COLD=1: and a cold make all
	@export OMP_NUM_THREADS=1; for script in capture.py watch.py intervene.py replay_true_shape.py memory.py batches.py bootstrap.py "make.py $(if $(COLD),--cold)" report.py; do $(PY) bench/$$script; done
verify: $(READY) ## do the tracked figures belong to these sources, and what was made here to them? a second
	@$(PY) -m dontblink.publish.verify --profile $(PROFILE)
	@$(PY) -m dontblink.publish.verdict --where-made --profile $(PROFILE)
portable: $(READY) ## are a small study's bytes the same on two other processors? emulated (Debian: qemu-user), an hour
	$(PY) tests/portable.py
campaign: $(READY) ## 100 kills and other faults, 4000 bad inputs: nothing lost, torn or unnamed? about 20 minutes
	$(PY) tests/faults/campaign.py --kills 100 --seed 1
	HF_HUB_OFFLINE=1 $(PY) -m pytest -q -m bad_input --hypothesis-profile campaign --hypothesis-seed 1
test: $(READY) ## lint, types and all tests that are quick, offline
	$(PY) -m ruff check . && $(PY) -m mypy && HF_HUB_OFFLINE=1 $(PY) -m pytest -q -n auto --dist loadfile -m 'not slow' $(PYTEST_ARGS)
test-all: test ## and the slow ones, which start kernels, servers and runs of their own; this is what CI runs
	HF_HUB_OFFLINE=1 $(PY) -m pytest -q -n auto --dist loadfile -m slow $(PYTEST_ARGS)
lock: $(READY) ## rewrite requirements.lock from pyproject.toml
	$(PY) -m pip --disable-pip-version-check install -q pip-tools && $(PY) .ci/lock.py $(LOCK_ARGS)
audit: ## hold the lock against the advisories of the day: takes a network and pip-audit, from outside this environment
	@.ci/audit $(AUDIT_ARGS)
clean: ## remove results/ (figures, checkpoints, half-done training and simulated studies stay)
	rm -rf $(filter-out results/simulation results/training,$(wildcard results/*))
.PHONY: help env all params extract dry-run figures tex tex-check diff pages lab testbed simulate bench evidence causal verify portable taken campaign test test-all lock audit clean install again
