"""Rows of a layer table from pickled modules of Ultralytics, and the names that their tensors get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yolopose.runtime.errors import CheckpointError

from ..model.layer_table import MAX_CHANNELS, Layer
from ..model.layered import CSP_REPEATS
from ..model.split_blocks import attention_heads
from . import pickled, transfer
from .archive import Document
from .stand_ins import InertTensor, StandIn, brief

KINDS = {
    "Conv": "conv", "C2f": "gather", "C3k2": "gather", "C2": "join-first", "C2PSA": "join-second", "SPPF": "pool",
    "Upsample": "upsample", "Concat": "concat",
}  # fmt: skip
BLOCKS = {"Bottleneck": "bottleneck", "C3k": "csp", "PSABlock": "attention", "Sequential": "bottleneck-attention"}
# Where a block has no activation; the first of the pooling may have none.
_LINEAR = re.compile(r"(attn\.(qkv|proj|pe)|ffn\.1)\.act$")
_POOL_LINEAR = re.compile(r"^model\.\d+\.cv1\.act$")
# What each kind of module is made of, "*" for members by number. A class of another name may compute something else.
_BLOCK = {"conv": ("Conv2d",), "bn": ("BatchNorm2d",)}  # and the activation, see below
_STAGE = {"cv1": ("Conv",), "cv2": ("Conv",), "m": ("ModuleList", "Sequential")}
_LISTS = {"*": ("Sequential", "ModuleList", "Conv", "DWConv", "Conv2d", "Bottleneck", "C3k", "PSABlock")}
_PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Conv": _BLOCK,
    "DWConv": _BLOCK,
    "C2f": _STAGE,
    "C3k2": _STAGE,
    "C2": _STAGE,
    "C2PSA": _STAGE,
    "C3k": {**_STAGE, "cv3": ("Conv",)},
    "Bottleneck": {"cv1": ("Conv",), "cv2": ("Conv",)},
    "PSABlock": {"attn": ("Attention",), "ffn": ("Sequential",)},
    "Attention": {"qkv": ("Conv",), "proj": ("Conv",), "pe": ("Conv",)},
    "SPPF": {"cv1": ("Conv",), "cv2": ("Conv",), "m": ("MaxPool2d",)},
    "Pose": {"*": ("ModuleList",)},
    "Pose26": {"*": ("ModuleList",)},
    "Sequential": _LISTS,
    "ModuleList": _LISTS,
    **{kind: {} for kind in ("Conv2d", "BatchNorm2d", "SiLU", "Identity", "MaxPool2d", "Upsample", "Concat")},
}


def read_layer(number: int, module: Any, tensors: Mapping[str, InertTensor], document: Document) -> Layer:
    """Raises CheckpointError for a layer that is not known."""
    kind, state = pickled.kind_of(module), vars(module)
    if kind not in KINDS:
        raise CheckpointError(
            f"{document.path}: layer {number} is {kind or brief(module)}; of Ultralytics' networks those of YOLOv8, "
            f"YOLO11 and YOLO26 are read, made of {', '.join(KINDS)}. Export it to ONNX there, and import that"
        )
    sources = _sources(number, state.get("f"), document)
    prefix = f"model.{number}."

    def outputs(name: str) -> int:
        return transfer.shape_of(tensors, f"{prefix}{name}.weight", document, kind)[0]

    if kind == "Upsample":
        if state.get("mode") != "nearest" or state.get("scale_factor") != 2.0:
            raise CheckpointError(f"{document.path}: layer {number} enlarges maps other than twice, to the nearest")
        return _checked(document, kind="upsample", sources=sources)
    if kind == "Concat":
        if state.get("d") != 1:
            raise CheckpointError(f"{document.path}: layer {number} joins maps along {brief(state.get('d'))}")
        return _checked(document, kind="concat", sources=sources)
    if kind == "Conv":
        conv = vars(pickled.children(module)["conv"])
        sizes = tuple(pair[0] if _square(pair) else 0 for pair in (conv.get("kernel_size"), conv.get("stride")))
        return _checked(
            document, kind="conv", sources=sources, channels=outputs("conv"), kernel=sizes[0], stride=sizes[1]
        )
    if kind == "SPPF":
        pool = vars(pickled.children(module)["m"])
        window, pools = pool.get("kernel_size"), state.get("n", 3)
        plain = (pool.get("stride"), pool.get("dilation", 1), pool.get("ceil_mode", False)) == (1, 1, False)
        if type(window) is not int or not plain or pool.get("padding") != window // 2 or pools != 3:
            raise CheckpointError(f"{document.path}: layer {number} pools {brief(pools)} times over {brief(window)}")
        act = pickled.children(pickled.children(module)["cv1"]).get("act")
        return _checked(
            document, kind="pool", sources=sources, channels=outputs("cv2.conv"), kernel=window,
            shortcut=state.get("add", False) is True, linear=pickled.kind_of(act) == "Identity",
        )  # fmt: skip
    hidden, rest = divmod(outputs("cv1.conv"), 2)
    blocks = list(pickled.children(pickled.children(module)["m"]).values())
    names = {BLOCKS.get(pickled.kind_of(block)) for block in blocks}
    if rest or len(names) != 1 or None in names:
        found = sorted({pickled.kind_of(block) for block in blocks})
        raise CheckpointError(f"{document.path}: layer {number} is made of {found}, which are not known there")
    block = str(names.pop())
    first = f"{prefix}m.0."
    if block == "csp":
        repeats = transfer.count_blocks(tensors, f"{first}m.")
        if repeats != CSP_REPEATS:
            raise CheckpointError(f"{document.path}: layer {number} has blocks of {repeats} bottlenecks, not two")
    inside = {"bottleneck": "m.0.cv1.conv", "bottleneck-attention": "m.0.0.cv1.conv"}.get(block)
    return _checked(
        document, kind=KINDS[kind], sources=sources, channels=outputs("cv2.conv"), hidden=hidden, block=block,
        repeats=len(blocks), shortcut=_shortcut(number, module, document), width=outputs(inside) if inside else 0,
    )  # fmt: skip


def _checked(document: Document, **fields: Any) -> Layer:
    try:
        return Layer(**fields)
    except ValueError as error:
        raise CheckpointError(f"{document.path}: {error}") from error


def _square(pair: Any) -> bool:
    """Of two equal numbers; types first, for comparing what a file may hold can last for ever."""
    return isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int and pair[0] == pair[1]


def _sources(number: int, given: Any, document: Document) -> tuple[int, ...]:
    """Absolute numbers; theirs are relative where negative."""
    listed = given if isinstance(given, list) else [given]
    if not all(type(source) is int and -max(number, 1) <= source < number for source in listed):
        raise CheckpointError(f"{document.path}: layer {number} takes {brief(given)}, which are no layers before it")
    return tuple(source if source >= 0 else number + source for source in listed)


def _shortcut(number: int, module: Any, document: Document) -> bool:
    """Whether the bottlenecks add their input: all or none; those with attention always do."""
    found: dict[str, set[bool]] = {"Bottleneck": set(), "PSABlock": set()}
    for part in pickled.modules_of(module, document).values():
        if (kind := pickled.kind_of(part)) in found:
            adds = vars(part).get("add")
            if type(adds) is not bool:
                raise CheckpointError(f"{document.path}: a block of layer {number} does not say if it adds its input")
            found[kind].add(adds)
    if found["PSABlock"] - {True} or len(found["Bottleneck"]) > 1:
        raise CheckpointError(f"{document.path}: some blocks of layer {number} add their input and others do not")
    return found["Bottleneck"] == {True}


def check_modules(network: Any, dropped: tuple[str, ...], document: Document) -> None:
    """What shapes do not show. Raises CheckpointError for modules that are not known where they stand, and for
    convolutions, activations or attention of another make. dropped: starts of names that are not used."""
    modules = {
        name: module
        for name, module in pickled.modules_of(network, document).items()
        if not f"{name}.".startswith(dropped)
    }
    if not any(pickled.kind_of(module) == "BatchNorm2d" for module in modules.values()):
        raise CheckpointError(
            f"{document.path}: batch norm is folded into its convolutions already, such a network cannot be trained; "
            "give the file before model.fuse(), or export it to ONNX there and import that"
        )
    for name, module in modules.items():
        kind = pickled.kind_of(module)
        if kind == "Conv2d":
            _check_conv(name, vars(module), document)
        elif kind == "Attention":
            _check_attention(name, module, document)
        elif name.endswith(".act"):
            _check_activation(name, modules, document)
        if kind not in _PARTS or name == "model":  # layers, which read_layer knows
            continue
        for part in pickled.children(module):
            child = modules.get(f"{name}.{part}")  # None: there is none, or it is not used
            wanted = _PARTS[kind].get(part, _PARTS[kind].get("*", ()))
            if part != "act" and child is not None and pickled.kind_of(child) not in wanted:
                raise CheckpointError(
                    f"{document.path}: {name}.{part} is {pickled.kind_of(child)}, which is not known in {kind}"
                )


def _check_activation(name: str, modules: Mapping[str, StandIn], document: Document) -> None:
    kind = pickled.kind_of(modules[name])
    pool = _POOL_LINEAR.match(name) and pickled.kind_of(modules[name.rsplit(".", 2)[0]]) == "SPPF"
    wanted = ("Identity",) if _LINEAR.search(name) else ("SiLU", "Identity") if pool else ("SiLU",)
    if kind not in wanted:
        raise CheckpointError(f"{document.path}: the activation {name} is {kind}; SiLU is supported")


def _check_conv(name: str, state: Mapping[str, Any], document: Document) -> None:
    kernel = state.get("kernel_size")
    strided = re.fullmatch(r"model\.\d+\.conv", name)
    middle = (kernel[0] // 2,) * 2 if _square(kernel) and isinstance(kernel, tuple) else None
    plain = state.get("dilation") == (1, 1) and state.get("padding_mode") == "zeros" and state.get("padding") == middle
    if not plain or not (strided or state.get("stride") == (1, 1)):
        raise CheckpointError(f"{document.path}: the convolution {name} is dilated, strided or padded otherwise")


def _check_attention(name: str, module: StandIn, document: Document) -> None:
    found = [vars(module).get(key) for key in ("num_heads", "head_dim", "key_dim")]
    heads, values, keys = (number if type(number) is int and 0 < number <= MAX_CHANNELS else 0 for number in found)
    scale = vars(module).get("scale")
    known = heads * keys > 0 and heads == attention_heads(heads * values) and keys == values // 2
    if not known or not isinstance(scale, float) or abs(scale - float(keys) ** -0.5) > 1e-6:
        raise CheckpointError(
            f"{document.path}: {name} has {' heads, '.join(map(brief, found))} channels, scaled by {brief(scale)}"
        )


def layer_rules(number: int, layer: Layer, neck_begins: int) -> list[tuple[str, str]]:
    """From names of their tensors to ours, of one layer."""
    theirs = rf"model\.{number}\."
    ours = f"{'backbone' if number < neck_begins else 'neck'}.layers.{number}."
    if layer.kind == "conv":
        return [(theirs, ours)]
    if layer.kind == "pool":
        return [(rf"{theirs}cv(\d)\.", rf"{ours}conv\1.")]
    block, inner = rf"{theirs}m\.(\d+)\.", rf"{ours}blocks.\1."
    found = [(rf"{theirs}cv1\.", f"{ours}split."), (rf"{theirs}cv2\.", f"{ours}final.")]
    if layer.block == "csp":
        found += [
            (rf"{block}cv{index}\.", f"{inner}{part}.") for index, part in enumerate(("main", "short", "final"), 1)
        ]
        found.append((rf"{block}m\.(\d+)\.cv(\d)\.", rf"{inner}blocks.\2.conv\3."))
    if layer.block == "bottleneck":
        found.append((rf"{block}cv(\d)\.", rf"{inner}conv\2."))
    if layer.block == "bottleneck-attention":
        found.append((rf"{block}0\.cv(\d)\.", rf"{inner}0.conv\2."))
        block, inner = rf"{block}1\.", f"{inner}1."
    attention = (("attn.qkv", "attention.qkv"), ("attn.proj", "attention.project"), ("attn.pe", "attention.position"))
    for part, name in (*attention, ("ffn.0", "expand"), ("ffn.1", "reduce")):
        found.append((rf"{block}{re.escape(part)}\.", f"{inner}{name}."))
    return found
