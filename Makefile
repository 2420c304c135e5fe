# Everything that this project asks of a machine is Python 3.10+ with venv and pip, and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCENES := --images demo/scenes/images --data demo/scenes/person_keypoints.json
# Measurements on real photographs: `make bench-nms WEIGHTS=best.pt IMAGES=photographs/`
WEIGHTS ?= demo
IMAGES ?= demo/scenes/images

# What the proof on a GPU runs with: by default an environment of its own, with CUDA builds of PyTorch and ONNX Runtime.
GPU_VENV ?= .venv-gpu
GPU_PYTHON ?= $(GPU_VENV)/bin/python

.PHONY: help demo test test-slow lint fix bench-nms bench-overhead bench-install gpu-proof clean

help:
	@echo "make demo        environment, export, benchmark against PyTorch, annotated pictures in demo/"
	@echo "make test        environment and the tests; make test-slow: the longer proofs"
	@echo "make lint        ruff and mypy; make fix: what ruff can mend"
	@echo "make gpu-proof   what this GPU does: tests, parity, time (docs/tensorrt.md)"
	@echo "make bench-nms | bench-overhead | bench-install    the measurements of docs/log.md"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The whole path on the embedded network and scenes; every line is a command that a user can type.
demo: $(READY)
	$(BIN)/python -m yolopose.data.synthetic --count 48 --seed 99 --skeleton lsp-14 --output demo/scenes
	$(BIN)/yolopose-export --weights demo --output demo $(SCENES)
	$(BIN)/yolopose-export --weights demo --output demo --fp16 $(SCENES)
	$(BIN)/yolopose-bench demo/demo.onnx demo/demo-fp16.onnx --reference demo --output demo/benchmark $(SCENES)
	$(BIN)/yolopose-run demo/demo.onnx --source demo/scenes/images --output demo/people
	@echo "Pictures: demo/people. With photographs: yolopose-run demo/demo.onnx --source photographs/ --output people/"

# The runtime's tests apart, and alone, because some of them look at times and memory: with every engine and PyTorch in
# one process, starting a subprocess after OpenVINO's tests ended in a segmentation fault, twice in two runs.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" --ignore=tests/runtime
	$(BIN)/python -m pytest -m "not slow and not gpu" tests/runtime

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-nms: $(READY)
	$(BIN)/python -m yolopose.benchmarks.studies.nms --weights $(WEIGHTS) --images $(IMAGES)

# Runtime over bare session, and normalisation, decode and NMS over the bare network, at 640: one thread, then two.
bench-overhead: $(READY)
	$(BIN)/yolopose-export --weights $(WEIGHTS) --output demo/overhead.onnx --imgsz 640
	$(BIN)/yolopose-bench demo/overhead.onnx --reference $(WEIGHTS) --imgsz 640 --threads 1
	$(BIN)/yolopose-bench demo/overhead.onnx --reference $(WEIGHTS) --imgsz 640 --threads 2

# Size, import time and contents of `pip install .[cpu]` in clean environments of every Python found.
bench-install:
	$(PYTHON) benchmarks/install.py

$(GPU_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[export,gpu,cuda]' 'onnxruntime-gpu[cuda,cudnn]' 'pytest>=8'
	-$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check 'tensorrt>=10.3'  # without it the proof goes on
	touch $@

# Tests, parity, placement and time on the GPU that is here, into benchmarks/results/. On a machine that has everything
# installed already (a Jetson, a container): make gpu-proof GPU_PYTHON=python3
gpu-proof: $(if $(filter $(GPU_VENV)/%,$(GPU_PYTHON)),$(GPU_VENV)/.ready)
	$(GPU_PYTHON) -m yolopose.benchmarks.gpu --weights $(WEIGHTS) --int8 $(GPU_PROOF)

clean:
	rm -rf $(VENV) $(GPU_VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
