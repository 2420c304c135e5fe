"""A simulated TensorRT: it builds plans, and runs them with ONNX Runtime on the simulated GPU.

It records every member that is used and with how many arguments, so that a test can compare them with the real
bindings. A plan that it builds is a mark, a line of JSON with the profiles, and the ONNX.
"""

from __future__ import annotations

import enum
import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from yolopose.runtime.backends.onnxruntime import open_session, session_options

from .device import ALIGNMENT, gpu

MARK = b"simulated plan\n"
SCRATCH = 4096  # bytes of device memory that a context requires
_TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(int32)": "INT32"}
_NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32}

Uses = dict[tuple[str, str], set[int | None]]  # (class, member) -> numbers of arguments; None: read, not called


def simulated_tensorrt(version: str = "10.16.1.11", missing: tuple[str, ...] = (), fails: str = "") -> Any:
    """The module. Its ``uses`` and ``made`` say what was used and built.

    missing: members that it does not have
    fails: "parse" | "build" | "null" | "load" | "context" | "run" | "refit" | "fill": what fails
    """
    uses: Uses = {}
    made: dict[str, Any] = {"profiles": [], "flags": set(), "cleared": set(), "settings": {}, "cache": None}
    module = SimpleNamespace(__version__=version, uses=uses, made=made)

    class Recorded:
        """Base of the classes whose use is recorded."""

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            if name.startswith("_"):
                return value
            uses.setdefault((type(self).__name__, name), set()).add(None)
            if not callable(value):
                return value

            def called(*arguments: Any) -> Any:
                uses[type(self).__name__, name].add(len(arguments))
                return value(*arguments)

            return called

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                uses.setdefault((type(self).__name__, name), set()).add(None)
                made["settings"][name] = value
            object.__setattr__(self, name, value)

    def enumeration(kind: str, *members: str) -> Any:
        """An enumeration whose members are recorded when they are read."""
        real = enum.IntEnum(kind, [m for m in members if m not in missing], start=0)  # type: ignore[misc]

        class Reading:
            def __getattr__(self, name: str) -> Any:
                if name not in real.__members__:
                    raise AttributeError(name)
                uses.setdefault((kind, name), set()).add(None)
                return real[name]

        return Reading()

    class ParserError(Recorded):
        def desc(self) -> str:
            return "no converter for this operator"

        def node_name(self) -> str:
            return "node_7"

        def node_operator(self) -> str:
            return "Unique"

    # Both halves

    class ILogger:
        Severity = enumeration("ILogger.Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

        def __init__(self) -> None:
            pass

    error = ILogger.Severity.ERROR

    # Building

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    class INetworkDefinition(Recorded):
        _content = b""

    class OnnxParser(Recorded):
        num_errors = 2

        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network = network

        def parse(self, content: bytes) -> bool:
            if sys.modules.get("onnx", True) is not None:  # a test may forbid the import
                import onnx

                onnx.checker.check_model(onnx.load_from_string(content))
            self._network._content = content
            return fails != "parse"

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class IOptimizationProfile(Recorded):
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
            made["profiles"].append((name, least, best, most))
            self._shapes[name] = (least, best, most)

    class ITimingCache(Recorded):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b"measured"

    class IBuilderConfig(Recorded):
        def __init__(self) -> None:
            self._profiles: list[Any] = []
            if "max_num_tactics" not in missing:
                object.__setattr__(self, "max_num_tactics", -1)
            made["flags"], made["cleared"] = set(), set()

        def set_flag(self, flag: Any) -> None:
            made["flags"].add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            made["cleared"].add(flag.name)

        def set_memory_pool_limit(self, pool: Any, limit: int) -> None:
            made["settings"][pool.name] = limit

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def create_timing_cache(self, content: bytes) -> ITimingCache | None:
            made["cache"] = content
            return None if content.startswith(b"damaged") else ITimingCache(content)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            return ignore_mismatch or not cache._content.startswith(b"of another GPU")

    class Builder(Recorded):
        def __init__(self, logger: Any) -> None:
            if fails == "null":
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags: int) -> INetworkDefinition:
            made["network_flags"] = flags
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, settings: IBuilderConfig) -> bytes | None:
            self._logger.log(ILogger.Severity.WARNING, "a warning")
            monitor = settings.progress_monitor
            monitor.phase_start("Building", None, 3)
            monitor.phase_start("Timing", "Building", 9)
            if not monitor.step_complete("Building", 1):
                return None
            monitor.phase_finish("Building")
            if fails == "build":
                self._logger.log(error, "out of memory in tactic 0x12")
                return None
            content = b"" if "STRIP_PLAN" in made["flags"] else network._content
            return MARK + json.dumps(settings._profiles).encode() + b"\n" + content

    # Running

    tensor_modes = enumeration("TensorIOMode", "NONE", "INPUT", "OUTPUT")
    data_types = enumeration("DataType", *_NUMPY)

    class IExecutionContext(Recorded):
        def __init__(self, engine: ICudaEngine, logger: Any) -> None:
            self._engine, self._logger = engine, logger
            self._scratch, self._profile, self._captured = 0, 0, False
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def _change(self) -> None:
            assert not self._captured, "a graph was captured from this context"
            assert gpu.context, "no context is current"

        def set_device_memory(self, address: int, size: int) -> None:
            self._change()
            assert address % ALIGNMENT == 0
            assert size >= SCRATCH
            gpu.view(gpu.device, address, size)
            self._scratch = address

        def set_optimization_profile_async(self, index: int, stream: int) -> bool:
            self._change()
            assert stream in gpu.streams
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
            batch = self._shapes["images"][0]
            return tuple(batch if size == -1 else size for size in self._engine._shapes[name])

        def execute_async_v3(self, stream: int) -> bool:
            assert self._scratch, "no scratch memory"
            self._captured = self._captured or stream in gpu.capturing
            if fails == "run":
                self._logger.log(error, "Cask convolution execution failed")
                return False
            engine, shapes, addresses = self._engine, dict(self._shapes), dict(self._addresses)

            def view(name: str, shape: tuple[int, ...]) -> np.ndarray:
                dtype = np.dtype(_NUMPY[engine._types[name]])
                size = math.prod(shape) * dtype.itemsize
                found: np.ndarray = gpu.view(gpu.device, addresses[name], size).view(dtype).reshape(shape)
                return found

            def work() -> None:
                feed = {name: view(name, shape) for name, shape in shapes.items()}
                for name, value in zip(engine._outputs, engine._session.run(engine._outputs, feed), strict=True):
                    view(name, value.shape)[...] = value

            gpu.put(stream, "run", work)
            return True

    class ISerializationConfig(Recorded):
        def __init__(self) -> None:
            self._flags = {"EXCLUDE_WEIGHTS"}

        def clear_flag(self, flag: Any) -> bool:
            self._flags.discard(flag.name)
            return True

    class ICudaEngine(Recorded):
        def __init__(self, plan: bytes, logger: Any) -> None:
            self._head, _, self._content = plan[len(MARK) :].partition(b"\n")
            self._profiles, self._logger = json.loads(self._head), logger
            if self._content:
                self._open()

        def _open(self) -> None:
            self._session = open_session(self._content, session_options(threads=1))
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
            return tensor_modes.INPUT if name in self._inputs else tensor_modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return getattr(data_types, self._types[name])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._shapes[name]

        def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
            return [tuple(shape) for shape in self._profiles[index][name]]

        def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
            assert gpu.context
            if fails == "context":
                self._logger.log(error, "cudaMalloc of 4096 failed")
                return None
            return IExecutionContext(self, self._logger)

        def create_serialization_config(self) -> ISerializationConfig:
            return ISerializationConfig()

        def serialize_with_config(self, config: ISerializationConfig) -> bytes:
            assert "EXCLUDE_WEIGHTS" not in config._flags
            return MARK + self._head + b"\n" + self._content

    class Runtime(Recorded):
        DLA_core = -1

        def __init__(self, logger: Any) -> None:
            if fails == "null":
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            assert gpu.context
            if fails == "load" or not plan.startswith(MARK):
                self._logger.log(error, "magicTag does not match")
                return None
            return ICudaEngine(plan, self._logger)

    # Refitting

    class Refitter(Recorded):
        def __init__(self, engine: ICudaEngine, logger: Any) -> None:
            self._engine = engine

        def refit_cuda_engine(self) -> bool:
            return fails != "fill"

        def get_missing_weights(self) -> list[str]:
            return ["backbone.stem.weight"]

    class OnnxParserRefitter(Recorded):
        num_errors = 1

        def __init__(self, refitter: Refitter, logger: Any) -> None:
            self._engine = refitter._engine

        def refit_from_bytes(self, content: bytes) -> bool:
            self._engine._content = content
            return fails != "refit"

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    for kind in (ILogger, IProgressMonitor, OnnxParser, Builder, Runtime, Refitter, OnnxParserRefitter):
        setattr(module, kind.__name__, kind)
    module.TensorIOMode, module.DataType = tensor_modes, data_types
    enumerations = {
        "BuilderFlag": (
            "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN", "REFIT", "GPU_FALLBACK",
        ),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS"),
        "MemoryPoolType": ("WORKSPACE",),
        "DeviceType": ("GPU", "DLA"),
        "SerializationFlag": ("EXCLUDE_WEIGHTS",),
        "ExecutionContextAllocationStrategy": ("STATIC", "USER_MANAGED"),
    }  # fmt: skip
    for name, members in enumerations.items():
        setattr(module, name, enumeration(name, *members))
    return module
