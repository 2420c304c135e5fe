"""One optimizer step, and the whole state of a training. Independent of files, epochs and logs."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from yolopose.runtime.errors import UsageError, YoloposeError

from ..data.batch import Batch
from ..model.pose_net import PoseNet
from .criterion import Criterion, TrainableNet
from .distributed import any_process, mean_over_processes, world_size
from .optimizer import WeightAverage, make_optimizer, rate_at
from .settings import TrainSettings

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(YoloposeError):
    """A loss, or its gradient, is not finite."""


class TrainStep:
    """Network, losses, optimizer and averaged weights of a run on one device; call it with a batch.

    step: optimizer steps done, of ``total_steps``. Raises UsageError for fp16 on a CPU.
    """

    def __init__(
        self, net: PoseNet, settings: TrainSettings, steps_per_epoch: int, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        if settings.precision == "fp16" and self.device.type != "cuda":
            raise UsageError("--precision fp16 needs a GPU; on a CPU train in bf16 or fp32")
        self.settings, self.steps_per_epoch = settings, steps_per_epoch
        self.total_steps = settings.epochs * steps_per_epoch
        self.warmup = min(round(settings.warmup * steps_per_epoch), self.total_steps // 3)
        self.step = 0
        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # all images have one size
        self.autocast = DTYPES[settings.precision]
        with torch.random.fork_rng(devices=[]):  # the seed decides the weights of the auxiliary branch
            torch.manual_seed(settings.seed)
            self.trainable = TrainableNet(net.float(), heatmaps=settings.loss.heatmaps > 0).to(self.device)
        self.trainable.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.3 times as fast on a CPU, more under autocast
        self.criterion = Criterion(self.trainable, settings.loss).to(self.device)
        self.optimizer = make_optimizer(self.trainable, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.average = WeightAverage(net, settings.ema, self.total_steps)
        self.model: nn.Module = self.trainable
        if world_size() > 1:
            if self.device.type == "cuda":
                self.trainable = nn.SyncBatchNorm.convert_sync_batchnorm(self.trainable)
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.trainable, device_ids=ids, broadcast_buffers=False)
        self._training_mode()

    @property
    def net(self) -> PoseNet:
        """The network that the optimizer updates."""
        return self.trainable.net

    @property
    def averaged(self) -> PoseNet:
        """The network with averaged weights."""
        net = self.average.net
        assert isinstance(net, PoseNet)
        return net

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.settings.learning_rate * rate_at(self.step, self.total_steps, self.warmup, self.settings.final_lr)

    def _training_mode(self) -> None:
        self.model.train()
        if self.settings.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):  # SyncBatchNorm too
                    module.eval()

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Forward, backward, update. Returns the loss terms and their sum, "loss", of this process.

        Raises Diverged, in every process, when the loss of any process or the gradient is not finite; the weights are
        then those before the step. With fp16 a gradient that is not finite is no error: the scaler skips the step and
        lowers its scale.
        """
        rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trainable.parameters(), self.settings.clip or math.inf)
        # Checked once, after backward: each check makes the CPU wait for the GPU.
        finite = loss.isfinite() if self.scaler.is_enabled() else loss.isfinite() & norm.isfinite()
        if any_process(not bool(finite), self.device):
            raise Diverged(self._reason(terms))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.net, self.step)
        values = torch.stack([loss, *terms.values()]).tolist()  # one copy from the device for all terms
        return dict(zip(("loss", *terms), values, strict=True))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms, with gradient."""
        with self._precision():
            predicted = self.model(self.images(batch))
        terms: dict[str, Tensor] = self.criterion(predicted, batch.people.to(self.device))
        return terms

    def images(self, batch: Batch) -> Tensor:
        """Input of the network from uint8 BGR, on its device, in the precision of its first convolution."""
        spec = self.net.input
        dtype = self.autocast or torch.float32  # integers up to 255 are exact in all of them
        pixels = batch.images.to(self.device, non_blocking=True).to(dtype, memory_format=torch.channels_last)
        if spec.channel_order == "rgb":
            pixels = pixels.flip(1)
        return pixels if spec.scale == 1 else pixels.mul_(spec.scale)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def _reason(self, terms: dict[str, Tensor]) -> str:
        shown = ", ".join(f"{name} {float(mean_over_processes(term)):.4g}" for name, term in terms.items())
        epoch, step = divmod(self.step, self.steps_per_epoch)
        return (
            f"the loss or its gradient is not finite at epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch} "
            f"({shown}); train again with a lower --lr (it is {self.settings.learning_rate:g}) or in fp32; "
            "earlier checkpoints are not affected"
        )

    def state(self) -> dict[str, Any]:
        """All that a later training session needs to continue: plain values and tensors, for ``checkpoints.save``."""
        optimizer = self.optimizer.state_dict()
        return {
            "step": self.step,
            "trainable": self.trainable.state_dict(),
            "moments": optimizer["state"],  # the groups follow from the settings
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any], average: PoseNet) -> None:
        """Continue from ``state``; average: the network with averaged weights, which the checkpoint itself is.

        Raises UsageError for the state of another network or with another auxiliary branch.
        """
        own, stored = self.trainable.state_dict(), state["trainable"]
        if own.keys() != stored.keys() or any(own[name].shape != stored[name].shape for name in own):
            raise UsageError(
                "the checkpoint is of another network or another auxiliary branch; --resume continues a run"
            )
        self.trainable.load_state_dict(stored)
        self.average.net.load_state_dict(average.state_dict())
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state["moments"], "param_groups": optimizer["param_groups"]})
        self.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
