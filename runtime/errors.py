"""The exceptions of yolopose. A wrong argument raises ValueError; a problem outside the program raises one of these.

UsageError                   a ValueError: the command line is wrong (exit code 2)

YoloposeError
├── CheckpointError          a weights file that cannot be read
│   ├── UnsafeCheckpoint     its pickle would run code; nothing was run
│   └── UnknownCheckpoint    none of the supported formats
├── ArtifactError            truncated, not ONNX, changed after export, different from its contract
│   ├── ContractMissing      no contract in the file, or beside it
│   ├── ContractInvalid      a damaged contract; the message names the key
│   ├── ContractTooNew       a contract of a newer major version
│   └── EngineMismatch       made for another target, backend or GPU
├── BackendError             the backend failed while it ran
│   └── BackendUnavailable   not installed, or the requested device is not available
├── SourceError              an image, folder or stream that cannot be read
├── OutputError              a file that cannot be written
├── DataError                labels or a data set that are damaged or do not match the skeleton
└── GateRefused              built, but refused by the accuracy gate
"""

from __future__ import annotations


class UsageError(ValueError):
    """The command line is wrong: an unknown flag, or a value that a flag does not accept (exit code 2)."""


class YoloposeError(Exception):
    """Base of the others; the message says what happened, to which file or value, and what to do."""


class CheckpointError(YoloposeError):
    """A weights file cannot be read."""


class UnsafeCheckpoint(CheckpointError):
    """Loading the pickle would call something that is not allowed; the message names it. Nothing was run."""


class UnknownCheckpoint(CheckpointError):
    """The content is in none of the supported checkpoint formats."""


class ArtifactError(YoloposeError):
    """The artifact is absent, truncated, not ONNX, changed after export, or different from its contract."""


class ContractMissing(ArtifactError):
    """The artifact carries no contract."""


class ContractInvalid(ArtifactError):
    """The contract is damaged; the message starts with the path of the key."""


class ContractTooNew(ArtifactError):
    """The contract has a newer major version than this yolopose reads."""


class EngineMismatch(ArtifactError):
    """The artifact was made for another target, backend version or GPU."""


class BackendError(YoloposeError):
    """The backend failed while it ran."""


class BackendUnavailable(BackendError):
    """The backend (or OpenCV, pandas, ...) is not installed, or the requested provider is not active."""


class SourceError(YoloposeError):
    """An image, folder or stream cannot be read."""


class OutputError(YoloposeError):
    """A file cannot be written: disk full, no permission, not a folder. No partial file is left."""


class DataError(YoloposeError):
    """Labels or a data set are damaged, or do not match the skeleton."""


class GateRefused(YoloposeError):
    """The artifact was built and the accuracy gate refused it (exit code 3)."""
