"""One optimizer step, and the whole state that a training consists of. Knows nothing of files, epochs or logs."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from yolopose.runtime.errors import YoloposeError

from ..data.batch import Batch
from ..model.pose_net import PoseNet
from .criterion import Criterion, TrainableNet
from .optimizer import Average, make_optimizer, rate_at
from .processes import any_process, mean_over_processes, world_size
from .settings import TrainSettings

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(YoloposeError):
    """A loss, or its gradient, that is not finite."""


class Engine:
    """Network, losses, optimizer and average of one run of ``total_steps`` steps on one device."""

    def __init__(
        self, net: PoseNet, settings: TrainSettings, steps_per_epoch: int, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        if settings.precision == "fp16" and self.device.type != "cuda":
            raise ValueError("precision fp16 needs a GPU; on a CPU train in bf16 or fp32")
        self.settings, self.steps_per_epoch = settings, steps_per_epoch
        self.total_steps = settings.epochs * steps_per_epoch
        self.warmup = min(round(settings.warmup * steps_per_epoch), self.total_steps // 3)
        self.step = 0  # optimizer steps done
        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # pictures are all of one size
        self.autocast = DTYPES[settings.precision]
        with torch.random.fork_rng(devices=[]):  # the auxiliary branch begins as the seed has it
            torch.manual_seed(settings.seed)
            self.trainable = TrainableNet(net.float(), heatmaps=settings.loss.heatmaps > 0).to(self.device)
        self.trainable.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.3 times as fast on a CPU, more under autocast
        self.criterion = Criterion(self.trainable, settings.loss).to(self.device)
        self.optimizer = make_optimizer(self.trainable, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.average = Average(net, settings.ema, self.total_steps)
        self.model: nn.Module = self.trainable
        if world_size() > 1:
            if self.device.type == "cuda":
                self.trainable = nn.SyncBatchNorm.convert_sync_batchnorm(self.trainable)
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.trainable, device_ids=ids, broadcast_buffers=False)
        self._training_mode()

    @property
    def net(self) -> PoseNet:
        """The network as the optimizer has it."""
        return self.trainable.net

    @property
    def averaged(self) -> PoseNet:
        """The running average of its weights."""
        net = self.average.net
        assert isinstance(net, PoseNet)
        return net

    def _training_mode(self) -> None:
        self.model.train()
        if self.settings.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):  # SyncBatchNorm too
                    module.eval()

    def images(self, batch: Batch) -> Tensor:
        """uint8 BGR -> what the network wants, on its device, in the precision of its first convolution."""
        spec = self.net.input
        dtype = self.autocast or torch.float32  # whole numbers to 255 are exact in any of them
        pixels = batch.images.to(self.device, non_blocking=True).to(dtype, memory_format=torch.channels_last)
        if spec.channel_order == "rgb":
            pixels = pixels.flip(1)
        return pixels if spec.scale == 1 else pixels.mul_(spec.scale)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms, with gradient."""
        with self._precision():
            predicted = self.model(self.images(batch))
        terms: dict[str, Tensor] = self.criterion(predicted, batch.people.to(self.device))
        return terms

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Forward, backward, update. The terms and their sum, "loss", of this process.

        Diverged, in every process, when the loss in any or the gradient is not finite; the weights are then those
        before the step. With fp16 such a gradient is no fault: the scaler leaves the step out and scales less.
        """
        rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trainable.parameters(), self.settings.clip or math.inf)
        # Asked once, after backward: each question makes the processor wait for the GPU.
        finite = loss.isfinite() if self.scaler.is_enabled() else loss.isfinite() & norm.isfinite()
        if any_process(not bool(finite), self.device):
            raise Diverged(self._why(terms))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.net, self.step)
        values = torch.stack([loss, *terms.values()]).tolist()  # one wait for the device, not one a term
        return dict(zip(("loss", *terms), values, strict=True))

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return self.settings.learning_rate * rate_at(self.step, self.total_steps, self.warmup, self.settings.final_lr)

    def _why(self, terms: dict[str, Tensor]) -> str:
        shown = ", ".join(f"{name} {float(mean_over_processes(term)):.4g}" for name, term in terms.items())
        epoch, step = divmod(self.step, self.steps_per_epoch)
        return (
            f"the loss or its gradient is not finite at epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch} "
            f"({shown}); train again with a lower --lr (it is {self.settings.learning_rate:g}) or in fp32; "
            "checkpoints written before are whole"
        )

    def state(self) -> dict[str, Any]:
        """Everything that goes on: plain values and tensors, fit for ``checkpoints.save``."""
        optimizer = self.optimizer.state_dict()
        return {
            "step": self.step,
            "trainable": self.trainable.state_dict(),
            "moments": optimizer["state"],  # the groups follow from the settings
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any], average: PoseNet) -> None:
        """Go on from ``state``; ``average``: the averaged network, which the checkpoint itself is.

        Raises ValueError for the state of another network or optimizer.
        """
        mine = self.trainable.state_dict()
        theirs = state["trainable"]
        if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
            raise ValueError(
                "the checkpoint is of another network or other auxiliary branches; --resume continues a run"
            )
        self.trainable.load_state_dict(theirs)
        self.average.net.load_state_dict(average.state_dict())
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state["moments"], "param_groups": optimizer["param_groups"]})
        self.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
