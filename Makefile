# The map of the project: items -> responses -> traces -> tables -> figures + numbers. Start with `make help`.
# Everything is rebuilt by CONTENT: each group of sources has a fingerprint under results/<profile>/sources, rewritten
# only when a checksum changes. A fresh clone, a pull or a touched file by itself reruns nothing long.
ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU make >= 4.3 is needed and this is $(MAKE_VERSION); install it (macOS: `gmake`), or use environment.yml)
endif
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
PROFILE ?= testbed# small models on CPU; or paper: the real models, needs GPUs
override SET := $(if $(filter command,$(origin SET)),$(strip $(value SET)))# "section.key=value ..." for one run; from the command line only, never expanded
R := results/$(PROFILE)
S := $(R)/sources
P := $(R)/params
F := figures/$(PROFILE)

# The environment: an active one (conda's base does not count), else .venv built from the lock.
ENV := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)),.venv)
PYTHON ?= python3.11
PY := $(ENV)/bin/python
READY := $(ENV)/.dontblink-$(firstword $(shell (cat requirements.lock pyproject.toml; pwd) | cksum))
export SOURCE_DATE_EPOCH := 0
export PYTHONHASHSEED := 0
export HF_HUB_OFFLINE := $(if $(filter testbed,$(PROFILE)),1,0)
# The notebooks in the paper's order; NN_section reads params section `section`.
NOTEBOOKS := 00_testbed 01_extraction 02_collapse 03_entropy 04_interaction 05_veto 08_claims
section = $(patsubst $(firstword $(subst _, ,$(1)))_%,%,$(1))
SECTIONS := $(sort extraction pages questions server $(foreach n,$(NOTEBOOKS),$(call section,$(n))))
FIGURES := $(foreach n,$(NOTEBOOKS),$(F)/$(n).json $(F)/$(n).pdf $(F)/$(n).png)
PAPER := $(if $(filter testbed,$(PROFILE)),paper/paper.pdf,$(R)/paper/paper.pdf)

# The modules by what they feed; one that is not named here counts as part of the extraction. `aside`: no figure's.
aside := annotators box_formats box_widget boxes changes coverage cvat_format dry_run exchange lineage manuscript params \
  params_schema paths proposals register selection simulate stand_in studies trials verify
