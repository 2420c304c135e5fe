"""What the world did wrong; what a caller passed wrong is a ValueError.

YoloposeError
├── CheckpointError          a weights file that cannot be read
│   ├── UnsafeCheckpoint     its pickle would run code; nothing was run
│   └── UnknownCheckpoint    none of the formats we read
├── ArtifactError            truncated, not ONNX, changed after export, unlike its contract
│   ├── ContractMissing      no contract inside (or beside) the file
│   ├── ContractInvalid      a damaged contract; the message names the key
│   ├── ContractTooNew       a contract of a newer major version
│   └── EngineMismatch       made for another target, engine or GPU
├── BackendError             the engine failed while it worked
│   └── BackendUnavailable   not installed, or what was asked for is not active
├── SourceError              an image, folder or stream that cannot be read
├── OutputError              a file that cannot be written
├── DataError                labels or a data set damaged, or unlike the skeleton
└── GateRefused              built, but refused by the accuracy gate
"""

from __future__ import annotations


class UsageError(ValueError):
    """The command line is wrong: an unknown flag, or a value that a flag does not accept (exit code 2)."""


class YoloposeError(Exception):
    """Base of everything here; the message says what happened, to which file or value, and what to do."""


class CheckpointError(YoloposeError):
    """A weights file cannot be read."""


class UnsafeCheckpoint(CheckpointError):
    """Loading the pickle would call something that is not allowed; the message names it, nothing was run."""


class UnknownCheckpoint(CheckpointError):
    """The content is none of the checkpoint formats we read."""


class ArtifactError(YoloposeError):
    """The artifact is absent, truncated, not ONNX, changed after export, or unlike what its contract promises."""


class ContractMissing(ArtifactError):
    """The artifact carries no contract."""


class ContractInvalid(ArtifactError):
    """The contract is damaged; the message starts with the path of the key."""


class ContractTooNew(ArtifactError):
    """The contract has a newer major version than this runtime knows."""


class EngineMismatch(ArtifactError):
    """The artifact was made for another target, engine version or GPU."""


class BackendError(YoloposeError):
    """The inference engine failed while it worked."""


class BackendUnavailable(BackendError):
    """The engine (or OpenCV) is not installed, or the provider asked for did not become active."""


class SourceError(YoloposeError):
    """An image, folder or stream cannot be read."""


class OutputError(YoloposeError):
    """A file cannot be written: disk full, no permission, not a folder. No half file is left."""


class DataError(YoloposeError):
    """Labels or a data set are damaged, or do not fit the skeleton."""


class GateRefused(YoloposeError):
    """The artifact was built and the accuracy gate refused it (exit code 3)."""
