# make demo: the main job on phantom patients, from nothing to a table, a picture and a report, 5 minutes on two cores
# make benchmark PATIENTS=DIR: seconds and memory of loading, training and inference against other networks, on BraTS patients
# make label STUDIES=DIR [LABELS=DIR] [T1CE=PATTERN] [PORT=8000] [HOST=127.0.0.1]: a MONAI Label server with this bundle, for 3D Slicer and OHIF
# make zoo: what the Model Zoo asks of a bundle
# make viewer: takes NiiVue, the report's viewer, from its npm package again; wants npm
# make faults: kills, full and read-only disks, lost helpers, long runs; prints trials and failures; an hour of one core
# make test: the default tests;  make test-slow: the others;  make lint: ruff and mypy

PYTHON ?= python3
VENV := .venv
LABEL := .venv-label
PORT := 8000
HOST := 127.0.0.1
APP := serving/app
BIN := $(abspath $(VENV))/bin
DEMO := $(abspath demo)
RUN := cd bundle && $(BIN)/python -m scripts
PAGE := $(abspath bundle/scripts/report/page)
NIIVUE := 0.69.0
DATA := --dataset_dir $(DEMO)/data --datalist $(DEMO)/datalist.json

.PHONY: demo test test-slow faults zoo label studies benchmark viewer lint clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check ".[dev]"
	touch $@

demo: $(VENV)/ready
	rm -rf $(DEMO)
	$(RUN) phantom --output_dir $(DEMO)/data --cases 24 --size 48
	$(RUN) datalist --dataset_dir $(DEMO)/data --output $(DEMO)/datalist.json --folds 3
	$(RUN) train --method demo $(DATA) --output_dir $(DEMO)/distilled
	$(RUN) train --method demo,student_alone $(DATA) --output_dir $(DEMO)/alone
	$(RUN) evaluate --method demo $(DATA) --output_dir $(DEMO)/distilled
	$(RUN) evaluate --method demo $(DATA) --output_dir $(DEMO)/alone
	$(RUN) overview --picture $(DEMO)/picture.png \
	  --runs distilled=$(DEMO)/distilled,alone=$(DEMO)/alone
	$(RUN) report --run $(DEMO)/distilled

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not zoo"

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

faults: $(VENV)/ready
	FAULTS=long $(BIN)/python -m pytest tests/faults
	FAULTS_EXAMPLES=2400 $(BIN)/python -m pytest tests/test_fuzz.py

zoo: $(VENV)/ready
	$(BIN)/python -m pytest -m zoo
	$(BIN)/black -q --check -l 120 bundle tests/zoo
	$(BIN)/isort -q --check --profile black -l 120 --src bundle bundle tests/zoo
	$(BIN)/flake8 --max-line-length 120 --extend-ignore E203 bundle tests/zoo

$(LABEL)/ready: pyproject.toml
	@echo "Once: MONAI Label 0.8.5, PyTorch and what they need go into $(LABEL): 4 GB (more with CUDA), about 5 minutes."
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/pip install --disable-pip-version-check torch==2.13.0
	$(LABEL)/bin/pip install --disable-pip-version-check ".[label]"
	touch $@

studies:
	@test -n "$(STUDIES)" || { echo "make label wants STUDIES=DIR, a folder of patients or T1ce volumes"; exit 2; }

label: studies $(LABEL)/ready
	@exec $(LABEL)/bin/python serving/serve.py --studies "$(STUDIES)" --labels "$(LABELS)" --t1ce "$(T1CE)" \
	  --host $(HOST) --port $(PORT) --app $(APP)

benchmark: $(VENV)/ready
	@test -n "$(PATIENTS)" || { echo "make benchmark wants PATIENTS=DIR, a folder of BraTS patients at 1 mm"; exit 2; }
	$(BIN)/python benchmarks/benchmark.py --dataset_dir $(PATIENTS)

viewer:
	folder=$$(mktemp -d) && cd $$folder && npm pack --silent @niivue/niivue@$(NIIVUE) && tar xzf niivue-*.tgz \
	  && gzip -9nc package/dist/niivue.umd.js > $(PAGE)/niivue.umd.js.gz && rm -r $$folder

lint: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) $(LABEL) $(APP) $(DEMO) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
