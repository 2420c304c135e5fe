"""Reader for the pose networks of Ultralytics (YOLOv8, YOLO11, YOLO26): a pickled network, rebuilt from its modules.

Their code and weights are under AGPL-3.0. This reader was written from facts about the files and runs none of their
code. Every layer and its width is read from the pickled modules into a ``LayerTable``. So all sizes and all changes of
depth and width are supported, and an unknown layer is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint
from yolopose.runtime.skeleton import Skeleton

from ..model.blocks import attention_heads
from ..model.config import RGB_UNIT, InputSpec, NetConfig
from ..model.layer_table import CSP_REPEATS, MAX_CHANNELS, DistanceSettings, Layer, LayerTable
from ..model.pose_net import PoseNet
from . import pickled, transfer
from .archive import Document
from .pickle_values import InertTensor, StandIn, brief

FORMAT = "ultralytics"
PACKAGE = "ultralytics.nn.tasks"  # of the class of the network
HEADS = {"Pose": "yolov8-pose", "Pose26": "yolo26-pose"}
TASKS = {
    "DetectionModel": "detection", "SegmentationModel": "segmentation", "ClassificationModel": "classification",
    "OBBModel": "oriented boxes", "RTDETRDetectionModel": "detection", "WorldModel": "detection",
}  # fmt: skip
ONE_TO_ONE = "one2one_"  # prefix of the branch of the head that gives each person once
VISIBLE_LOGIT = 100.0  # its sigmoid is 1 in float32
MAX_LICENSE = 200  # characters that are kept
DEFAULT_LICENSE = "AGPL-3.0 (Ultralytics' own; the file does not say)"

# Kinds of layers and blocks, in the names of ``layer_table``.
KINDS = {
    "Conv": "conv", "C2f": "gather", "C3k2": "gather", "C2": "join-first", "C2PSA": "join-second", "SPPF": "pool",
    "Upsample": "upsample", "Concat": "concat",
}  # fmt: skip
BLOCKS = {"Bottleneck": "bottleneck", "C3k": "csp", "PSABlock": "attention", "Sequential": "bottleneck-attention"}

# Names of the activations of blocks that have none; the first convolution of a pooling layer may have none.
_LINEAR = re.compile(r"(attn\.(qkv|proj|pe)|ffn\.1)\.act$")
_POOL_LINEAR = re.compile(r"^model\.\d+\.cv1\.act$")
# Allowed classes of the children of each kind of module, "*" for numbered ones. Another class may compute something
# else. Activations are checked separately.
_BLOCK = {"conv": ("Conv2d",), "bn": ("BatchNorm2d",)}
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
_ATTENTION_PARTS = (
    ("attn.qkv", "attention.qkv"), ("attn.proj", "attention.project"), ("attn.pe", "attention.position"),
    ("ffn.0", "expand"), ("ffn.1", "reduce"),
)  # fmt: skip


def recognizes(content: Any) -> bool:
    return pickled.network_of(content, PACKAGE) is not None


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """The averaged network where there is one. Raises UnknownCheckpoint for networks of other tasks."""
    network = pickled.network_of(document.content, PACKAGE)
    assert network is not None
    layers = pickled.layers_of(network)
    head = layers[-1] if layers else None
    kind = pickled.kind_of(head)
    if kind not in HEADS:
        found = TASKS.get(pickled.kind_of(network), f"{pickled.kind_of(network)} ending in {kind or 'nothing'}")
        raise UnknownCheckpoint(f"{document.path} is a network of Ultralytics for {found}, not for poses")
    pickled.check_norms(network, document)
    tensors = pickled.named_tensors(network, document)
    at_head = f"model.{len(layers) - 1}."
    settings, dropped = _head_settings(head, at_head, tensors, document)
    check_modules(network, dropped, document)
    rows = [read_layer(number, layer, tensors, document) for number, layer in enumerate(layers[:-1])]
    try:
        table = LayerTable(tuple(rows), _head_sources(head, document), settings)
    except ValueError as error:
        raise CheckpointError(f"{document.path}: its layers do not fit each other: {error}") from error
    _check_strides(head, table.strides, document)
    num_keypoints, numbers, num_classes = _counts(head, document)
    config = NetConfig(
        name="",
        family=_family(kind, layers),
        depth=1.0,
        width=1.0,
        input=_input_spec(document.content, network, table.multiple),
        skeleton=transfer.skeleton_for(num_keypoints, skeleton, document),
        classes=transfer.class_names(num_classes, document, vars(network).get("names")),
        head="distance",
        table=table,
    )
    config = replace(config, name=_name(config.family, table, network))
    rules = {f"model.{number}.": _layer_rules(number, row, table.neck_begins) for number, row in enumerate(rows)}
    rules[at_head] = _head_rules(at_head, settings, kind)
    renamed: dict[str, Tensor] = {}
    for start, some in _by_layer(tensors).items():
        kept = {name: tensor for name, tensor in some.items() if not name.startswith(dropped)}
        renamed |= transfer.rename_all(kept, rules.get(start, ()), document)
    if numbers == 2:
        renamed = _with_visibility(renamed, num_keypoints, document)
    net = transfer.filled_net(config, renamed, document, FORMAT)
    license_text = document.content.get("license")
    given = isinstance(license_text, str) and license_text
    net.weights_licence = license_text[:MAX_LICENSE] if given else DEFAULT_LICENSE
    return net


# What the head and the network say about themselves.


def _head_settings(
    head: Any, prefix: str, tensors: dict[str, InertTensor], document: Document
) -> tuple[DistanceSettings, tuple[str, ...]]:
    """The settings of the head, and the prefixes of tensors that only training needs.

    If the head has two branches, the one-to-one branch is used, which gives each person once.
    """
    one_to_one = pickled.children(head).get(f"{ONE_TO_ONE}cv2") is not None  # None after their ``fuse``
    is_26 = pickled.kind_of(head) == "Pose26"
    start = ONE_TO_ONE if one_to_one else ""

    def outputs(name: str) -> int:
        return transfer.shape_of(tensors, f"{prefix}{start}{name}.weight", document, "Ultralytics'")[0]

    separable = f"{prefix}{start}cv3.0.0.0.conv.weight" in tensors
    box_channels = outputs("cv2.0.2")
    bins, rest = divmod(box_channels, 4)
    if rest or bins != vars(head).get("reg_max"):
        raise CheckpointError(f"{document.path}: {box_channels} box channels are not four distances of reg_max bins")
    settings = DistanceSettings(
        box_width=outputs("cv2.0.0.conv"),
        class_width=outputs("cv3.0.0.1.conv" if separable else "cv3.0.0.conv"),
        keypoint_width=outputs("cv4.0.0.conv"),
        bins=bins,
        depthwise_classes=separable,
        half_cell=is_26,
        one_to_one=one_to_one,
    )
    if bins > 1:
        _check_bins(tensors.get(f"{prefix}dfl.conv.weight"), bins, document)
    towers = ("cv2.", "cv3.", "cv4.", *(("cv4_kpts.",) if is_26 else ()))
    dropped = [f"{prefix}dfl.", f"{prefix}flow_model.", f"{prefix}cv4_sigma.", f"{prefix}{ONE_TO_ONE}cv4_sigma."]
    return settings, (*dropped, *(f"{prefix}{tower}" for tower in towers if one_to_one))


def _check_bins(weight: InertTensor | None, bins: int, document: Document) -> None:
    """The file computes the mean of a distribution by a convolution whose weights are the values of the bins."""
    values = None if weight is None else document.tensor(weight, "dfl").flatten().float()
    if values is None or not torch.equal(values, torch.arange(bins, dtype=torch.float32)):
        raise CheckpointError(f"{document.path}: the values of the {bins} bins of a distance are not 0 to {bins - 1}")


def _head_sources(head: Any, document: Document) -> tuple[int, ...]:
    sources = vars(head).get("f")
    if not isinstance(sources, list) or not all(type(source) is int for source in sources):
        raise CheckpointError(f"{document.path}: the head takes {brief(sources)}, which is no list of layers")
    return tuple(sources)


def _check_strides(head: Any, strides: tuple[int, ...], document: Document) -> None:
    stored = vars(head).get("stride")
    if isinstance(stored, InertTensor) and document.tensor(stored, "stride").tolist() != list(strides):
        raise CheckpointError(f"{document.path}: the strides of the head differ from those of its layers, {strides}")


def _counts(head: Any, document: Document) -> tuple[int, int, int]:
    """Number of keypoints, of numbers of a keypoint (2 without visibility, or 3), and of classes."""
    state = vars(head)
    shape, classes = state.get("kpt_shape"), state.get("nc")
    if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(type(n) is int for n in (*shape, classes)):
        raise CheckpointError(f"{document.path}: the pickled head lacks its keypoints or classes")
    if shape[1] not in (2, 3):
        raise CheckpointError(
            f"{document.path}: its keypoints are {list(shape)}: [K, 3] or [K, 2] (without visibility) is needed"
        )
    return shape[0], shape[1], classes


def _with_visibility(tensors: Mapping[str, Tensor], num_keypoints: int, document: Document) -> dict[str, Tensor]:
    """A head without visibility as one whose keypoint scores are 1: its last convolutions get K constant outputs."""
    filled = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("head.keypoint_predictions."):
            if len(tensor) != 2 * num_keypoints:
                raise CheckpointError(f"{document.path}: {name} has {len(tensor)} rows, not {2 * num_keypoints}")
            rows = tensor.unflatten(0, (num_keypoints, 2))
            logits = torch.full_like(rows[:, :1], VISIBLE_LOGIT if name.endswith(".bias") else 0.0)
            filled[name] = torch.cat((rows, logits), dim=1).flatten(0, 1)
    return filled


def _family(kind: str, layers: list[Any]) -> str:
    kinds = {pickled.kind_of(layer) for layer in layers}
    return "yolo11-pose" if kind == "Pose" and "C3k2" in kinds else HEADS[kind]


def _name(family: str, table: LayerTable, network: StandIn) -> str:
    """The published name, such as yolov8n-pose or yolov8x-pose-p6; without a letter if the file holds no size."""
    description = vars(network).get("yaml")
    scale = description.get("scale") if isinstance(description, dict) else None
    letter = scale if isinstance(scale, str) and re.fullmatch("[nsmlx]", scale) else ""
    suffix = "-p6" if table.strides[-1] == 64 else ""
    return f"{family.removesuffix('-pose')}{letter}-pose{suffix}"


def _input_spec(content: Any, network: StandIn, multiple: int) -> InputSpec:
    """RGB in 0..1; the size of the training settings, rounded down to a multiple, else 640."""
    sources = [source for source in (content.get("train_args"), vars(network).get("args")) if isinstance(source, dict)]
    sizes: list[Any] = [source.get("imgsz") for source in sources]
    size = next((size for size in sizes if type(size) is int and multiple <= size <= transfer.MAX_INPUT), 640)
    return replace(RGB_UNIT, multiple=multiple, size=size // multiple * multiple)


# Rows of the layer table.


def read_layer(number: int, module: Any, tensors: Mapping[str, InertTensor], document: Document) -> Layer:
    """The row of one layer. Raises CheckpointError for an unknown layer."""
    kind, state = pickled.kind_of(module), vars(module)
    if kind not in KINDS:
        raise CheckpointError(
            f"{document.path}: layer {number} is {kind or brief(module)}; supported are the layers of YOLOv8, YOLO11 "
            f"and YOLO26: {', '.join(KINDS)}. Export it to ONNX with Ultralytics, and import that"
        )
    sources = _layer_sources(number, state.get("f"), document)
    prefix = f"model.{number}."

    def outputs(name: str) -> int:
        return transfer.shape_of(tensors, f"{prefix}{name}.weight", document, kind)[0]

    if kind == "Upsample":
        if state.get("mode") != "nearest" or state.get("scale_factor") != 2.0:
            raise CheckpointError(f"{document.path}: layer {number} upsamples; only factor 2, nearest, is supported")
        return _layer(document, kind="upsample", sources=sources)
    if kind == "Concat":
        if state.get("d") != 1:
            raise CheckpointError(
                f"{document.path}: layer {number} concatenates along axis {brief(state.get('d'))}; axis 1 is supported"
            )
        return _layer(document, kind="concat", sources=sources)
    if kind == "Conv":
        conv = vars(pickled.children(module)["conv"])
        sizes = tuple(pair[0] if _square(pair) else 0 for pair in (conv.get("kernel_size"), conv.get("stride")))
        return _layer(
            document, kind="conv", sources=sources, channels=outputs("conv"), kernel=sizes[0], stride=sizes[1]
        )
    if kind == "SPPF":
        pool = vars(pickled.children(module)["m"])
        window, pools = pool.get("kernel_size"), state.get("n", 3)
        plain = (pool.get("stride"), pool.get("dilation", 1), pool.get("ceil_mode", False)) == (1, 1, False)
        if type(window) is not int or not plain or pool.get("padding") != window // 2 or pools != 3:
            raise CheckpointError(
                f"{document.path}: layer {number} pools {brief(pools)} times over {brief(window)}; supported are three "
                "pools with stride 1, no dilation and padding of half the window"
            )
        act = pickled.children(pickled.children(module)["cv1"]).get("act")
        return _layer(
            document, kind="pool", sources=sources, channels=outputs("cv2.conv"), kernel=window,
            shortcut=state.get("add", False) is True, linear=pickled.kind_of(act) == "Identity",
        )  # fmt: skip
    hidden, rest = divmod(outputs("cv1.conv"), 2)
    blocks = list(pickled.children(pickled.children(module)["m"]).values())
    names = {BLOCKS.get(pickled.kind_of(block)) for block in blocks}
    if rest or len(names) != 1 or None in names:
        found = sorted({pickled.kind_of(block) for block in blocks})
        raise CheckpointError(f"{document.path}: layer {number} ({kind}) has blocks {found}, which are not supported")
    block = str(names.pop())
    if block == "csp":
        repeats = transfer.count_blocks(tensors, f"{prefix}m.0.m.")
        if repeats != CSP_REPEATS:
            raise CheckpointError(
                f"{document.path}: layer {number} has blocks of {repeats} bottlenecks; {CSP_REPEATS} are supported"
            )
    inside = {"bottleneck": "m.0.cv1.conv", "bottleneck-attention": "m.0.0.cv1.conv"}.get(block)
    return _layer(
        document, kind=KINDS[kind], sources=sources, channels=outputs("cv2.conv"), hidden=hidden, block=block,
        repeats=len(blocks), shortcut=_shortcut(number, module, document), width=outputs(inside) if inside else 0,
    )  # fmt: skip


def _layer(document: Document, **fields: Any) -> Layer:
    try:
        return Layer(**fields)
    except ValueError as error:
        raise CheckpointError(f"{document.path}: {error}") from error


def _layer_sources(number: int, given: Any, document: Document) -> tuple[int, ...]:
    """Absolute layer numbers; in the file negative ones are relative."""
    listed = given if isinstance(given, list) else [given]
    if not all(type(source) is int and -max(number, 1) <= source < number for source in listed):
        raise CheckpointError(f"{document.path}: layer {number} takes {brief(given)}; inputs must be earlier layers")
    return tuple(source if source >= 0 else number + source for source in listed)


def _square(pair: Any) -> bool:
    """Whether this is a pair of equal integers. Types first, because comparing values of the file may never end."""
    return isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int and pair[0] == pair[1]


def _shortcut(number: int, module: Any, document: Document) -> bool:
    """Whether the bottlenecks add their input: all or none. Blocks with attention always do."""
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


# Checks of what tensor shapes do not show.


def check_modules(network: Any, dropped: tuple[str, ...], document: Document) -> None:
    """Raises CheckpointError for unsupported classes of modules, convolutions, activations or attention.

    dropped: prefixes of modules that are not used.
    """
    modules = {
        name: module
        for name, module in pickled.modules_of(network, document).items()
        if not f"{name}.".startswith(dropped)
    }
    if not any(pickled.kind_of(module) == "BatchNorm2d" for module in modules.values()):
        raise CheckpointError(
            f"{document.path}: batch norm is already folded into the convolutions, such a network cannot be trained; "
            "give the file before model.fuse(), or export it to ONNX with Ultralytics and import that"
        )
    for name, module in modules.items():
        kind = pickled.kind_of(module)
        if kind == "Conv2d":
            _check_conv(name, vars(module), document)
        elif kind == "Attention":
            _check_attention(name, module, document)
        elif name.endswith(".act"):
            _check_activation(name, modules, document)
        if kind not in _PARTS or name == "model":  # the layers themselves, which read_layer checks
            continue
        for part in pickled.children(module):
            child = modules.get(f"{name}.{part}")  # None: absent or not used
            allowed = _PARTS[kind].get(part, _PARTS[kind].get("*", ()))
            if part != "act" and child is not None and pickled.kind_of(child) not in allowed:
                raise CheckpointError(
                    f"{document.path}: {name}.{part} is {pickled.kind_of(child)}, which is not supported in {kind}"
                )


def _check_activation(name: str, modules: Mapping[str, StandIn], document: Document) -> None:
    kind = pickled.kind_of(modules[name])
    pool = _POOL_LINEAR.match(name) and pickled.kind_of(modules[name.rsplit(".", 2)[0]]) == "SPPF"
    allowed = ("Identity",) if _LINEAR.search(name) else ("SiLU", "Identity") if pool else ("SiLU",)
    if kind not in allowed:
        raise CheckpointError(f"{document.path}: the activation {name} is {kind}; {' or '.join(allowed)} is supported")


def _check_conv(name: str, state: Mapping[str, Any], document: Document) -> None:
    kernel = state.get("kernel_size")
    may_have_stride = re.fullmatch(r"model\.\d+\.conv", name)
    padding = (kernel[0] // 2,) * 2 if _square(kernel) and isinstance(kernel, tuple) else None
    plain = state.get("dilation") == (1, 1) and state.get("padding_mode") == "zeros" and state.get("padding") == padding
    if not plain or not (may_have_stride or state.get("stride") == (1, 1)):
        raise CheckpointError(f"{document.path}: dilation, stride or padding of convolution {name} is not supported")


def _check_attention(name: str, module: StandIn, document: Document) -> None:
    found = [vars(module).get(key) for key in ("num_heads", "head_dim", "key_dim")]
    heads, values, keys = (number if type(number) is int and 0 < number <= MAX_CHANNELS else 0 for number in found)
    scale = vars(module).get("scale")
    known = heads * keys > 0 and heads == attention_heads(heads * values) and keys == values // 2
    if not known or not isinstance(scale, float) or abs(scale - float(keys) ** -0.5) > 1e-6:
        heads_text, values_text, keys_text = map(brief, found)
        raise CheckpointError(
            f"{document.path}: {name} has {heads_text} heads, {values_text} value channels, {keys_text} key channels "
            f"and scale {brief(scale)}, which is not supported"
        )


# From the names of tensors in the file to those of ``PoseNet``.


def _by_layer(tensors: dict[str, InertTensor]) -> dict[str, dict[str, InertTensor]]:
    """The tensors of each layer, by the prefix of their names, such as "model.7."."""
    found: dict[str, dict[str, InertTensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(".".join(name.split(".", 2)[:2]) + ".", {})[name] = tensor
    return found


def _layer_rules(number: int, layer: Layer, neck_begins: int) -> list[tuple[str, str]]:
    old = rf"model\.{number}\."
    new = f"{'backbone' if number < neck_begins else 'neck'}.layers.{number}."
    if layer.kind == "conv":
        return [(old, new)]
    if layer.kind == "pool":
        return [(rf"{old}cv(\d)\.", rf"{new}conv\1.")]
    old_block, new_block = rf"{old}m\.(\d+)\.", rf"{new}blocks.\1."
    rules = [(rf"{old}cv1\.", f"{new}split."), (rf"{old}cv2\.", f"{new}final.")]
    if layer.block == "csp":
        for index, part in enumerate(("main", "short", "final"), 1):
            rules.append((rf"{old_block}cv{index}\.", f"{new_block}{part}."))
        rules.append((rf"{old_block}m\.(\d+)\.cv(\d)\.", rf"{new_block}blocks.\2.conv\3."))
    if layer.block == "bottleneck":
        rules.append((rf"{old_block}cv(\d)\.", rf"{new_block}conv\2."))
    if layer.block == "bottleneck-attention":
        rules.append((rf"{old_block}0\.cv(\d)\.", rf"{new_block}0.conv\2."))
        old_block, new_block = rf"{old_block}1\.", f"{new_block}1."
    for part, new_part in _ATTENTION_PARTS:
        rules.append((rf"{old_block}{re.escape(part)}\.", f"{new_block}{new_part}."))
    return rules


def _head_rules(prefix: str, settings: DistanceSettings, kind: str) -> list[tuple[str, str]]:
    old = re.escape(prefix + (ONE_TO_ONE if settings.one_to_one else ""))
    keypoints = r"cv4_kpts\.(\d+)\." if kind == "Pose26" else r"cv4\.(\d+)\.2\."
    return [
        (rf"{old}cv2\.(\d+)\.2\.", r"head.box_predictions.\1."),
        (rf"{old}cv3\.(\d+)\.2\.", r"head.class_predictions.\1."),
        (rf"{old}{keypoints}", r"head.keypoint_predictions.\1."),
        (rf"{old}cv2\.(\d+)\.", r"head.box_towers.\1."),
        (rf"{old}cv3\.(\d+)\.", r"head.class_towers.\1."),
        (rf"{old}cv4\.(\d+)\.", r"head.keypoint_towers.\1."),
    ]
