"""``yolopose.load``: outputs of the reference code bases for their own checkpoints, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yolopose
from yolopose.checkpoints import READERS, own
from yolopose.model.pose_net import PoseNet, fuse_conv_bn
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

from .small_nets import saved

NAMES = (
    "edgeai_yolov5_s6_pose_narrow.pt",
    "edgeai_yolov5_s6_pose_ti_lite_narrow.pt",
    "yolov7_w6_pose_narrow.pt",
    "edgeai_yolox_s_pose_ti_lite_narrow.pth",
    "mmpose_yoloxpose_s_narrow.pth",
    "mmpose_yoloxpose_nano_lspet.pth",
)
RTOL, ATOL = 1e-5, 1e-3
FACTS = {  # family, head, focus order or stem, channel order, scale, pad side, multiple, keypoints, license
    NAMES[0]: ("yolov5-pose", "anchor", "rows", "rgb", 1 / 255, "center", 64, 17, "GPL-3.0"),
    NAMES[1]: ("yolov5-pose", "anchor", "conv-focus", "rgb", 1 / 255, "center", 64, 17, "GPL-3.0"),
    NAMES[2]: ("yolov7-pose", "anchor", "columns", "rgb", 1 / 255, "center", 64, 17, None),
    NAMES[3]: ("yolox-pose", "edgeai", "conv-focus", "bgr", 1.0, "bottom-right", 32, 17, None),
    NAMES[4]: ("yolox-pose", "mmpose", "columns", "bgr", 1.0, "center", 32, 17, None),
    NAMES[5]: ("yolox-pose", "mmpose", "columns", "bgr", 1.0, "center", 32, 14, None),
}


def golden(path: Path) -> dict[str, np.ndarray]:
    """Images and expected outputs; the reference code bases stored them in two layouts."""
    with np.load(path.with_suffix(".npz")) as stored:
        values = {key: stored[key] for key in stored.files}
    if "boxes_xyxy" in values:
        return {
            "images": values["images"],
            "boxes": values["boxes_xyxy"],
            "scores": values["scores"],
            "keypoints": values["keypoints"],
            "keypoint_scores": values["keypoint_scores"],
        }
    rows = values["predictions"].astype(np.float64)
    centers, sizes, keypoints = rows[..., :2], rows[..., 2:4], rows[..., 6:].reshape(*rows.shape[:2], -1, 3)
    logits = "edgeai_yolox" in path.name  # that head returns the keypoint score as a logit
    return {
        "images": values["images"],
        "boxes": np.concatenate((centers - sizes / 2, centers + sizes / 2), axis=-1),
        "scores": rows[..., 4:5] * rows[..., 5:6],
        "keypoints": keypoints[..., :2],
        "keypoint_scores": 1 / (1 + np.exp(-keypoints[..., 2])) if logits else keypoints[..., 2],
        "objectness": rows[..., 4],
        "classes": rows[..., 5:6],
        "raw_keypoint_scores": keypoints[..., 2],
    }


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    # The random weights of edgeai-yolox amplify float32 rounding: its stored outputs differ by up to 0.015 from a run
    # in float64, and float32 runs on other processors by as much. It is therefore compared in float64.
    np.testing.assert_allclose(
        actual.numpy(), expected, rtol=RTOL, atol=0.02 if actual.dtype == torch.float64 else ATOL
    )


def open_net(path: Path, images: np.ndarray) -> tuple[PoseNet, torch.Tensor]:
    """The network and the images, in float64 where float32 does not determine the outputs."""
    dtype = torch.float64 if path.name == NAMES[3] else torch.float32
    return yolopose.load(path).to(dtype), torch.from_numpy(images).to(dtype)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_equal_the_reference(checkpoints: Path, name: str) -> None:
    expected = golden(checkpoints / name)
    net, images = open_net(checkpoints / name, expected["images"])
    predictions = net(images)
    for part, value in predictions._asdict().items():
        close(value, expected[part])
    raw = net.head(net.features(images))
    count = predictions.boxes.shape[1]
    assert raw.boxes.shape == (len(images), 4, count)
    assert raw.keypoints.shape == (len(images), 3 * net.skeleton.num_keypoints, count)
    assert raw.priors.shape[0] == 1
    assert raw.priors.shape[2] == count
    if "objectness" in expected:
        close(raw.objectness[:, 0].sigmoid(), expected["objectness"])
        close(raw.classes.transpose(1, 2).sigmoid(), expected["classes"])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_of_the_fused_network_equal_the_reference(checkpoints: Path, name: str) -> None:
    expected = golden(checkpoints / name)
    fused = fuse_conv_bn(yolopose.load(checkpoints / name))
    # In float32, so that another order of the sums may differ as much as the reference differs from float64, twice.
    atol = 0.03 if name == NAMES[3] else ATOL
    for part, value in fused(torch.from_numpy(expected["images"]).float())._asdict().items():
        np.testing.assert_allclose(value.numpy(), expected[part], rtol=RTOL, atol=atol)


@torch.no_grad()
def test_edgeai_yolox_logits_equal_the_reference(checkpoints: Path) -> None:
    expected = golden(checkpoints / NAMES[3])
    net, images = open_net(checkpoints / NAMES[3], expected["images"])
    raw = net.head(net.features(images))
    logits = (raw.keypoints.unflatten(1, (17, 3))[:, :, 2] * 2 - 0.5) * raw.priors[:, 2:3]
    close(logits.transpose(1, 2), expected["raw_keypoint_scores"])


@pytest.mark.parametrize("name", NAMES)
def test_facts_come_from_the_file(checkpoints: Path, name: str) -> None:
    net = yolopose.load(checkpoints / name)
    family, head, stem, order, scale, side, multiple, keypoints, license_text = FACTS[name]
    spec = net.input
    assert (net.config.family, net.config.head) == (family, head)
    assert stem in (net.config.stem, net.config.focus_order)
    assert (spec.channel_order, spec.scale, spec.pad_side, spec.multiple) == (order, scale, side, multiple)
    assert spec.pad_value == 114
    assert net.skeleton == (LSP_14 if keypoints == 14 else COCO_17)
    assert net.classes == ("person",)
    assert net.weights_licence == license_text
    assert net.weights_sha256 is not None
    assert len(net.weights_sha256) == 64
    assert not net.training
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in net.parameters())


def test_activation_of_the_pooling_is_read_separately(checkpoints: Path) -> None:
    config = yolopose.load(checkpoints / NAMES[1]).config
    assert (config.activation, config.spp_activation) == ("relu", "silu")
    assert config.keypoint_branch == "plain"


def test_name_of_the_file_does_not_matter(checkpoints: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "weights.bin"
    renamed.write_bytes((checkpoints / NAMES[0]).read_bytes())
    assert yolopose.load(renamed).source_format == "edgeai-yolov5"


def test_older_container_gives_the_same_network(checkpoints: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoints / NAMES[4], weights_only=True)
    torch.save(stored, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old, new = yolopose.load(tmp_path / "old.pth"), yolopose.load(checkpoints / NAMES[4])
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_loading_draws_no_random_numbers(checkpoints: Path) -> None:
    before = torch.get_rng_state()
    yolopose.load(checkpoints / NAMES[4])
    assert torch.equal(before, torch.get_rng_state())


def test_skeleton_of_the_caller(checkpoints: Path) -> None:
    own = Skeleton("own", tuple(f"point{i}" for i in range(17)), ((0, 1),), (), (0.05,) * 17)
    assert yolopose.load(checkpoints / NAMES[4], skeleton=own).skeleton == own
    with pytest.raises(ValueError, match="has 14 keypoints"):
        yolopose.load(checkpoints / NAMES[4], skeleton=LSP_14)


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_rejects_a_truncated_file(checkpoints: Path, tmp_path: Path, name: str, share: float) -> None:
    whole = (checkpoints / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"damaged|truncated|cut short|missing"):
        yolopose.load(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.99])
def test_rejects_a_truncated_older_container(checkpoints: Path, tmp_path: Path, share: float) -> None:
    stored = torch.load(checkpoints / NAMES[4], weights_only=True)
    torch.save(stored, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"damaged|truncated|ends before|cut short|ends within"):
        yolopose.load(tmp_path / "old.pth")


def edited(checkpoints: Path, tmp_path: Path, edit: str, value: object = None) -> Path:
    stored = torch.load(checkpoints / NAMES[4], weights_only=True)
    if value is None:
        del stored["state_dict"][edit]
    else:
        stored["state_dict"][edit] = value
    torch.save(stored, tmp_path / "edited.pth")
    return tmp_path / "edited.pth"


def test_every_tensor_is_needed_and_used(checkpoints: Path, tmp_path: Path) -> None:
    weight = "neck.downsamples.0.conv.weight"
    with pytest.raises(CheckpointError, match=r"1 missing \(neck.down3.conv.weight\)"):
        yolopose.load(edited(checkpoints, tmp_path, weight))
    with pytest.raises(CheckpointError, match=r"no place for the tensor 'backbone.extra'"):
        yolopose.load(edited(checkpoints, tmp_path, "backbone.extra", torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"neck.down3.conv.weight is \(1, 2\)"):
        yolopose.load(edited(checkpoints, tmp_path, weight, torch.zeros(1, 2)))
    with pytest.raises(CheckpointError, match="not finite"):
        yolopose.load(edited(checkpoints, tmp_path, weight, torch.full((32, 32, 3, 3), torch.nan)))


def test_rejects_other_pytorch_files(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet.pth")
    with pytest.raises(UnknownCheckpoint, match=r"dictionary of conv1.weight, fc.bias.*mmpose"):
        yolopose.load(tmp_path / "resnet.pth")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(UnknownCheckpoint, match="type list"):
        yolopose.load(tmp_path / "list.pt")


class Surprise(Exception):
    pass


def test_any_exception_of_a_reader_becomes_a_checkpoint_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    raised: BaseException = Surprise("of the file")

    def read(*_: Any) -> None:
        raise raised

    assert READERS[0] is own
    monkeypatch.setattr(own, "read", read)
    with pytest.raises(CheckpointError, match=r"net\.pt looks like yolopose, but is damaged \(Surprise: of the file"):
        yolopose.load(path)
    for raised in (UnknownCheckpoint("unknown"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(raised)) as caught:
            yolopose.load(path)
        assert caught.value is raised


def test_wrong_skeleton_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 14 keypoints"):
        yolopose.load(saved(tmp_path), skeleton=LSP_14)
