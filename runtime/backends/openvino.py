"""The OpenVINO backend, for CPUs and Intel GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract import INPUT_NAMES, Contract
from ..errors import ArtifactError, BackendError, BackendUnavailable
from .base import Floats, Images, RawPeople, check_inputs, check_outputs, check_target

_DYNAMIC = -1  # OpenVINO's size of a dynamic dimension


class OpenVinoBackend:
    """One artifact with height and width fixed. Thread-safe.

    precision: "f32", or "bf16" where the device supports it: faster and less exact. It is always set, because
    OpenVINO's default is bf16 on every CPU that supports it.

    Raises ValueError, EngineMismatch, BackendUnavailable, ArtifactError.
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract,
        shape_hw: tuple[int, int],
        device: str | None = None,
        threads: int | None = None,
        precision: str = "f32",
    ) -> None:
        check_target(path, contract, "OpenVINO", "openvino")
        name = _parse_device(device or "cpu")
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            if name != "CPU":
                raise ValueError(f"threads is for the CPU: leave it out on {device}, got {threads}")
            options["INFERENCE_NUM_THREADS"] = threads
        openvino = _import_openvino()
        core = openvino.Core()
        _check_device(core, name, precision)
        self.name = "openvino" if precision == "f32" else f"openvino:{precision}"
        self.device = name.lower().replace(".", ":")
        self.version: str = openvino.__version__.split("-")[0]
        self._batch = contract.input.batch
        self._frame = (*shape_hw, 3)
        try:
            model = core.read_model(str(path))
            check_inputs(path, {port: _dtype(tensor) for port, tensor in _named(model.inputs)})
            self._network: _Network | None = _Network(
                core, model, name, options, self._frame, self._batch.min, contract.pose.outputs
            )
            outputs = {port: (_shape(tensor), _dtype(tensor)) for port, tensor in _named(model.outputs)}
            check_outputs(path, contract, outputs)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO {self.version} cannot load {path}: {error}") from error

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        network = self._network
        if network is None:
            raise ValueError("the OpenVINO model is closed; open the artifact again")
        failed = f"OpenVINO failed on images of {images.shape} {images.dtype}"
        # Checked here: with a dynamic batch OpenVINO accepts other sizes, and it converts other types.
        if images.shape[1:] != self._frame or images.dtype != np.uint8 or len(images) not in self._batch:
            raise BackendError(f"{failed}: it was opened for {self._batch} of {self._frame} uint8")
        try:
            return RawPeople(*network.run(images, score_threshold, iou_threshold))
        except Exception as error:  # its exceptions have no base class
            raise BackendError(f"{failed}: {error}") from error

    def close(self) -> None:
        self._network = None


class _Network:
    """A model compiled for its smallest batch, and a second time with a dynamic batch when another batch size comes.

    The dynamic batch alone would do, but then a single image takes 25 % longer (50 % in bf16).
    """

    def __init__(
        self,
        core: Any,
        model: Any,
        device: str,
        options: dict[str, Any],
        frame: tuple[int, ...],
        smallest: int,
        outputs: Sequence[str],
    ) -> None:
        self._core, self._model, self._device, self._options = core, model, device, options
        self._frame, self._smallest, self._outputs = frame, smallest, outputs
        self._lock = Lock()
        self._compiled = {smallest: self._compile(smallest)}
        self._idle: dict[int, list[Any]] = {smallest: [], _DYNAMIC: []}  # infer requests, one for each concurrent call

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The outputs for INPUT_NAMES; the caller owns the arrays. Raises RuntimeError and OpenVINO's exceptions."""
        feed = dict(zip(INPUT_NAMES, inputs, strict=True))
        key = self._smallest if len(inputs[0]) == self._smallest else _DYNAMIC
        with self._lock:  # other calls wait while the second model is compiled, half a second once
            if key not in self._compiled:
                self._compiled[key] = self._compile(key)
            request = self._idle[key].pop() if self._idle[key] else self._compiled[key].create_infer_request()
        results = request.infer(feed, share_inputs=True)  # the results are copies
        outputs = [results[name] for name in self._outputs]
        with self._lock:
            self._idle[key].append(request)
        return outputs

    def _compile(self, batch: int) -> Any:
        thresholds = {name: [batch, 1] for name in INPUT_NAMES[1:]}
        self._model.reshape({INPUT_NAMES[0]: [batch, *self._frame], **thresholds})
        compiled = self._core.compile_model(self._model, self._device, self._options)
        wanted = self._options["INFERENCE_PRECISION_HINT"]
        active = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if active != wanted:
            raise BackendUnavailable(f"{wanted} was requested, but {self._device} computes in {active}")
        return compiled


def _import_openvino() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f'OpenVINO cannot be imported ({error}): pip install "yolopose[openvino]"') from error
    module: ModuleType = openvino
    return module


def _parse_device(device: str) -> str:
    """OpenVINO's name of a device: CPU or GPU.N."""
    match = re.fullmatch(r"cpu|gpu(?:[:.](\d{1,4}))?", device.lower())
    if match is None:
        raise ValueError(f"device must be cpu, gpu or gpu:N for OpenVINO, got {device!r}")
    return "CPU" if match[0] == "cpu" else f"GPU.{int(match[1] or 0)}"


def _check_device(core: Any, name: str, precision: str) -> None:
    available = core.available_devices
    if name not in (*available, *(f"{only}.0" for only in available)):  # a single GPU is listed as GPU, without number
        raise BackendUnavailable(
            f"device {name} was requested, but OpenVINO here has only {', '.join(available) or 'none'}. If there is no "
            "such device, use device cpu. If there is one, install its driver from Intel"
        )
    supported = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in supported:
        raise BackendUnavailable(
            f"bf16 was requested, but {name} here has only {', '.join(supported)}: use backend openvino, "
            "which is float32"
        )


def _named(ports: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(name, port) for port in ports for name in port.get_names()]


def _shape(port: Any) -> list[int | str]:
    """Sizes without the batch; a dynamic one is a string."""
    return [str(size) if size.is_dynamic else size.get_length() for size in list(port.partial_shape)[1:]]


def _dtype(port: Any) -> str:
    """Numpy's name of the type."""
    name: str = port.element_type.to_dtype().name
    return name
