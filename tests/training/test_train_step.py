"""One training step: precision, parameter groups, clipping, divergence and state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.small import SETTINGS, small_batch, small_net, small_source
from yolopose.data.batch import Batch
from yolopose.training.settings import LossSettings
from yolopose.training.train_step import Diverged, TrainStep


@pytest.fixture(scope="module")
def batch() -> Batch:
    return small_batch(small_source())


def train_step(family: str = "yolox", **settings: object) -> TrainStep:
    return TrainStep(small_net(family), replace(SETTINGS, **settings), steps_per_epoch=2)  # type: ignore[arg-type]


def weights(step: TrainStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.trainable.state_dict().items()}


def parameters(step: TrainStep) -> dict[str, Tensor]:
    """Without batch norm statistics, which a forward pass changes."""
    return {name: tensor.detach().clone() for name, tensor in step.trainable.named_parameters()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("family", ["yolox", "yolov5", "yolov8", "yolo26"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_lower_the_loss(batch: Batch, family: str, precision: str) -> None:
    step = train_step(family, precision=precision, epochs=10, warmup=0.0, optimizer="adamw")
    losses = [step(batch) for _ in range(12)]
    # Not only the last one: rounding, and so the size of a step, depends on the number of threads.
    assert min(terms["loss"] for terms in losses[6:]) < losses[0]["loss"]
    for terms in losses:
        assert terms["loss"] == pytest.approx(sum(value for name, value in terms.items() if name != "loss"), rel=1e-5)
    assert step.step == 12
    assert {tensor.dtype for tensor in step.averaged.state_dict().values()} == {torch.float32, torch.int64}


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        train_step(precision="fp16")


@pytest.mark.parametrize(("family", "order", "scale"), [("yolox", [0, 1, 2], 1.0), ("yolov5", [2, 1, 0], 1 / 255)])
def test_images_have_channel_order_and_range_of_the_network(
    batch: Batch, family: str, order: list[int], scale: float
) -> None:
    images = train_step(family).images(batch)
    expected = batch.images[:, order].float() * scale
    torch.testing.assert_close(images, expected)
    reduced = train_step(family, precision="bf16").images(batch)
    assert torch.equal(reduced, expected.bfloat16())  # rounded once, as autocast would
    assert reduced.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.uint8


def test_weights_are_channels_last_in_memory() -> None:
    step = train_step()
    for net in (step.net, step.averaged):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_weight_decay_excludes_biases_and_batch_norm(optimizer: str) -> None:
    step = train_step(optimizer=optimizer, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in step.optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(step.trainable.parameters()))  # all, the auxiliary branch too
    norms = [
        p for module in step.trainable.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()
    ]
    biases = [p for name, p in step.trainable.named_parameters() if name.endswith("bias")]
    kernels = [m.weight for m in step.trainable.modules() if isinstance(m, nn.Conv2d)]
    assert {decay[id(p)] for p in norms + biases} == {0.0}
    assert {decay[id(p)] for p in kernels} == {0.05}
    assert len({id(p) for p in norms + biases + kernels}) == len(decay)


def test_gradients_are_clipped(batch: Batch) -> None:
    """The first step of SGD with Nesterov momentum is rate x (1 + momentum) x gradient."""
    step = train_step(optimizer="sgd", weight_decay=0.0, clip=0.01, lr=1.0, warmup=0.0, ema=0.0)
    before = [p.detach().clone() for p in step.trainable.parameters()]
    step(batch)
    moved = torch.stack([(p - b).norm() for p, b in zip(step.trainable.parameters(), before, strict=True)]).norm()
    assert float(moved.detach()) == pytest.approx(1.937 * 0.01, rel=1e-3)


def test_frozen_batch_norm_keeps_its_statistics(batch: Batch) -> None:
    frozen, usual = train_step(freeze_bn=True), train_step()
    before = weights(frozen)
    frozen(batch)
    usual(batch)
    running = [name for name in before if "running" in name]
    assert running
    assert all(torch.equal(before[name], frozen.trainable.state_dict()[name]) for name in running)
    assert not all(torch.equal(before[name], usual.trainable.state_dict()[name]) for name in running)


def test_seed_decides_weights_of_the_auxiliary_branch() -> None:
    torch.manual_seed(1)
    first = weights(train_step())
    torch.manual_seed(2)
    assert_equal(first, weights(train_step()))
    other = weights(train_step(seed=1))
    assert not torch.equal(first["heatmaps.predict.weight"], other["heatmaps.predict.weight"])


def test_nan_loss_raises_and_leaves_the_weights(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    step = train_step(lr=0.5)
    step(batch)
    before, average = parameters(step), {n: t.clone() for n, t in step.averaged.state_dict().items()}
    usual = step.criterion.forward
    monkeypatch.setattr(step.criterion, "forward", lambda *given: usual(*given) | {"box": torch.tensor(torch.nan)})
    with pytest.raises(Diverged, match=r"not finite at epoch 1, step 2 of 2 .*box nan.*lower --lr \(it is 0\.5\)"):
        step(batch)
    assert_equal(before, parameters(step))
    assert_equal(average, dict(step.averaged.state_dict()))
    assert step.step == 1


def test_infinite_gradient_raises_and_leaves_the_weights(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The square root of 0 is 0, its gradient infinite."""
    step = train_step(clip=0.0)
    before = parameters(step)
    parameter = next(step.net.parameters())
    monkeypatch.setattr(step.criterion, "forward", lambda *given: {"box": (parameter * 0).sum().sqrt()})
    with pytest.raises(Diverged, match="its gradient is not finite"):
        step(batch)
    assert_equal(before, parameters(step))


def test_rejects_the_state_of_another_network() -> None:
    step, without = train_step(), train_step(loss=LossSettings(heatmaps=0.0))
    for state, average in ((without.state(), without.averaged), (train_step("yolov5").state(), step.averaged)):
        with pytest.raises(ValueError, match="another network or another auxiliary branch"):
            step.load_state(state, average)


def test_warmup_is_at_most_a_third_of_the_run() -> None:
    step = train_step(epochs=3, warmup=100.0, lr=0.01)
    assert step.warmup == 2
    assert step.learning_rate == pytest.approx(0.01 / 3)
