# A machine needs Python 3.10+ with venv and pip, and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCENES := --images demo/scenes/images --data demo/scenes/person_keypoints.json
# Measurements on real photographs: `make bench-nms WEIGHTS=best.pt IMAGES=photographs/`
WEIGHTS ?= demo
IMAGES ?= demo/scenes/images

# `make gpu-proof` runs in an environment of its own, with CUDA builds of PyTorch and ONNX Runtime.
GPU_VENV ?= .venv-gpu
GPU_PYTHON ?= $(GPU_VENV)/bin/python

# For `make test-all`: every supported Python that is installed.
PYTHONS ?= $(foreach version,3.10 3.11 3.12 3.13,$(shell command -v python$(version)))

.PHONY: help demo test test-slow test-all lint fix bench-nms bench-overhead bench-install gpu-proof clean

help:
	@echo "make demo        environment, export, benchmark against PyTorch, annotated pictures in demo/"
	@echo "make test        environment and tests; make test-slow: the longer tests; make test-all: on every Python found"
	@echo "make lint        ruff and mypy; make fix: what ruff can fix"
	@echo "make gpu-proof   tests, parity and time on the NVIDIA GPU of this machine (docs/tensorrt.md)"
	@echo "make bench-nms | bench-overhead | bench-install    measurements of docs/experiments.md"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Each step is a command that a user can type; what it prints goes to demo/demo.log, which is shown where a step fails.
STEP = @step() { "$$@" >> demo/demo.log 2>&1 || { status=$$?; tail -n 40 demo/demo.log; exit $$status; }; }; step

demo: $(READY)
	@rm -rf demo/people && mkdir -p demo && rm -f demo/demo.log
	@echo "The whole path on the demo network and synthetic scenes; a few minutes. Log: demo/demo.log"
	@echo "1/5  draw 48 scenes of people with exact keypoints       -> demo/scenes"
	$(STEP) $(BIN)/python -m yolopose.data.synthetic --count 48 --seed 99 --skeleton lsp-14 --output demo/scenes
	@echo "2/5  yolopose-export --weights demo                      -> demo/demo.onnx"
	$(STEP) $(BIN)/yolopose-export --weights demo --output demo $(SCENES)
	@echo "3/5  yolopose-export --weights demo --fp16               -> demo/demo-fp16.onnx"
	$(STEP) $(BIN)/yolopose-export --weights demo --output demo --fp16 $(SCENES)
	@echo "4/5  yolopose-bench both files against PyTorch           -> demo/benchmark/benchmark.md"
	$(STEP) $(BIN)/yolopose-bench demo/demo.onnx demo/demo-fp16.onnx --reference demo --output demo/benchmark $(SCENES)
	@echo "5/5  yolopose-run demo/demo.onnx --source demo/scenes    -> demo/people"
	$(STEP) $(BIN)/yolopose-run demo/demo.onnx --source demo/scenes/images --output demo/people
	@echo
	@sed -n '/^## Summary/,/^## [^S]/p' demo/benchmark/benchmark.md | sed '$$d'
	@echo "Look at the pictures in demo/people. Your photographs: $(BIN)/yolopose-run demo --source photo.jpg --output out"

# The runtime's tests run in a process of their own: some measure time and memory, and with every backend and PyTorch in
# one process, starting a subprocess after the OpenVINO tests ended in a segmentation fault (twice in two runs).
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" --ignore=tests/runtime
	$(BIN)/python -m pytest -m "not slow and not gpu" tests/runtime

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-all:
	@test -n "$(PYTHONS)" || { echo "no Python from 3.10 to 3.13 was found; name them: make test-all PYTHONS=/path/python3.10"; exit 1; }
	@for python in $(PYTHONS); do $(MAKE) test PYTHON=$$python VENV=.venv-$$(basename $$python) || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-nms: $(READY)
	$(BIN)/python -m yolopose.benchmarks.studies.nms --weights $(WEIGHTS) --images $(IMAGES)

# Runtime over bare session, and normalization, decode and NMS over the bare network, at 640: one thread, then two.
bench-overhead: $(READY)
	$(BIN)/yolopose-export --weights $(WEIGHTS) --output demo/overhead.onnx --imgsz 640
	$(BIN)/yolopose-bench demo/overhead.onnx --reference $(WEIGHTS) --imgsz 640 --threads 1
	$(BIN)/yolopose-bench demo/overhead.onnx --reference $(WEIGHTS) --imgsz 640 --threads 2

# Size, import time and contents of `pip install .[cpu]` in clean environments of every Python found.
bench-install:
	$(PYTHON) benchmarks/studies/install.py

$(GPU_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[export,gpu,cuda]' 'onnxruntime-gpu[cuda,cudnn]' 'pytest>=8'
	-$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check 'tensorrt>=10.3'  # without it the proof goes on
	touch $@

# Tests, parity, operator placement and time on this GPU, into benchmarks/results/. On a machine that has everything
# installed already (a Jetson, a container): make gpu-proof GPU_PYTHON=python3
gpu-proof: $(if $(filter $(GPU_VENV)/%,$(GPU_PYTHON)),$(GPU_VENV)/.ready)
	$(GPU_PYTHON) -m yolopose.benchmarks.gpu --weights $(WEIGHTS) --int8 $(GPU_PROOF)

clean:
	rm -rf $(VENV) $(VENV)-* $(GPU_VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
