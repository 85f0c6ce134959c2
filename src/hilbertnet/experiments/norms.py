"""What ``hilbertnet norms`` does: norms of a run from below, exactly and from above, and what follows from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.complexity.certificates import LipschitzConstants, certified_radii, logit_rounding, read_radii
from hilbertnet.complexity.data_bounds import gradient_bound
from hilbertnet.complexity.functions import batched
from hilbertnet.complexity.generalization import MarginBound, best_margin_bound
from hilbertnet.complexity.margins import margin_distribution, margins
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import NormBounds, norm_bounds
from hilbertnet.complexity.norms_below import lower_bounds
from hilbertnet.experiments.norms_found import ExactNorms, RunNorms
from hilbertnet.experiments.run_model import Decision, RunModel, read_run
from hilbertnet.named import result_named
from hilbertnet.networks.pieces import check_counts
from hilbertnet.records import RunFolder, environment, save_tensors, write_json
from hilbertnet.robustness.evaluation import attacked_accuracy
from hilbertnet.robustness.threats import Ball
from hilbertnet.text import nearest

__all__ = ["RunNorms", "images_path", "module_norms", "run_norms", "write_norms"]

_BATCH = 256
_MOST_OUTPUTS = 32  # whose gradients are all computed
_ROTATION = ("rotation", 10.0)


def run_norms(
    folder: Path,
    *,
    examples: int = 200,
    radii: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0),
    output: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> RunNorms:
    """Norms, bounds and certificates of a finished run, on its own data.

    A kernel network's norms are exact, and its lower bounds are divided by distances in its own kernel. Of a plain
    network norms are bounded from above layer by layer, and from below for any kernel map that is non-expansive.

    Parameters
    ----------
    folder
        What ``hilbertnet fit`` left.
    examples
        How many held-out ones are looked at, at most.
    radii
        Of l2 balls around preprocessed images, increasing.
    output
        What is bounded from below by all means: the name of one output, or of two, whose difference is meant. Default
        the one of the largest norm.
    seed
        Of attacks and searches.
    device
        Where to compute.

    Raises
    ------
    ValueError
        If there is no finished run, its data cannot be had, or there is no such output.
    """
    from hilbertnet.stability import as_representation

    check_counts(examples=examples)
    sizes = tuple(read_radii(radii))
    run = read_run(folder, examples=examples, seed=seed, device=device)
    chosen = _read_output(output, run.outputs)
    exact = None if run.kernel is None else _exact(run.kernel, run.test)
    above, reason = (None, "") if exact is not None else _above(run.net, tuple(run.test.shape[1:]))
    constants = _constants(exact, above)
    scale = 1.0 if exact is None else exact.lipschitz
    slopes = _slopes(run, chosen, scale)
    if not chosen:
        # every norm is known, or else every gradient; of very many outputs neither
        norms = slopes if exact is None else exact.norms
        chosen = (int(norms.nan_to_num(0.0).argmax()),)
    images = run.test.ndim == 4
    below = lower_bounds(
        run.net, run.test, output=chosen if len(chosen) == 2 else chosen[0], generator=seed,
        lipschitz=scale if math.isfinite(scale) else None, deformations=[_ROTATION] if images else [],
        representation=None if run.kernel is None else as_representation(run.kernel.network),
        exact=None if exact is None else exact.of(chosen),
    )  # fmt: skip
    scores, diagonal = _scores_and_diagonal(run)
    held = batched(run.net, run.test, _BATCH)
    rounding = logit_rounding(run.net, run.test, held)
    known = None if constants is None else certified_radii(held, run.test_y, constants, rounding=rounding)
    attacked = attacked_accuracy(
        run.net, run.test, run.test_y, Ball("2", max(sizes), None), sizes,  # preprocessed images know no range
        certificates=known, generator=seed,
    )  # fmt: skip
    at_most = _logit_constants(constants, len(run.outputs))
    return RunNorms(
        outputs=run.outputs,
        exact=exact,
        above=above,
        reason=reason,
        slopes=slopes,
        constants=at_most,
        output=chosen,
        constant=float(at_most[chosen[0]]) if len(chosen) == 1 else _between(constants, chosen),
        below=below,
        distribution=margin_distribution(scores, run.train_y, _norms(exact, above, constants)),
        bounds=() if exact is None else _margin_bounds(scores, run.train_y, exact, diagonal, attacked.radii),
        attacked=attacked,
        preprocessed=run.preprocessing is not None,
    )


def _read_output(names: Sequence[str], outputs: tuple[str, ...]) -> tuple[int, ...]:
    if len(names) > 2 or len(set(names)) < len(names):
        raise ValueError(f"output: expected one output or two different ones, got {', '.join(names)}")
    for name in names:
        if name not in outputs:
            hint = nearest(name, outputs) or f"; its outputs are {', '.join(outputs)}"
            raise ValueError(f"output: expected one of the model's, got {name!r}{hint}")
    return tuple(outputs.index(name) for name in names)


def _exact(kernel: Decision, x: Tensor) -> ExactNorms:
    weight = kernel.head.weight.double().cpu()
    lipschitz = embedding_lipschitz(kernel.network.arch, tuple(x.shape[2:]))
    return ExactNorms(weight @ weight.T, kernel.head.bias.double().cpu(), lipschitz)


def _above(net: nn.Module, shape: tuple[int, ...]) -> tuple[NormBounds | None, str]:
    """Bounds from above, or why there are none."""
    try:
        return norm_bounds(net, shape), ""
    except ValueError as error:  # operations that torch cannot list, half precision
        return None, str(error)


def _constants(exact: ExactNorms | None, above: NormBounds | None) -> LipschitzConstants | None:
    if exact is not None:
        return LipschitzConstants.from_products(exact.products, exact.lipschitz)
    return None if above is None else LipschitzConstants.from_layers(above)


def _logit_constants(constants: LipschitzConstants | None, outputs: int) -> Tensor:
    if constants is None or not isinstance(constants.logit, Tensor):
        return torch.full((outputs,), math.inf, dtype=torch.float64)
    return constants.logit


def _between(constants: LipschitzConstants | None, pair: tuple[int, ...]) -> float:
    if constants is None or constants.difference is None:
        return math.inf
    return float(constants.difference[pair])


def _slopes(run: RunModel, chosen: tuple[int, ...], lipschitz: float) -> Tensor:
    """Lower bounds by gradients: of all outputs, or of those asked for where there are too many."""
    outputs = range(len(run.outputs)) if len(run.outputs) <= _MOST_OUTPUTS else chosen
    found = torch.full((len(run.outputs),), math.nan, dtype=torch.float64)
    if math.isfinite(lipschitz):
        for k in outputs:
            found[k] = gradient_bound(run.net, run.test, lipschitz=lipschitz, output=k).value
    return found


@torch.no_grad()
def _scores_and_diagonal(run: RunModel) -> tuple[Tensor, Tensor]:
    """Decision values of the training examples and K(x_i, x_i), which a plain network has not."""
    if run.kernel is None:
        return batched(run.net, run.train, _BATCH), torch.zeros(0)
    scores, diagonal = [], []
    for part in run.train.split(_BATCH):
        features = run.kernel.network(part).flatten(1)
        scores.append(run.kernel.head.scores(features))
        diagonal.append(features.square().sum(1))
    return torch.cat(scores), torch.cat(diagonal)


def _norms(
    exact: ExactNorms | None, above: NormBounds | None, constants: LipschitzConstants | None
) -> dict[str, float]:
    """What margins are to be seen in units of: norms of all outputs together that are known."""
    found = {} if exact is None else {"||f||": exact.whole}
    if exact is not None and constants is not None and constants.vector is not None:
        found["Lipschitz constant"] = constants.vector
    if above is not None:
        kept = (above.lipschitz, above.reshaped, above.frobenius, above.spectral_complexity, above.path_two)
        found |= {bound.name: bound.value for bound in kept} | {"RKHS norm at most": above.rkhs.gram}
    return {name: value for name, value in found.items() if 0 < value < math.inf}


def _margin_bounds(
    scores: Tensor, y: Tensor, exact: ExactNorms, diagonal: Tensor, radii: tuple[float, ...]
) -> tuple[MarginBound, ...]:
    """Without perturbations, and of every radius; the feature of constants adds 1 to K(x, x)."""
    found, outputs = margins(scores, y), len(exact.norms)
    epsilons = [0.0, *(radius for radius in radii if radius > 0 and math.isfinite(exact.lipschitz))]
    lipschitz = exact.lipschitz if math.isfinite(exact.lipschitz) else 1.0
    return tuple(
        best_margin_bound(found, exact.whole, diagonal + 1, outputs=outputs, epsilon=epsilon, lipschitz=lipschitz)
        for epsilon in epsilons
    )


# --- modules, and files


def module_norms(text: str, shape: tuple[int, ...]) -> NormBounds:
    """Norms from above of the module that ``"package.module:function"`` returns, for inputs of a shape.

    Parameters
    ----------
    text
        Of a function without arguments.
    shape
        (channels, *space) of one input.

    Raises
    ------
    ValueError
        If it cannot be called, or returns no module that can be bounded.
    """
    model = result_named("run", text)
    if not isinstance(model, nn.Module):
        raise ValueError(f"run: expected a function that returns a torch module, got {type(model).__name__}")
    return norm_bounds(model.eval(), shape)


def images_path(path: Path) -> Path:
    """Where the pictures beside a file of numbers are."""
    return path.with_name(f"{path.stem}_images.safetensors")


def write_norms(path: Path, found: RunNorms, folder: Path, **settings: Any) -> None:
    """Write the numbers as JSON, and the maximizers as pictures beside them.

    Parameters
    ----------
    path
        The JSON file.
    found
        Of a run.
    folder
        The run, whose model the file is to name.
    settings
        What was asked for.
    """
    with RunFolder(folder).checkpoint_path.open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    tensors, header = found.pictures()
    # the numbers come last, and say which pictures are theirs
    save_tensors(images_path(path), tensors, {**header, "model_sha256": model})
    write_json(path, {"settings": settings, **found.to_dict(), "model_sha256": model, **environment()})
