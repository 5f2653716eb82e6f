"""A slot whose network is an arithmetic mean, and which breaks when a film's last bytes say so.

Started like the real one; everything but the classifier is the real one. Films are JPEG or PNG, behind whose end any
bytes may follow. The one argument is a file to which each inference appends the content's SHA-256.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import preread.model.assess
from preread.core.types import Assessment, Refusal
from preread.model import bundles
from preread.model.classifier import Classifier, RawOutput
from preread.model.out_of_scope import Detector
from preread.runner.child import main, protocol, reading
from preread.runner.child.protocol import Report
from tests.programs import bad_share

INFERENCES = Path(sys.argv[1])


class MeanClassifier(Classifier):
    """Answers with the mean of what the network would see."""

    def __init__(self, setup: protocol.Setup) -> None:
        self.bundle = bundles.load_bundle(Path(os.fsdecode(protocol.text_to_path(setup.bundle))))
        scope = self.bundle.manifest.scope
        assert scope is not None
        self.detector = Detector.from_npz((self.bundle.path / bundles.DETECTOR_FILE).read_bytes(), scope)

    def classify(self, batch: Any) -> RawOutput:
        mean = np.float32(batch.mean())
        return RawOutput(np.array([mean]), np.full((7, 7), mean), np.full(16, mean))


def note(data: bytes) -> None:
    with INFERENCES.open("a") as stream:
        stream.write(hashlib.sha256(data).hexdigest() + "\n")


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    while True:
        time.sleep(3600)


def spin() -> None:
    while True:
        pass


def eat() -> None:
    eaten: list[np.ndarray] = []
    while True:
        # never touched: the limit is on address space, and the machine that runs the tests keeps its memory
        eaten.append(np.empty(64 * 1024 * 1024, np.uint8))


def babble() -> None:
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b'{"kind": "done", "report": {"outcome": "healthy"}}\n')
        except OSError:
            continue


def fail() -> None:
    raise KeyError("patient's name")


TRICKS: dict[bytes, Callable[[], object]] = {
    b"CRASH": lambda: ctypes.string_at(0),
    b"ABORT": os.abort,
    b"LEAVE": lambda: os._exit(0),
    b"HANG": hang,
    b"SPIN": spin,
    b"EAT": eat,
    b"BABBLE": babble,
    b"RAISE": fail,
    b"PRINT": lambda: print("a decoder talks"),
    b"SLOW": lambda: time.sleep(1.5),
    b"THREADS": lambda: os._exit(int(os.environ["OPJ_NUM_THREADS"])),
}
really_assess, really_training_image = preread.model.assess.assess, reading._training_image


def play_tricks(data: bytes) -> None:
    for word, trick in TRICKS.items():
        if data.endswith(word):
            trick()


def assess(data: bytes, *arguments: Any, **options: Any) -> Assessment | Refusal:
    play_tricks(data)
    note(data)
    return really_assess(data, *arguments, **options)


def training_image(data: bytes, *arguments: Any, **options: Any) -> Report:
    play_tricks(data)
    return really_training_image(data, *arguments, **options)


preread.model.assess.assess = assess
reading._training_image = training_image
bad_share.install_in_slot()

if __name__ == "__main__":
    # it notes inferences in a file, which no confined one could
    sys.exit(main.main(MeanClassifier, confined=False))
