"""Inside the child: an artifact or a plan on the GPU against the network in PyTorch, there too where it has CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tasks import GpuTask


def compare(task: GpuTask) -> dict[str, Any]:
    """The verdict of the gate that an export ends in, with this engine. float32 must be equal up to rounding."""
    import torch

    from yolopose.checkpoints import load
    from yolopose.export.images import export_images
    from yolopose.export.pipeline import net_subject
    from yolopose.export.verify import verify
    from yolopose.runtime import read_contract

    torch.backends.cudnn.allow_tf32 = False  # on by default, and not float32
    contract = read_contract(task.artifact)
    on = task.device if torch.cuda.is_available() else "cpu"  # a Jetson may have a PyTorch for CPUs alone
    net = load(task.weights).to(on)
    data, folder = (None if path is None else Path(path) for path in (task.data, task.images))
    images = export_images(data, folder, net.skeleton, task.limit)
    exact = contract.precision.weights == contract.precision.activations == "float32"
    found = verify(
        Path(task.artifact),
        net_subject(net),
        images,
        exact=exact,
        max_ap_drop=0.5,
        progress=lambda items, total, label: items,
        backend=task.backend,
        device=task.device,
    )
    report = found.report
    return {
        "verdict": found.info.verdict,
        "reason": found.reason,
        "reference": f"PyTorch {torch.__version__} on {on}",
        "images": report.images,
        "people": report.people,
        "matched": report.matched,
        "max_px": report.max_px,
        "mean_oks": report.mean_oks,
    }