resampling := bootstrap cells multiplicity replicates
uses_00_testbed := $(addprefix benchmarks/testbed/,architectures calibrate fast_forward lessons vocabulary)
uses_01_extraction := benchmarks/agreement crosscheck
uses_02_collapse := bootstrap collapse controls examples multiplicity
uses_03_entropy := $(resampling) firth logit newton auroc entropy obuchowski ranks charts reliability shuffles transfer transfer_rules
uses_04_interaction := $(resampling) firth logit newton charts deals interaction quadrants within
uses_05_veto := $(resampling) firth logit newton auroc entropy obuchowski ranks certify charts risk_coverage veto veto_rules
uses_08_claims := bootstrap cells replicates risk_coverage arithmetic claim_charts claims numbers verdicts
draw := describe notebook picture plots record
train := architectures calibrate fast_forward lessons publish train vocabulary
LIB := $(wildcard lib/dontblink/*.py lib/dontblink/*/*.py lib/dontblink/*/*/*.py)
module = $(filter $(1:%=lib/dontblink/%.py),$(LIB))
OWN := $(sort $(foreach n,$(NOTEBOOKS),$(call module,$(uses_$(n)))))
DRAW := $(call module,$(draw)) $(wildcard lib/dontblink/*.mplstyle)
SITE := $(call module,markup pages viewer) $(wildcard lib/dontblink/site/*)
TRAIN := $(train:%=lib/dontblink/benchmarks/testbed/%.py)
EXTRACT := $(filter-out $(OWN) $(DRAW) $(SITE) $(TRAIN) $(call module,$(aside)),$(LIB))
CHECKPOINTS := $(wildcard $(addprefix models/testbed/,*.json */*.json */*.safetensors */*.jinja))
# fingerprint NAME, FILES, TEXT: refresh $(S)/NAME if the files' checksums or the text changed since it was written.
fingerprint = $(shell mkdir -p $(S); new=$$(cksum $(2) </dev/null; echo '$(subst ','\'',$(3))'); \
  [ "$$new" = "$$(cat $(S)/$(1) 2>/dev/null)" ] || echo "$$new" > $(S)/$(1))
ifneq ($(filter-out help env test clean lock audit lab testbed diff simulate verify campaign,$(or $(MAKECMDGOALS),help)),)
  $(shell mkdir -p $(P) $(S); touch $(S)/.now; find $(S) $(P) -name '[!.]*' -type f -newer $(S)/.now -exec touch -r $(S)/.now {} +; \
    find $(R) $(wildcard $(F) $(PAPER)) -type f -newer $(S)/.now -exec touch -t 200001010000 {} +)
  $(call fingerprint,params,$(wildcard params/*.yaml) $(call module,params),$(SET))
  $(call fingerprint,extract,$(EXTRACT) requirements.lock)
  $(call fingerprint,draw,$(DRAW) $(call module,schema tables) requirements.lock)
  $(call fingerprint,manifest,$(LIB))$(call fingerprint,checkpoints,$(CHECKPOINTS))$(call fingerprint,site,$(SITE))
  $(foreach n,$(NOTEBOOKS),$(call fingerprint,$(n),$(wildcard notebooks/$(n).py) $(call module,$(uses_$(n))) $(if $(filter 08_%,$(n)),paper/claims.yaml)))
  $(call fingerprint,paper,$(filter-out %.pdf,$(wildcard paper/*.*)) $(call module,claims manuscript numbers verdicts))
endif

help: ## list the targets (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "  PROFILE=testbed (default, CPU) or paper (real models); why something reruns: make params && make -n --debug=b all"
	@echo '  SET="veto.coverage=0.8": other parameters for one run of all or pages; it overwrites the tracked figures'

env: $(READY) ## install the locked versions into the active environment, else into .venv
$(READY):
	@.ci/install $(ENV) $(PYTHON)
	@rm -f $(ENV)/.dontblink-*; touch $@

all: figures $(PAPER) $(R)/.manifest ## everything: extract if needed, every figure and number, the paper
params: $(SECTIONS:%=$(P)/%.json) ## split params/<profile>.yaml into one JSON a section
$(P)/.split: $(S)/params $(if $(filter-out $(wildcard $(P)/*.json),$(SECTIONS:%=$(P)/%.json)),again) | $(READY)
	@$(PY) -m dontblink.params params/$(PROFILE).yaml --out $(P) --set '$(subst ','\'',$(SET))'
	@touch $@
# A recipe that does nothing, also under -n: make looks at the file's age again, which only new content changes.
$(SECTIONS:%=$(P)/%.json): $(P)/.split ; +@: look again at $@

extract: $(if $(DRY),dry-run,$(R)/extraction.json) ## responses and traces; resumes (PROFILE=paper: only this target; DRY=1: no model)
dry-run: params
	$(PY) -m dontblink.extraction.dry_run --profile $(PROFILE) $(if $(OFFICIAL),--official '$(subst ','\'',$(OFFICIAL))')
ifneq ($(filter testbed,$(PROFILE))$(filter extract,$(MAKECMDGOALS)),)
EXPECTED := $(R)/extraction.json $(R)/shards.txt $(strip $(file < $(R)/shards.txt))
$(R)/.extracted: $(P)/extraction.json $(P)/questions.json $(P)/server.json $(P)/testbed.json $(S)/extract $(S)/checkpoints \
  $(if $(filter-out $(wildcard $(EXPECTED)),$(EXPECTED))$(filter-out testbed,$(PROFILE)),again) | $(READY)
	$(PY) -m dontblink.extraction --profile $(PROFILE)
	@touch $@
$(R)/extraction.json $(R)/shards.txt &: $(R)/.extracted ; +@: look again at $@
else
$(R)/extraction.json:
	@echo "$@: not there; real models run only when asked to: make extract PROFILE=$(PROFILE)" >&2; exit 1
endif

figures: $(FIGURES) ## run the notebooks whose inputs changed
define notebook # NAME, more prerequisites: one notebook makes its figure and its numbers
$(F)/$(1).json $(F)/$(1).pdf $(F)/$(1).png &: $(S)/$(1) $(S)/draw $(P)/$(call section,$(1)).json \
  $(R)/extraction.json $(if $(wildcard $(R)/notebooks/$(1).unfinished),again) $(2) | $(READY)
	$(PY) -m dontblink.publish.notebook notebooks/$(1).py --params $(P)/$(call section,$(1)).json --profile $(PROFILE)
endef
$(eval $(call notebook,00_testbed,$(S)/extract $(S)/checkpoints $(P)/extraction.json))
$(eval $(call notebook,01_extraction,$(S)/extract))
$(foreach n,$(filter-out 00_% 01_% 08_%,$(NOTEBOOKS)),$(eval $(call notebook,$(n))))
$(eval $(call notebook,08_claims,$(foreach n,$(filter-out 08_%,$(NOTEBOOKS)),$(F)/$(n).json)))
$(PAPER): $(S)/paper $(FIGURES) | $(READY)
	$(if $(filter testbed,$(PROFILE)),$(PY) -m dontblink.publish.claims --readme --profile $(PROFILE))
	$(PY) paper/build.py --profile $(PROFILE)
$(R)/.manifest: $(FIGURES) $(PAPER) $(SECTIONS:%=$(P)/%.json) $(wildcard $(S)/*) $(if $(wildcard $(F)/manifest.json),,again) | $(READY)
	+@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(MAKE) --no-print-directory -q $(FIGURES) $(PAPER) || { \
	  echo "$@: not written, a source changed while make ran or a target is lost; run \`make all\` again" >&2; exit 1; })
	$(PY) -m dontblink.publish.verify --write --profile $(PROFILE)
	@touch $@
tex: ## LaTeX of the paper into results/<profile>/paper
tex-check: ## the same, compiled where latexmk exists
tex tex-check: $(FIGURES) | $(READY)
	$(PY) paper/build.py --$(@:tex-check=check) --profile $(PROFILE)
diff: $(READY) ## which numbers moved since the last commit; ABOVE=0.1: only those that did by more than 0.1 %
	@$(PY) -m dontblink.publish.changes --profile $(PROFILE) --above $(or $(ABOVE),0)
pages: $(R)/pages/index.html ## the notebooks and a trace viewer as a static site that opens from a file (half a minute)
$(R)/pages/index.html: $(filter %.json,$(FIGURES)) $(R)/extraction.json $(P)/pages.json $(S)/site | $(READY)
	$(PY) -m dontblink.publish.pages $(NOTEBOOKS) --profile $(PROFILE)
lab: $(READY) ## JupyterLab; notebooks/*.py open as notebooks by double click
	JUPYTER_CONFIG_DIR=$(CURDIR)/.jupyter $(PY) -m jupyterlab $(LAB_ARGS)
testbed: $(READY) ## train the testbed's checkpoints from scratch (hours on 2 cores; resumes)
	for step in train "publish weights" calibrate "publish cards"; do $(PY) -m dontblink_testbed.benchmark.$$step; done
simulate: $(READY) ## are intervals and tests right where the truth is known? 20 minutes on 2 cores; resumes
	$(PY) -m dontblink_simulation.simulate
bench: all ## speed and memory against their bars, into the README: 10 minutes after all; COLD=1: and a cold make all
	@export OMP_NUM_THREADS=1; for script in capture.py memory.py batches.py bootstrap.py "make.py $(if $(COLD),--cold)" report.py; do $(PY) bench/$$script; done
verify: $(READY) ## do the tracked figures belong to these sources, parameters and models? hashes only, a second
	@$(PY) -m dontblink.publish.verify --profile $(PROFILE)
campaign: $(READY) ## 100 kills and other faults, 1000 bad inputs: nothing lost, torn or unnamed? about 20 minutes
	for part in "faults/campaign.py --kills 100" "bad_input_campaign.py --inputs 1000"; do $(PY) tests/$$part --seed 1; done
test: $(READY) ## lint, types and tests, offline; this is what CI runs
	$(PY) -m ruff check . && $(PY) -m mypy
	HF_HUB_OFFLINE=1 $(PY) -m pytest -q $(PYTEST_ARGS)
lock: $(READY) ## rewrite requirements.lock from pyproject.toml
	$(PY) -m pip --disable-pip-version-check install -q pip-tools && $(PY) .ci/lock.py $(LOCK_ARGS)
audit: ## hold the lock against the advisories of the day: takes a network and pip-audit, from outside this environment
	@.ci/audit $(AUDIT_ARGS)
clean: ## remove results/ (figures, checkpoints, half-done training and simulated studies stay)
	rm -rf $(filter-out results/simulation results/training,$(wildcard results/*))
.PHONY: help env all params extract dry-run figures tex tex-check diff pages lab testbed simulate bench verify campaign test lock audit clean again
