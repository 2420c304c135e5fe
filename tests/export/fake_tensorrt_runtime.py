"""The runtime half of the fake TensorRT: plans of the fake builder are run by ONNX Runtime on the played GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.played_gpu.device import ALIGNMENT, machine

MARK = b"fake plan\n"
SCRATCH = 4096  # bytes that a context says it needs
_TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(int32)": "INT32"}
_NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32}


def add_runtime(module: Any, recorded: type, names: Callable[..., Any], parser_error: type, fails: str) -> None:
    """fails: "load" | "context" | "run" | "refit" | "fill" | "null": what then fails."""
    error = module.ILogger.Severity.ERROR
    modes, types = names("TensorIOMode", "NONE", "INPUT", "OUTPUT"), names("DataType", *_NUMPY)

    class IExecutionContext(recorded):  # type: ignore[misc]
        def __init__(self, engine: Any, logger: Any) -> None:
            self._engine, self._logger = engine, logger
            self._scratch, self._profile, self._captured = 0, 0, False
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def _change(self) -> None:
            assert not self._captured, "a graph was captured from this context"
            assert machine.context, "no context is current"

        def set_device_memory(self, address: int, size: int) -> None:
            self._change()
            assert address % ALIGNMENT == 0
            assert size >= SCRATCH
            machine.view(machine.device, address, size)
            self._scratch = address

        def set_optimization_profile_async(self, index: int, stream: int) -> bool:
            self._change()
            assert stream in machine.streams
            self._profile = index
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._change()
            least, _, most = self._engine._profiles[self._profile][name]
            fits = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
            if not fits:
                self._logger.log(error, f"{name}: {shape} is not in the profile")
            self._shapes[name] = tuple(shape)
            return fits

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._change()
            assert address % ALIGNMENT == 0, f"{name} is not aligned"
            self._addresses[name] = address
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            rows = self._shapes["images"][0]
            return tuple(rows if size == -1 else size for size in self._engine._shapes[name])

        def execute_async_v3(self, stream: int) -> bool:
            assert self._scratch, "no scratch memory"
            self._captured = self._captured or stream in machine.capturing
            if fails == "run":
                self._logger.log(error, "Cask convolution execution failed")
                return False
            engine, shapes, addresses = self._engine, dict(self._shapes), dict(self._addresses)

            def view(name: str, shape: tuple[int, ...]) -> np.ndarray:
                dtype = np.dtype(_NUMPY[engine._types[name]])
                size = math.prod(shape) * dtype.itemsize
                found: np.ndarray = machine.view(machine.device, addresses[name], size).view(dtype).reshape(shape)
                return found

            def work() -> None:
                feed = {name: view(name, shape) for name, shape in shapes.items()}
                for name, value in zip(engine._outputs, engine._session.run(engine._outputs, feed), strict=True):
                    view(name, value.shape)[...] = value

            machine.put(stream, "run", work)
            return True

    class ICudaEngine(recorded):  # type: ignore[misc]
        def __init__(self, plan: bytes, logger: Any) -> None:
            self._head, _, self._content = plan[len(MARK) :].partition(b"\n")
            self._profiles, self._logger = json.loads(self._head), logger
            if self._content:
                self._open()

        def _open(self) -> None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            self._inputs, self._outputs = [node.name for node in inputs], [node.name for node in outputs]
            self._types = {node.name: _TYPES[node.type] for node in (*inputs, *outputs)}
            self._shapes = {
                node.name: tuple(-1 if isinstance(size, str) else size for size in node.shape)
                for node in (*inputs, *outputs)
            }
            self.num_io_tensors = len(self._types)
            self.num_optimization_profiles = len(self._profiles)
            self.device_memory_size_v2 = SCRATCH

        def get_tensor_name(self, index: int) -> str:
            return [*self._inputs, *self._outputs][index]

        def get_tensor_mode(self, name: str) -> Any:
            return modes.INPUT if name in self._inputs else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return getattr(types, self._types[name])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._shapes[name]

        def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
            return [tuple(shape) for shape in self._profiles[index][name]]

        def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
            assert machine.context
            if fails == "context":
                self._logger.log(error, "cudaMalloc of 4096 failed")
                return None
            return IExecutionContext(self, self._logger)

        def create_serialization_config(self) -> ISerializationConfig:
            return ISerializationConfig()

        def serialize_with_config(self, config: ISerializationConfig) -> bytes:
            assert "EXCLUDE_WEIGHTS" not in config._flags
            return MARK + self._head + b"\n" + self._content

    class ISerializationConfig(recorded):  # type: ignore[misc]
        def __init__(self) -> None:
            self._flags = {"EXCLUDE_WEIGHTS"}

        def clear_flag(self, flag: Any) -> bool:
            self._flags.discard(flag.name)
            return True

    class Refitter(recorded):  # type: ignore[misc]
        def __init__(self, engine: ICudaEngine, logger: Any) -> None:
            self._engine = engine

        def refit_cuda_engine(self) -> bool:
            return fails != "fill"

        def get_missing_weights(self) -> list[str]:
            return ["backbone.stem.weight"]

    class OnnxParserRefitter(recorded):  # type: ignore[misc]
        num_errors = 1

        def __init__(self, refitter: Refitter, logger: Any) -> None:
            self._engine = refitter._engine

        def refit_from_bytes(self, content: bytes) -> bool:
            self._engine._content = content
            return fails != "refit"

        def get_error(self, index: int) -> Any:
            return parser_error()

    class Runtime(recorded):  # type: ignore[misc]
        DLA_core = -1

        def __init__(self, logger: Any) -> None:
            if fails == "null":
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            assert machine.context
            if fails == "load" or not plan.startswith(MARK):
                self._logger.log(error, "magicTag does not match")
                return None
            return ICudaEngine(plan, self._logger)

    module.Runtime, module.Refitter, module.OnnxParserRefitter = Runtime, Refitter, OnnxParserRefitter
    module.SerializationFlag = names("SerializationFlag", "EXCLUDE_WEIGHTS")
    module.TensorIOMode, module.DataType = modes, types
    module.ExecutionContextAllocationStrategy = names("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")
