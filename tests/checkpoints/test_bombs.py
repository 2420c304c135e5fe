"""Small files that ask for endless time or memory. A process with little of either opens them."""

from __future__ import annotations

import io
import pickle
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yolopose.checkpoints import edgeai_yolox, mmpose
from yolopose.checkpoints.archive import Document
from yolopose.checkpoints.pickle_machine import unpickle
from yolopose.checkpoints.pickled import modules_of
from yolopose.runtime.errors import CheckpointError

from .pickles import START, dictionary, name, number, streamed, tensor, text, zipped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")

SECONDS = 60  # the slowest takes five on a busy machine; what is caught here takes centuries
VICTIM = """
import resource, sys
import yolopose
from yolopose import checkpoints  # what load needs is imported before the limit
from yolopose.runtime.errors import CheckpointError
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), now + (1 << 30)))
print("ready", flush=True)
for line in sys.stdin:
    try:
        yolopose.load(line.rstrip("\\n"))
        print("loaded", flush=True)
    except CheckpointError as error:
        print("refused:", str(error).replace("\\n", " "), flush=True)
    except BaseException as error:
        print(type(error).__name__, str(error)[:200].replace("\\n", " "), flush=True)
"""


class Victim:
    """A process that loads checkpoints with a gigabyte of memory; after a death a new one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def load(self, path: Path) -> str:
        """What became of the file: "refused: ...", "loaded", the name of another exception, or how it ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self.answer() == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            code = self.process.poll()
            self.close()
            return f"died ({code})" if ready else "hangs"
        return line.rstrip("\n")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.close()


def shared_tuples(levels: int) -> bytes:
    """((..., ...), (..., ...)): 2^levels tuples to whoever walks through them, one a level in memory."""
    return b")q\x00" + levels * b"0h\x00h\x00\x86q\x00"


def shared_lists(levels: int) -> bytes:
    return b"]q\x00" + levels * b"0](h\x00h\x00eq\x00"


def called(module: str, function: str, argument: bytes, times: int) -> bytes:
    """``function(argument)`` so many times over, all results kept."""
    start = argument + b"q\x000" + name(module, function) + b"q\x010]"
    return START + start + times * b"h\x01h\x00\x85Ra" + b"."


def text_bomb() -> bytes:
    device = name("torch", "device")
    return START + text("a") + b"q\x00" + 60 * (device + b"h\x00h\x00\x86Rq\x000h\x00") + b"."


def colliding() -> bytes:
    """Keys of one hash: each is compared with all before it."""
    return START + b"}" + b"".join(number(k * (2**61 - 1)) + b"Ns" for k in range(1, 50_000)) + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "text that doubles": text_bomb,
    "text of shared lists": lambda: START + name("torch", "device") + shared_lists(60) + b"\x85R.",
    "type of shared lists": lambda: START + name("numpy", "dtype") + shared_lists(60) + b"\x85R.",
    "hash of shared tuples": lambda: START + b"}" + shared_tuples(60) + b"K\x01s.",
    "hash of shared tuples, many": lambda: START + b"}(" + shared_tuples(60) + b"K\x01u.",
    "hash of shared tuples, DICT": lambda: START + b"(" + shared_tuples(60) + b"K\x01d.",
    "hash of shared tuples, set": lambda: START + name("builtins", "set") + b"]" + shared_tuples(60) + b"a\x85R.",
    "hash of shared tuples, ADDITEMS": lambda: b"\x80\x04\x8f(" + shared_tuples(60) + b"\x90.",
    "hash of shared tuples, FROZENSET": lambda: b"\x80\x04(" + shared_tuples(60) + b"\x91.",
    "hash of nested tuples": lambda: START + b"})" + 500_000 * b"\x85" + b"K\x01s.",
    "hashes that collide": colliding,
    "nested lists": lambda: START + 500_000 * b"]" + 499_999 * b"a" + b".",
    "endless opcodes": lambda: START + 5_000_000 * b"]" + b".",
    "memo index": lambda: START + b"}r\xff\xff\xff\x7f.",
    "memo index as text": lambda: START + b"}p999999999999\n.",
    "length of bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "length of a bytearray": lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "length of text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "copies of a set": lambda: called("builtins", "set", b"](" + b"".join(map(number, range(20_000))) + b"e", 20_000),
    "copies of a size": lambda: called("torch", "Size", b"](" + 100_000 * b"N" + b"e", 20_000),
    "copies of bytes": lambda: (
        START + name("_codecs", "encode") + b"q\x000" + text(1_000_000 * "a") + text("latin1") + b"\x86q\x010]"
        + 5_000 * b"h\x00h\x01Ra" + b"."
    ),
    "arguments": lambda: START + b"(" + 200_000 * b"N" + b"tq\x000" + name("numpy", "ndarray") + b"q\x010"
    + name("torch._utils", "_rebuild_parameter") + b"q\x020]" + 50_000 * b"h\x02h\x00Ra" + b".",
    "schema": lambda: START + dictionary({"format": text("yolopose"), "schema": shared_lists(60)}) + b".",
    "key of a storage": lambda: START + b"(" + text("storage") + name("torch", "FloatStorage") + shared_lists(60)
    + text("cpu") + b"K\x01tQ.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_refused(bomb: str, victim: Victim, tmp_path: Path) -> None:
    assert victim.load(zipped(BOMBS[bomb](), tmp_path / "net.pt")).startswith("refused: ")


