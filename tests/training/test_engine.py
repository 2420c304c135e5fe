"""One step: precision, groups, clipping, what is refused, and a state that goes on exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.small import SETTINGS, small_batch, small_net, small_source
from yolopose.data.batch import Batch
from yolopose.training.settings import LossSettings, TrainSettings
from yolopose.training.train_step import Diverged, Engine


@pytest.fixture(scope="module")
def batch() -> Batch:
    return small_batch(small_source())


def engine(family: str = "yolox", **settings: object) -> Engine:
    return Engine(small_net(family), replace(SETTINGS, **settings), steps_per_epoch=2)  # type: ignore[arg-type]


def weights(made: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made.trainable.state_dict().items()}


def parameters(made: Engine) -> dict[str, Tensor]:
    """Without the statistics of batch norm, which a forward pass changes."""
    return {name: tensor.detach().clone() for name, tensor in made.trainable.named_parameters()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("family", ["yolox", "yolov5", "yolov8", "yolo26"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_lower_the_loss(batch: Batch, family: str, precision: str) -> None:
    made = engine(family, precision=precision, epochs=10, warmup=0.0, optimizer="adamw")
    losses = [made.train_step(batch) for _ in range(12)]
    # Not the last one alone: where rounding falls, and so how far a step goes, depends on the number of threads.
    assert min(step["loss"] for step in losses[6:]) < losses[0]["loss"]
    for step in losses:
        assert step["loss"] == pytest.approx(sum(value for name, value in step.items() if name != "loss"), rel=1e-5)
    assert made.step == 12
    assert {tensor.dtype for tensor in made.averaged.state_dict().values()} == {torch.float32, torch.int64}


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        engine(precision="fp16")


@pytest.mark.parametrize(("family", "order", "scale"), [("yolox", [0, 1, 2], 1.0), ("yolov5", [2, 1, 0], 1 / 255)])
def test_images_are_what_the_network_wants(batch: Batch, family: str, order: list[int], scale: float) -> None:
    images = engine(family).images(batch)
    expected = batch.images[:, order].float() * scale
    torch.testing.assert_close(images, expected)
    reduced = engine(family, precision="bf16").images(batch)
    assert torch.equal(reduced, expected.bfloat16())  # rounded once, as autocast would
    assert reduced.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.uint8


def test_weights_are_channels_last_in_memory() -> None:
    made = engine()
    for net in (made.net, made.averaged):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_no_decay_for_biases_and_batch_norm(optimizer: str) -> None:
    made = engine(optimizer=optimizer, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(made.trainable.parameters()))  # all, the auxiliary branch too
    norms = [
        p for module in made.trainable.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()
    ]
    biases = [p for name, p in made.trainable.named_parameters() if name.endswith("bias")]
    kernels = [m.weight for m in made.trainable.modules() if isinstance(m, nn.Conv2d)]
    assert {decay[id(p)] for p in norms + biases} == {0.0}
    assert {decay[id(p)] for p in kernels} == {0.05}
    assert len({id(p) for p in norms + biases + kernels}) == len(decay)


def test_gradients_are_clipped(batch: Batch) -> None:
    """The first step of Nesterov's SGD is rate x (1 + momentum) x gradient."""
    made = engine(optimizer="sgd", weight_decay=0.0, clip=0.01, lr=1.0, warmup=0.0, ema=0.0)
    before = [p.detach().clone() for p in made.trainable.parameters()]
    made.train_step(batch)
    moved = torch.stack([(p - b).norm() for p, b in zip(made.trainable.parameters(), before, strict=True)]).norm()
    assert float(moved.detach()) == pytest.approx(1.937 * 0.01, rel=1e-3)


def test_frozen_batch_norm_keeps_its_statistics(batch: Batch) -> None:
    frozen, usual = engine(freeze_bn=True), engine()
    before = weights(frozen)
    frozen.train_step(batch)
    usual.train_step(batch)
    running = [name for name in before if "running" in name]
    assert running
    assert all(torch.equal(before[name], frozen.trainable.state_dict()[name]) for name in running)
    assert not all(torch.equal(before[name], usual.trainable.state_dict()[name]) for name in running)


def test_seed_decides_the_auxiliary_branch_too() -> None:
    torch.manual_seed(1)
    first = weights(engine())
    torch.manual_seed(2)
    assert_equal(first, weights(engine()))
    other = weights(engine(seed=1))
    assert not torch.equal(first["heatmaps.predict.weight"], other["heatmaps.predict.weight"])


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(lr=0.5)
    made.train_step(batch)
    before, average = parameters(made), {n: t.clone() for n, t in made.averaged.state_dict().items()}
    usual = made.criterion.forward
    monkeypatch.setattr(made.criterion, "forward", lambda *given: usual(*given) | {"box": torch.tensor(torch.nan)})
    with pytest.raises(Diverged, match=r"not finite at epoch 1, step 2 of 2 .*box nan.*lower --lr \(it is 0\.5\)"):
        made.train_step(batch)
    assert_equal(before, parameters(made))
    assert_equal(average, dict(made.averaged.state_dict()))
    assert made.step == 1


def test_a_gradient_that_is_not_finite_stops_too(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of 0 is 0, its slope infinite."""
    made = engine(clip=0.0)
    before = parameters(made)
    parameter = next(made.net.parameters())
    monkeypatch.setattr(made.criterion, "forward", lambda *given: {"box": (parameter * 0).sum().sqrt()})
    with pytest.raises(Diverged, match="its gradient is not finite"):
        made.train_step(batch)
    assert_equal(before, parameters(made))


def test_a_state_of_another_network_is_refused() -> None:
    made, without = engine(), engine(loss=LossSettings(heatmaps=0.0))
    for state, average in ((without.state(), without.averaged), (engine("yolov5").state(), made.averaged)):
        with pytest.raises(ValueError, match="another network or other auxiliary branches"):
            made.load_state(state, average)


def test_warm_up_is_at_most_a_third() -> None:
    made = engine(epochs=3, warmup=100.0, lr=0.01)
    assert made.warmup == 2
    assert made.rate == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch", 0), ("validate_every", 0), ("seed", -1), ("warmup", float("nan")), ("warmup", -1.0),
        ("weight_decay", float("inf")), ("clip", float("nan")), ("close_epochs", -1), ("optimizer", "adam"),
        ("precision", "int8"), ("lr", 0.0), ("lr", float("nan")), ("ema", 1.0), ("final_lr", float("nan")),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_settings_are_plain_values() -> None:
    import json

    settings = replace(SETTINGS, lr=0.1, freeze_bn=True)
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
