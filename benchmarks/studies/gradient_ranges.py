"""``python -m yolopose.benchmarks.studies.gradient_ranges``: ranges of int8 by what rounding does to people.

The float32 graph is differentiated (`differentiable.DifferentiableGraph`). For each image a few random combinations,
with signs +1 and -1, of everything that makes a person are formed: keypoints in units of their OKS tolerance, box
corners in units of the person, the logit of the score. Their gradient g at a tensor says what an error d = q(x) - x
does to people: sum(g d) for errors that add up over the map, sum((g d)^2) for those that are independent. The range of
a tensor is the one with the smallest mean of both over images and combinations.

Compared, with all layers in int8, with the ranges of ``yolopose-export --int8`` (squared error at the next
convolutions), each with and without the corrected bias. Results: docs/experiments.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from yolopose.bootstrap import ap_difference, match_image_set
from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.evaluation import AP_SCORE_THRESHOLD, AREA_OF_BOX
from yolopose.export.config import TARGETS
from yolopose.export.gate import people_change
from yolopose.export.graph import feed, letterboxed, open_session
from yolopose.export.int8.layers import Body, find_body
from yolopose.export.int8.quantize import (
    QuantizationPlan,
    make_plan,
    quantize,
    quantize_weights,
    scale_groups,
    tensors_to_quantize,
    tensors_to_sample,
)
from yolopose.export.int8.ranges import Grid, Progress, RangeChoice, Samples, collect_samples, make_grid
from yolopose.runtime.backends.base import RawPeople
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.contract import Contract, read_contract
from yolopose.runtime.estimator import people_in_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from .differentiable import DifferentiableGraph

SCORE = 0.1  # people below the deployed threshold count too: they may cross it
COMBINATIONS = 2  # for each image
ELEMENTS = 8192  # of a tensor and an image: those with the largest gradients
BOX_WEIGHT, SCORE_WEIGHT = 0.5, 0.5  # next to 1 for keypoints
_HIGH_SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.17, 0.13, 0.1)  # of the largest value
_LOW_SHARES = (1.0, 0.6, 0.35, 0.2)  # of the smallest value
_LOBE = 0.35  # a smallest value above -0.35 is the negative lobe of SiLU, which is kept whole


@dataclass
class _Group:
    """Tensors with one scale, the grids to choose from, and the sum of the costs of each."""

    tensors: tuple[str, ...]
    grids: list[Grid]
    costs: np.ndarray  # (len(grids),) float64


class NobodyFound(Exception):
    """The network finds nobody on the calibration images, so that no error can be weighted."""


def gradient_ranges(
    model: onnx.ModelProto,
    frames: Sequence[np.ndarray],
    groups: Sequence[Sequence[str]],
    samples: Mapping[str, Samples],
    skeleton: Skeleton,
    symmetric: bool,
    progress: Progress,
    seed: int = 0,
) -> dict[str, RangeChoice]:
    """The grid of each tensor of ``groups``; tensors of one group share theirs.

    frames: letterboxed (h, w, 3) uint8. Raises NotDifferentiable for a graph with unknown operators, NobodyFound.
    """
    graph = DifferentiableGraph(model)
    found = [_Group(tuple(group), *_candidates([samples[name] for name in group], symmetric)) for group in groups]
    by_tensor = {name: group for group in found for name in group.tensors}
    generator = torch.Generator().manual_seed(seed)
    people = 0
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    for i in progress(range(len(frames)), len(frames), "gradients"):
        outputs, kept = graph.run(feed([frames[i]], SCORE, rows=rows), by_tensor)
        combinations = _combinations(outputs, skeleton, generator)
        if not combinations:
            continue
        people += 1
        names = list(kept)
        gradients = [
            torch.autograd.grad(one, [kept[name] for name in names], retain_graph=True, allow_unused=True)
            for one in combinations
        ]
        for j, name in enumerate(names):
            parts = [each[j] for each in gradients if each[j] is not None]
            if parts:
                group = by_tensor[name]
                group.costs += _costs(kept[name].detach(), torch.stack(parts), group.grids)
    if not people:
        raise NobodyFound
    choices = {}
    for group in found:
        best = int(np.argmin(group.costs))
        for name in group.tensors:
            choices[name] = RangeChoice(group.grids[best], "gradient", {"gradient": float(group.costs[best] / people)})
    return choices


def _candidates(samples: Sequence[Samples], symmetric: bool) -> tuple[list[Grid], np.ndarray]:
    low, high = min(each.low for each in samples), max(each.high for each in samples)
    if symmetric:
        grids = [make_grid(low * share, high * share, True) for share in _HIGH_SHARES]
    else:
        lows = [low] if low >= -_LOBE else [low * share for share in _LOW_SHARES]
        grids = [make_grid(one, high * share, False) for one in lows for share in _HIGH_SHARES]
    return grids, np.zeros(len(grids))


def _combinations(outputs: Mapping[str, Tensor], skeleton: Skeleton, generator: torch.Generator) -> list[Tensor]:
    """Random combinations of what makes the people of the first image; empty without people."""
    count = int(outputs["num_people"][0])
    if count == 0:
        return []
    boxes, scores = outputs["boxes"][0, :count], outputs["scores"][0, :count]
    keypoints = outputs["keypoints"][0, :count, :, :2]
    scale = (AREA_OF_BOX * (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1)).sqrt().detach()
    tolerance = 2 * torch.tensor(skeleton.sigmas, dtype=torch.float32) * scale[:, None]
    parts = (
        (keypoints / tolerance[..., None], 1 / (2 * keypoints.shape[1]) ** 0.5),
        (boxes / scale[:, None], BOX_WEIGHT / 2),
        (scores.clamp(1e-6, 1 - 1e-6).logit(), SCORE_WEIGHT),
    )
    return [
        sum((weight * (part * _signs(part, generator)).sum() for part, weight in parts), torch.zeros(()))
        for _ in range(COMBINATIONS)
    ]


def _signs(part: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, part.shape, generator=generator) * 2.0 - 1


def _costs(values: Tensor, gradients: Tensor, grids: Sequence[Grid]) -> np.ndarray:
    """(len(grids),): cost of rounding ``values`` to each grid; gradients: (combinations, *values.shape)."""
    x, g = values.reshape(-1), gradients.reshape(len(gradients), -1)
    if len(x) > ELEMENTS:
        largest = g.abs().sum(0).topk(ELEMENTS, sorted=False).indices
        x, g = x[largest], g[:, largest]
    scale = torch.tensor([grid.scale for grid in grids])[:, None]
    zero, low, high = (
        torch.tensor([float(getattr(grid, name)) for grid in grids])[:, None] for name in ("zero_point", "low", "high")
    )
    rounded = (torch.clamp(torch.round(x / scale) + zero, low, high) - zero) * scale
    error = rounded - x  # (grids, n)
    together = (error @ g.T).square().mean(1)
    apart = (error.square() @ g.T.square()).mean(1)
    return np.asarray((together + apart).double().numpy())


def with_choices(
    plan: QuantizationPlan, choices: dict[str, RangeChoice], samples: Mapping[str, Samples], correct_bias: bool
) -> QuantizationPlan:
    """``plan`` with other ranges; the weights are quantized again for them."""
    weights = {
        layer.name: quantize_weights(
            layer, samples[layer.input], choices[layer.input].grid, plan.target != "tensorrt", correct_bias
        )
        for layer in plan.body.layers
    }
    return replace(plan, choices=choices, weights=weights)


def groups_of_tensors(body: Body, target: Any) -> list[list[str]]:
    """All tensors that get a scale; those that share one together."""
    tensors = tensors_to_quantize(body, target)
    groups = scale_groups(body, tensors, around_concat=target == "tensorrt")
    grouped = {name for group in groups for name in group}
    return [*groups, *([name] for name in tensors if name not in grouped)]


def _people(model: onnx.ModelProto, images: ImageSet, contract: Contract) -> Iterator[PoseResult]:
    session, rows = open_session(model), contract.input.batch.min
    for frame, placement in letterboxed(images, contract.input):
        raw = RawPeople(*session.run(None, feed([frame], AP_SCORE_THRESHOLD, contract.nms.iou_threshold, rows)))
        yield people_in_image(raw, 0, placement)


def compare(artifact: Path, images: ImageSet, calibration: ImageSet, target: Any, console: Console) -> Iterator[str]:
    """A line for each kind of ranges."""
    contract, model = read_contract(artifact), onnx.load(artifact)
    skeleton = contract.skeleton
    frames = [frame for frame, _ in letterboxed(calibration, contract.input)]
    body = find_body(model)
    samples = collect_samples(model, tensors_to_sample(body, target), frames, rows=contract.input.batch.min)
    start = time.perf_counter()
    plan = make_plan(body, samples, target, console.progress)
    seconds = [time.perf_counter() - start]
    groups = groups_of_tensors(body, target)
    start = time.perf_counter()
    choices = gradient_ranges(model, frames, groups, samples, skeleton, target == "tensorrt", console.progress)
    seconds.append(time.perf_counter() - start)
    expected = list(_people(model, images, contract))
    before = match_image_set(expected, images, skeleton)
    for name, ranges, took in (("squared error", plan.choices, seconds[0]), ("gradients", choices, seconds[1])):
        for correct_bias in (True, False):
            made = quantize(model, with_choices(plan, ranges, samples, correct_bias))
            found = list(_people(made, images, contract))
            change = people_change(expected, found, skeleton, contract.nms.score_threshold)
            ap = ap_difference(before, match_image_set(found, images, skeleton))
            bias = "corrected bias" if correct_bias else "plain bias"
            yield (
                f"{name}, {bias} ({took:.0f} s): OKS {change.mean_oks:.4f}, "
                f"{change.lost} lost, {change.invented} invented, {change.crossing} crossing of {change.people}; "
                f"AP {ap.in_points() if ap else 'unknown'}"
            )


def build_parser() -> argparse.ArgumentParser:
    made = parser("gradient_ranges", __doc__ or "")
    made.add_argument("artifact", type=Path, help="float32 artifact")
    made.add_argument("--data", required=True, metavar="LABELS", help="labels of the images that judge")
    made.add_argument("--calibration", type=Path, required=True, metavar="DIR", help="photographs for calibration")
    made.add_argument("--limit", type=int, default=48, metavar="N", help="photographs for calibration (default: 48)")
    made.add_argument("--target", choices=TARGETS, default="cpu")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    skeleton = read_contract(arguments.artifact).skeleton
    images = open_image_set(arguments.data, None, skeleton, 0)
    calibration = open_image_set(None, arguments.calibration, skeleton, arguments.limit)
    lines = list(compare(arguments.artifact, images, calibration, arguments.target, console))
    console.result({"lines": lines}, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
