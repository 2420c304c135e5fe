"""How each layer fared, for people to look at: JSON, and a picture of the ranking and of what was tried."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

from yolopose.runtime.output import atomic_write

from .search import Found

SHOWN = 40  # layers in the picture, the most sensitive ones


def write_sensitivity(path: Path, found: Found) -> None:
    """``path`` (.json): ranking, trials, and how each tensor is rounded; beside it the picture, .png. OutputError."""
    plan = found.plan
    unranked = [layer.name for layer in plan.body.layers if layer.name not in found.ranking]
    document = {
        "target": plan.target,
        "layers": [
            {"name": name, "pose_loss_alone": loss, "kept_float32": name in plan.kept}
            for name, loss in (found.ranking | {name: None for name in unranked}).items()
        ],
        "trials": [{"layers_kept": count, **asdict(trial)} for count, trial in sorted(found.trials.items())],
        "tensors": {name: asdict(choice) for name, choice in plan.choices.items()},
    }
    atomic_write(path, json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    atomic_write(path.with_suffix(".png"), picture(found))


def picture(found: Found) -> bytes:
    """PNG: what each of the most sensitive layers costs alone, and what keeping more of them leaves."""
    from matplotlib.figure import Figure  # takes half a second to import

    names = list(found.ranking)[:SHOWN]
    figure = Figure(figsize=(11, 0.2 * len(names) + 2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    colours = ["#999999" if name in found.plan.kept else "#c44e52" for name in names]
    left.barh(range(len(names)), [found.ranking[name] for name in names], color=colours)
    left.set_yticks(range(len(names)), names, fontsize=6)
    left.invert_yaxis()
    left.set_xlabel("1 - OKS with float32, this layer alone in int8 (grey: stays float32)")
    counts = sorted(found.trials)
    trials = [found.trials[count] for count in counts]
    drops = [trial.drop for trial in trials if trial.drop is not None]
    places = range(len(counts))
    if drops:
        right.errorbar(places, drops, [trial.error or 0 for trial in trials], fmt="o-", color="#4c72b0", capsize=3)
        right.set_ylabel("keypoint AP lost, points")
    else:
        right.plot(places, [trial.pose_loss for trial in trials], "o-", color="#4c72b0")
        right.set_ylabel("1 - OKS with float32")
    right.set_xticks(places, [str(count) for count in counts])
    right.set_xlabel("layers kept float32")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
