"""The only module that imports the inference runtime."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from preread.core.errors import BundleDamaged, BundleMismatch
from preread.core.types import FloatArray
from preread.imaging.preprocessing import apply
from preread.model.bundles import DETECTOR_FILE, GOLDEN_FILE, WEIGHTS_FILE, Bundle
from preread.model.out_of_scope import Detector


@dataclass(frozen=True, slots=True)
class RawOutput:
    """What the network returns for one film.

    Attributes:
        logit: float32 [findings], before calibration.
        activation_map: float32 [cells, cells], whose mean plus the head's bias is the first logit.
        embedding: float32 [features].
    """

    logit: FloatArray
    activation_map: FloatArray
    embedding: FloatArray


class Classifier:
    """A bundle, loaded and ready.

    Args:
        bundle: a verified bundle.
        threads: of the inference runtime; one per slot is fastest when slots fill the cores.

    Attributes:
        detector: of pictures that are no frontal chest film.

    Raises:
        BundleDamaged: the network cannot be loaded or has other outputs than the three it must have, or manifest and
            detector do not fit it.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        self.bundle = bundle
        try:
            self._interpreter = Interpreter(
                model_content=(bundle.path / WEIGHTS_FILE).read_bytes(), num_threads=threads
            )
            self._run = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise BundleDamaged(f"{bundle.path / WEIGHTS_FILE} is no network that LiteRT can load: {error}") from error
        (self._input,) = self._run.get_input_details()
        outputs = self._run.get_output_details()
        if missing := {"logit", "activation_map", "embedding"} - outputs.keys():
            raise BundleDamaged(f"{bundle.label} lacks the outputs {', '.join(sorted(missing))}")
        spec = bundle.manifest.preprocessing
        takes = self._run.get_input_details()[self._input]["shape"].tolist()
        if takes != (wanted := [1, spec.rows, spec.columns, 1]):
            raise BundleDamaged(f"{bundle.label}: the network takes {takes}, preprocessing makes {wanted}")
        answers, findings = int(outputs["logit"]["shape"][-1]), len(bundle.manifest.findings)
        if answers != findings:
            raise BundleDamaged(f"{bundle.label}: the network has {answers} logits, the manifest {findings} findings")
        self.detector = Detector.from_npz((bundle.path / DETECTOR_FILE).read_bytes(), bundle.manifest.scope)
        fitted_to, features = len(self.detector.embedding.mean), int(outputs["embedding"]["shape"][-1])
        if fitted_to != features:
            raise BundleDamaged(f"detector.npz: embedding_mean has {fitted_to} features, the network {features}")

    def classify(self, batch: FloatArray) -> RawOutput:
        """Run the network on float32 [1, rows, columns, 1] as ``preprocessing.apply`` gives it."""
        output = self._run(**{self._input: batch})
        return RawOutput(
            logit=output["logit"][0].copy(),
            activation_map=output["activation_map"][0, :, :, 0].copy(),
            embedding=output["embedding"][0].copy(),
        )

    def self_check(self) -> float:
        """Repeat the golden pictures of the bundle, from preprocessing to logit.

        Returns:
            The largest absolute difference in logit.

        Raises:
            BundleMismatch: it is above the bundle's tolerance.
        """
        golden = np.load(BytesIO((self.bundle.path / GOLDEN_FILE).read_bytes()))
        spec = self.bundle.manifest.preprocessing
        found = np.stack([self.classify(apply(spec, picture)).logit for picture in golden["pictures"]])
        difference = float(np.abs(found - golden["logit"]).max())
        if not difference <= self.bundle.manifest.golden_tolerance:
            raise BundleMismatch(
                f"bundle {self.bundle.label} differs from its golden vectors by {difference:.4f} in logit on this "
                f"machine; {self.bundle.manifest.golden_tolerance} is allowed"
            )
        return difference
