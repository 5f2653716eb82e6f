"""Classifier: a loaded bundle. The only module that imports the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from preread.core.errors import BundleDamaged, BundleMismatch
from preread.core.types import FloatArray
from preread.imaging.preprocessing import preprocess_image
from preread.model.bundles import DETECTOR_FILE, GOLDEN_FILE, WEIGHTS_FILE, Bundle
from preread.model.out_of_scope import Detector


@dataclass(frozen=True, slots=True)
class RawOutput:
    """Output of the network for one image.

    Attributes:
        logit: float32 [findings], before calibration.
        activation_map: float32 [cells, cells]; its mean plus the bias of the last layer is the first logit.
        embedding: float32 [features], the network's penultimate layer.
    """

    logit: FloatArray
    activation_map: FloatArray
    embedding: FloatArray


class Classifier:
    """A bundle loaded for inference, for use by one thread at a time.

    Args:
        bundle: a verified bundle.
        threads: number of threads of the runtime; one is fastest if inference processes use all cores.

    Attributes:
        bundle: the bundle.
        detector: detector of images that are not frontal chest radiographs.

    Raises:
        BundleDamaged: the network cannot be loaded, lacks one of its three outputs, or does not fit the manifest or the
            detector.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        self.bundle = bundle
        try:
            self._interpreter = Interpreter(
                model_content=(bundle.path / WEIGHTS_FILE).read_bytes(), num_threads=threads
            )
            self._run = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise BundleDamaged(f"{bundle.path / WEIGHTS_FILE} cannot be loaded by LiteRT: {error}") from error
        (self._input,) = self._run.get_input_details()
        outputs = self._run.get_output_details()
        if missing := {"logit", "activation_map", "embedding"} - outputs.keys():
            raise BundleDamaged(f"{bundle.label}: the network lacks the outputs {', '.join(sorted(missing))}")
        spec = bundle.manifest.preprocessing
        shape = self._run.get_input_details()[self._input]["shape"].tolist()
        if shape != (expected := [1, spec.rows, spec.columns, 1]):
            raise BundleDamaged(
                f"{bundle.label}: the network's input has the shape {shape}, preprocessing gives {expected}"
            )
        logits, findings = int(outputs["logit"]["shape"][-1]), len(bundle.manifest.findings)
        if logits != findings:
            raise BundleDamaged(f"{bundle.label}: the network has {logits} logits, the manifest {findings} findings")
        self.detector = Detector.from_npz((bundle.path / DETECTOR_FILE).read_bytes(), bundle.manifest.scope)
        expected_features, features = len(self.detector.embedding.mean), int(outputs["embedding"]["shape"][-1])
        if expected_features != features:
            raise BundleDamaged(
                f"detector.npz: embedding_mean has {expected_features} features, the network {features}"
            )

    def classify(self, batch: FloatArray) -> RawOutput:
        """Run the network.

        Args:
            batch: float32 [1, rows, columns, 1] in network units, as ``preprocessing.preprocess_image`` returns it.
        """
        output = self._run(**{self._input: batch})
        return RawOutput(
            logit=output["logit"][0].copy(),
            activation_map=output["activation_map"][0, :, :, 0].copy(),
            embedding=output["embedding"][0].copy(),
        )

    def self_check(self) -> float:
        """Compare the golden vectors of the bundle with this machine's outputs.

        Returns:
            The largest absolute difference in logit.

        Raises:
            BundleMismatch: it is above the tolerance in the manifest.
        """
        golden = np.load(BytesIO((self.bundle.path / GOLDEN_FILE).read_bytes()))
        spec = self.bundle.manifest.preprocessing
        logits = np.stack([self.classify(preprocess_image(spec, pixels)).logit for pixels in golden["pictures"]])
        difference = float(np.abs(logits - golden["logit"]).max())
        if not difference <= self.bundle.manifest.golden_tolerance:
            raise BundleMismatch(
                f"bundle {self.bundle.label} differs from its golden vectors by {difference:.4f} in logit on this "
                f"machine; the limit is {self.bundle.manifest.golden_tolerance}"
            )
        return difference
