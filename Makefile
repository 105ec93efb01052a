# `make demo` and `make test` set up everything they need in .venv; PYTHON chooses the interpreter (3.9 to 3.13).
PYTHON ?= python3
VENV ?= .venv
RUN = PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CHAIN = test_tipc/configs/CaiT/train_infer_python.txt
READY = $(VENV)/.ready

.PHONY: help demo test test-slow mutants faults versions package lint parity-all tipc tipc-all align align-live notebook
.PHONY: documents figures gpu-check paddlex web-test gradio-test docker-steps clean

help:
	@echo 'make demo        train, evaluate, export and run a small CaiT on scanned digits'
	@echo 'make test        the test suite'
	@echo 'make test-slow   the tests that take minutes'
	@echo 'make mutants     whether a test fails for each deliberate fault of tests/mutants.tsv (an hour)'
	@echo 'make faults      kills, mutated files, odd images, failing disks, memory: the long form (hours)'
	@echo 'make versions    the reduced suite with Paddle 3.0 to 3.3, an environment each (VERSIONS: which)'
	@echo 'make package     build the package, install it into a new environment and try the command cait there'
	@echo 'make parity-all  compare all models with the golden values, large ones too (GOLDENS=folder)'
	@echo 'make tipc        the certification chain on 16 + 16 digits; make tipc-all: every chain (ten minutes)'
	@echo 'make align       the five alignment steps of the reproduction guide'
	@echo 'make align-live  the same, the reference computed now (PEER=interpreter with torch and timm)'
	@echo 'make notebook    the quick-start notebook, from top to bottom'
	@echo 'make documents   the commands of the documents in fresh copies; their figures against the results (FLAGS)'
	@echo 'make figures     the figures of the documents (PRETRAINED=checkpoint: the attention figure too)'
	@echo 'make gpu-check   everything that wants a GPU, with a report to attach to an issue'
	@echo 'make paddlex     PaddleX in an environment of its own runs an export and gives the answers of infer.py'
	@echo 'make web-test    the web page of --client web in headless Chromium gives the answers of infer.py'
	@echo 'make gradio-test the page of app.py in headless Chromium, with Gradio 4.26 and 6'
	@echo 'make docker-steps  the steps of the Dockerfile, without Docker'
	@echo 'make lint        ruff'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[digits,plots,test]'
	touch $@

demo: $(READY)
	$(RUN) python -m CaiT.tools.demo

test: $(READY)
	$(RUN) python -m pytest -n $(or $(JOBS),2) --dist loadfile $(TESTS)

test-slow: $(READY)
	$(RUN) python -m pytest -n $(or $(JOBS),0) --dist loadfile -m slow $(TESTS)

mutants: $(READY)
	$(RUN) python tests/mutants.py $(FAULTS)

# atheris, where it has a wheel for this Python, guides the fuzzer; it has an environment of its own.
faults: $(READY)
	$(RUN) python tests/faults/kills.py training --kills 50
	$(RUN) python tests/faults/kills.py training --kills 10 --dataset tar --shuffle block:5
	$(RUN) python tests/faults/kills.py ranks --kills 20
	$(RUN) python tests/faults/kills.py infer --kills 20
	$(RUN) python tests/faults/kills.py export --kills 20
	$(RUN) python tests/faults/forks.py --rounds 2000
	$(RUN) python tests/faults/odd_images.py --images 2000
	$(RUN) python tests/faults/failing_writes.py
	$(RUN) python tests/faults/memory_slopes.py training --count 5000
	$(RUN) python tests/faults/memory_slopes.py infer --count 20000
	$(RUN) python -m venv $(VENV)-fuzz
	-$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris
	PYTHONPATH="$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		$(VENV)-fuzz/bin/python tests/faults/fuzz_readers.py --seconds 1200 --portion 60 \
		--campaign tests/faults/campaign.json

versions:
	PYTHON=$(PYTHON) bash tests/versions.sh $(VERSIONS)

package:
	PYTHON=$(PYTHON) bash .ci/package

lint: $(READY)
	$(RUN) ruff check .

parity-all: $(READY)
	$(RUN) python -m CaiT.tools.check_goldens -goldens $(or $(GOLDENS),tests/goldens)

tipc: $(READY)
	$(RUN) PYTHON=python bash test_tipc/prepare.sh $(CHAIN) lite_train_lite_infer
	$(RUN) PYTHON=python bash test_tipc/test_train_inference_python.sh $(CHAIN) lite_train_lite_infer

tipc-all: $(READY)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnxruntime]' paddle2onnx
	$(RUN) PYTHON=python bash test_tipc/run_all.sh

align: $(READY)
	$(RUN) python -m CaiT.tools.align

align-live: $(READY)
	$(RUN) python -m CaiT.tools.align -live -peer_python $(or $(PEER),python3)

notebook: $(READY)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebook]'
	$(RUN) python -m CaiT.tools.run_notebook

documents: $(READY)
	$(RUN) python tests/document_figures.py
	$(RUN) python tests/run_documents.py $(FLAGS)

figures: $(READY)
	$(RUN) python -m CaiT.tools.figures $(if $(PRETRAINED),-pretrained=$(PRETRAINED)) $(FLAGS)

gpu-check: $(READY)
	$(RUN) python -m CaiT.tools.gpu_check

paddlex: $(READY)
	test -x $(VENV)-paddlex/bin/python || bash benchmarks/make_paddlex.sh $(VENV)-paddlex $(PYTHON)
	CAIT_PADDLEX="$(CURDIR)/$(VENV)-paddlex/bin/python" $(RUN) python -m pytest -m slow tests/deploy/test_client_paddlex.py

# ORT_WEB: the npm package onnxruntime-web, unpacked, where it is at hand; else npm gets it.
web-test: $(READY)
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		{ echo 'make web-test: needs Chromium; apt-get install chromium' >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnxruntime]'
	test -n "$(ORT_WEB)" || test -d $(VENV)/ort-web/package || \
		{ mkdir -p $(VENV)/ort-web && cd $(VENV)/ort-web && \
		npm pack --silent onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz; }
	CAIT_ORT_WEB="$(or $(ORT_WEB),$(CURDIR)/$(VENV)/ort-web/package)" \
		$(RUN) python -m pytest -m slow tests/deploy/test_client_web.py

gradio-test: $(READY)
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		{ echo 'make gradio-test: needs Chromium; apt-get install chromium' >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnxruntime]'
	bash tests/make_gradio.sh $(VENV)-gradio $(PYTHON)
	CAIT_GRADIO="$(CURDIR)/$(VENV)-gradio/4/bin/python:$(CURDIR)/$(VENV)-gradio/6/bin/python" \
		$(RUN) python -m pytest -m slow tests/test_app.py

docker-steps: $(READY)
	$(RUN) python tests/docker_steps.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
