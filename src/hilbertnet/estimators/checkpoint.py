"""What a long fit has learned so far, kept in a file from which an interrupted fit goes on."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from hilbertnet.networks import CKN
from hilbertnet.records import check_identity, load_tensors, save_tensors
from hilbertnet.solvers.linear import LambdaPath, LinearHead, ValidationPoint

__all__ = ["Checkpoint"]

_KIND = "unfinished CKNClassifier"


class Checkpoint:
    """The network, once learned, and the path of lambda as far as it went.

    Parameters
    ----------
    file
        Where they are kept; read if it is there.
    identity
        What the fit is of, for JSON: parameters, and digests of its data.

    Raises
    ------
    ValueError
        If the file is of another fit, or none of ours.
    """

    def __init__(self, file: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        self.file, self.identity = Path(file), identity
        self.network: CKN | None = None
        self.path = LambdaPath()
        if self.file.exists():
            self._read()

    def _read(self) -> None:
        tensors, header = load_tensors(self.file, _KIND)
        try:
            self._restore(tensors, header)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"checkpoint: {self.file} is damaged ({error!r}); remove it") from None

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        check_identity(self.file, header["identity"], self.identity, "fit")
        self.network = CKN.from_config(header["network"], tensors, prefix="network.")
        curve = tuple(ValidationPoint(**point) for point in header["curve"])
        heads = tuple(
            LinearHead(tensors[f"head.{fold}.weight"], tensors[f"head.{fold}.bias"], header["lambda"], header["loss"])
            for fold in range(header["folds"])
        )
        self.path = LambdaPath(curve, heads)

    def keep(self, network: CKN, path: LambdaPath) -> None:
        """Write what there is, atomically."""
        self.network, self.path = network, path
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        for fold, head in enumerate(path.heads):
            tensors |= {f"head.{fold}.weight": head.weight, f"head.{fold}.bias": head.bias}
        header = {
            "kind": _KIND,
            "identity": self.identity,
            "network": network.config(),
            "curve": [asdict(point) for point in path.curve],
            "folds": len(path.heads),
            "lambda": path.heads[0].lam if path.heads else None,
            "loss": path.heads[0].loss if path.heads else None,
        }
        save_tensors(self.file, tensors, header)

    def remove(self) -> None:
        """The fit is finished."""
        self.file.unlink(missing_ok=True)