@pytest.mark.parametrize("bomb", ["text that doubles", "hash of shared tuples", "length of bytes", "memo index"])
def test_bomb_in_the_older_stream_is_refused(bomb: str, victim: Victim, tmp_path: Path) -> None:
    assert victim.load(streamed(BOMBS[bomb](), tmp_path / "net.pt")).startswith("refused: ")


def module(children: bytes) -> bytes:
    return name("models.yolo", "Model") + b")\x81}" + text("_modules") + children + b"sb"


def test_modules_in_modules() -> None:
    """Twenty levels, each twice the next one; and one that is a part of itself."""
    document = Document(Path("nowhere"), None, {}, "")
    network = module(b"}") + b"q\x00"
    for _ in range(20):
        network += b"0" + module(dictionary({"a": b"h\x00", "b": b"h\x00"})) + b"q\x00"
    ring = name("models.yolo", "Model") + b")\x81q\x00}" + text("_modules") + dictionary({"a": b"h\x00"}) + b"sb"
    for payload in (network, ring):
        with pytest.raises(CheckpointError, match="network is damaged at"):
            modules_of(unpickle(io.BytesIO(START + payload + b"."), "here"), document)


def edgeai(shape: tuple[int, ...], classes: tuple[int, ...]) -> bytes:
    shapes = {
        edgeai_yolox.MARK: shape,
        "backbone.backbone.stem.conv.conv.weight": (64, 12, 3, 3),
        "head.cls_preds.0.weight": classes,
        "backbone.backbone.dark2.1.m.0.x": (1, 1, 1, 1),
        **{f"backbone.backbone.dark3.1.m.{index}.x": (1, 1, 1, 1) for index in range(3)},
    }
    return START + dictionary({"model": claimed(shapes)}) + b"."


def of_mmpose(shape: tuple[int, ...], classes: tuple[int, ...]) -> bytes:
    shapes = {
        mmpose.MARK: shape,
        "backbone.stem.conv.conv.weight": (64, 12, 3, 3),
        "head.head_module.out_cls.0.weight": classes,
        "backbone.stage1.1.blocks.0.x": (1, 1, 1, 1),
        **{f"backbone.stage2.1.blocks.{index}.x": (1, 1, 1, 1) for index in range(3)},
    }
    return START + dictionary({"state_dict": claimed(shapes)}) + b"."


def claimed(shapes: dict[str, tuple[int, ...]]) -> bytes:
    return dictionary({key: tensor(shape, (0, 0, 0, 0)) for key, shape in shapes.items()})


@pytest.mark.parametrize("make", [edgeai, of_mmpose])
@pytest.mark.parametrize("shapes", [((3 * 10**9, 1, 1, 1), (1, 1, 1, 1)), ((51, 1, 1, 1), (3 * 10**9, 1, 1, 1))])
def test_declared_shapes_are_not_believed(
    make: Callable[..., bytes], shapes: tuple[tuple[int, ...], ...], victim: Victim, tmp_path: Path
) -> None:
    assert "reaches past its 1 stored values" in victim.load(zipped(make(*shapes), tmp_path / "net.pt"))


def test_tensors_that_share_everything(victim: Victim, tmp_path: Path) -> None:
    """Ten thousand views of one megabyte would be ten gigabytes."""
    view = tensor((1 << 18,), (1,), stored=1 << 18)
    names = "".join(chr(97 + i) for i in range(26))
    state = b"}" + text("x") + view + b"q\x00s" + b"".join(
        text(f"backbone.stem.{a}{b}{c}") + b"h\x00s" for a in names for b in names for c in names[:15]
    )  # fmt: skip
    payload = START + b"}" + text("state_dict") + state + text(mmpose.MARK) + b"h\x00ss."
    assert "many times as many" in victim.load(zipped(payload, tmp_path / "net.pt", bytes(4 << 18)))


def test_a_storage_of_the_older_stream_that_reaches_past_the_file(victim: Victim, tmp_path: Path) -> None:
    for count in (2**63 - 1, 2**40, -(2**63), -1):
        rest = pickle.dumps(["a"], 2) + struct.pack("<q", count)
        answer = victim.load(streamed(pickle.dumps({}, 2), tmp_path / "stream.pt", rest))
        assert answer.startswith("refused: ")
        assert "ends before its tensors do" in answer
