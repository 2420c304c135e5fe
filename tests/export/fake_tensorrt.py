"""A module that plays TensorRT and writes down each member that is touched, and with how many arguments.

A plan that it builds is the ONNX behind a mark and a line of JSON with the profiles; ``fake_tensorrt_runtime`` runs it.
"""

from __future__ import annotations

import enum
import json
import sys
from types import SimpleNamespace
from typing import Any

from .fake_tensorrt_runtime import MARK, add_runtime

__all__ = ["MARK", "Uses", "fake_tensorrt"]

Uses = dict[tuple[str, str], set[int | None]]  # (class, member) -> numbers of arguments; None: no call


def fake_tensorrt(version: str = "10.16.1.11", missing: tuple[str, ...] = (), fails: str = "") -> Any:
    """missing: members that it lacks. fails: "parse" | "build" | "null" | those of add_runtime.

    ``uses`` and ``made`` tell what it saw.
    """
    uses: Uses = {}
    made: dict[str, Any] = {"profiles": [], "flags": set(), "cleared": set(), "settings": {}, "cache": None}

    class Recorded:
        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            if name.startswith("_"):
                return value
            uses.setdefault((_real(type(self)), name), set()).add(None)
            if not callable(value):
                return value

            def called(*arguments: Any) -> Any:
                uses[_real(type(self)), name].add(len(arguments))
                return value(*arguments)

            return called

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                uses.setdefault((_real(type(self)), name), set()).add(None)
                made["settings"][name] = value
            object.__setattr__(self, name, value)

    def names(kind: str, *members: str) -> Any:
        """An enumeration whose members are written down when they are read."""
        real = enum.IntEnum(kind, [m for m in members if m not in missing], start=0)  # type: ignore[misc]

        class Reading:
            def __getattr__(self, name: str) -> Any:
                if name not in real.__members__:
                    raise AttributeError(name)
                uses.setdefault((kind, name), set()).add(None)
                return real[name]

        return Reading()

    class ILogger:
        Severity = names("ILogger.Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

        def __init__(self) -> None:
            pass

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    class ParserError(Recorded):
        def desc(self) -> str:
            return "no converter for this operator"

        def node_name(self) -> str:
            return "node_7"

        def node_operator(self) -> str:
            return "Unique"

    class INetworkDefinition(Recorded):
        _content = b""

    class OnnxParser(Recorded):
        num_errors = 2

        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network = network

        def parse(self, content: bytes) -> bool:
            if sys.modules.get("onnx", True) is not None:  # a test may forbid it
                import onnx

                onnx.checker.check_model(onnx.load_from_string(content))
            self._network._content = content
            return fails != "parse"

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class IOptimizationProfile(Recorded):
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, name: str, least: Any, best: Any, largest: Any) -> None:
            made["profiles"].append((name, least, best, largest))
            self._shapes[name] = (least, best, largest)

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
            self._logger.log(module.ILogger.Severity.WARNING, "a warning")
            monitor = settings.progress_monitor
            monitor.phase_start("Building", None, 3)
            monitor.phase_start("Timing", "Building", 9)
            if not monitor.step_complete("Building", 1):
                return None
            monitor.phase_finish("Building")
            if fails == "build":
                self._logger.log(module.ILogger.Severity.ERROR, "out of memory in tactic 0x12")
                return None
            content = b"" if "STRIP_PLAN" in made["flags"] else network._content
            return MARK + json.dumps(settings._profiles).encode() + b"\n" + content

    module = SimpleNamespace(
        __version__=version, uses=uses, made=made, ILogger=ILogger, IProgressMonitor=IProgressMonitor, Builder=Builder,
        OnnxParser=OnnxParser,
        BuilderFlag=names(
            "BuilderFlag", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN", "REFIT", "GPU_FALLBACK"
        ),
        NetworkDefinitionCreationFlag=names("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", "STRONGLY_TYPED"),
        HardwareCompatibilityLevel=names("HardwareCompatibilityLevel", "NONE", "AMPERE_PLUS"),
        MemoryPoolType=names("MemoryPoolType", "WORKSPACE"), DeviceType=names("DeviceType", "GPU", "DLA"),
    )  # fmt: skip
    add_runtime(module, Recorded, names, ParserError, fails)
    return module


def _real(kind: type) -> str:
    return kind.__name__
