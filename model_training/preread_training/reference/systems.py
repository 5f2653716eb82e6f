"""Five published student projects as reference systems.

A: with Palomar Medical Center; E: greyscale, 128 pixels; L: children aged 1 to 5; K: "Exploring Image Classification".
Each entry is the system as its authors' code has it. If the protocol around a system was flawed (a test set that was
the training folder, a network that was never trained), ``mended`` states what is done here instead.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class GeneratorAugmentation:
    """Augmentation of the old Keras generator.

    One affine map, then a shift of grey levels, then brightness.

    Attributes:
        rotation_degrees: largest rotation either way.
        width: largest shift across, either way, as a share of the side.
        height: the same, down.
        shear_degrees: largest shear either way.
        zoom: largest change of scale either way, drawn apart for the two directions.
        vertical_flip: whether half of the images are turned upside down.
        channel_shift: largest shift in grey levels of 255, held within the image's own darkest and brightest.
        brightness: range of the factor by which grey levels are multiplied.
    """

    rotation_degrees: float = 0.0
    width: float = 0.0
    height: float = 0.0
    shear_degrees: float = 0.0
    zoom: float = 0.0
    vertical_flip: bool = False
    channel_shift: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference system: all that decides its fit, and its authors' figures.

    Attributes:
        name: short name in the table.
        system: description of the network.
        layers: in the notation of ``preread_training.reference.notation``, the last unit left out.
        parameters: of the network, trainable or not.
        reported: the number or numbers that its authors gave.
        reported_accuracy: the one of them that stands for the system; ``None`` if there is none.
        really: of what that number was measured.
        mended: flaws of the original protocol, by their number in the table of flaws, and what is done here instead.
        measured_on: the same as ``really`` in a word or two.
        void: true if the reported number states nothing about the system, which may therefore be fitted in less time.
        side_px: side of the network's input.
        channels: 1, or 3 for three times the same.
        optimizer: name in Keras.
        learning_rate: constant.
        epochs: of the fit.
        batch: images in a batch.
        steps_per_epoch: ``None`` for one pass over the images.
        class_weights: of images without and with the finding in the loss.
        ``films``: number of images, drawn at random, to fit to; ``None`` for all.
        shifts: augmentation, if any.
        patience: epochs without a better validation loss after which the fit ends; ``None`` without early stopping.
        best: true if the epoch with the best validation loss counts, and not the last.
        validation: share of the images, patient by patient, that is kept from the fit for the validation loss.
        candidates: layers and epochs that a threefold cross-validation chooses from; then ``layers`` and ``epochs`` are
            those of the first.
    """

    name: str
    system: str
    layers: str
    parameters: int
    reported: str
    reported_accuracy: float | None
    really: str
    mended: tuple[str, ...] = ()
    measured_on: Literal["test films", "training films", "16 validation films", "nothing"] = "test films"
    void: bool = False
    side_px: int = 128
    channels: Literal[1, 3] = 3
    optimizer: Literal["sgd", "rmsprop"] = "rmsprop"
    learning_rate: float = 1e-4
    epochs: int = 20
    batch: int = 20
    steps_per_epoch: int | None = None
    class_weights: tuple[float, float] = (1.0, 1.0)
    films: int | None = None
    shifts: GeneratorAugmentation | None = None
    patience: int | None = None
    best: bool = False
    validation: float = 0.15
    candidates: tuple[tuple[str, int], ...] = ()


_F1 = "F1: measured on images kept out of the fit"
_F3 = "F3: the network that was fitted is measured"
_F5 = "F5: measured at all"
_F8_UNSCALED = "F8: every image is divided by 255"
_F8_TEST = "F8: nothing is chosen on the images that measure it"
_F10 = "F10: hold-out and validation by patient, apart from the images of the fit"
_F11 = "F11: no image in two sets"
_IN_TRAINING = "accuracy on training images: the test generator read the training folder"
_SIXTEEN = "of 16 validation images; never tested"
_UNTRAINED = "a network built anew and not trained"

_DENSE = "F D50 D35 D25 D15"
_A_CNN = "C32-3 P C32-4 P C64-3 P F D64"
_A_DROPOUT = "C32-3 P Dr.4 C32-4 P Dr.4 C64-3 P F D64 Dr.2"
_E_CNN = "C32-3 P C64-3 P C128-3 P F D512"
_L_CNN = "C32-3 P C64-3 P C128-3 P C128-3 P F D512"
_K_CNN = "C128-3= P C64-3= P C32-3= P C32-3= P F D512 Dr.3 D64 Dr.3"

_A1 = Reference(
    "A1", "one dense layer, 200 px", "F D50", 6_000_101, "test .729 (train .929)", 0.7292,
    "the official 624 test images, one run", (_F8_UNSCALED,),
    side_px=200, optimizer="sgd", learning_rate=0.01, epochs=5, batch=50,
)  # fmt: skip
_A3 = replace(
    _A1, name="A3", system="four dense layers, more epochs", layers=_DENSE, parameters=6_003_141, epochs=10,
    reported="test .793 (train .943)", reported_accuracy=0.7933,
    really="the official 624 test images, on which it was also validated", mended=(_F8_TEST,),
)  # fmt: skip
_A5 = replace(
    _A1, name="A5", system="CNN of three convolutions, 100 px", layers=_A_CNN, parameters=445_537, side_px=100,
    epochs=20, batch=60, reported="test .97 (.947 in the stored run)", reported_accuracy=0.9712,
    really=_IN_TRAINING, measured_on="training films", mended=(_F1,),
)  # fmt: skip
_A7 = replace(
    _A5, name="A7", system="A6, fewer epochs (the final CNN)", layers=_A_DROPOUT, epochs=10,
    reported="test .883 (.910 in the stored run)", reported_accuracy=0.8830,
)  # fmt: skip
_E2 = Reference(
    "E2", "CNN of three convolutions, grey", _E_CNN, 12_938_753, "validation .8125 (train .997)", 0.8125,
    f"13 {_SIXTEEN}", (_F5,), "16 validation films", channels=1, epochs=40, batch=64,
)  # fmt: skip
_E_GRID = tuple(
    (_E_CNN.replace("P", pool).replace("-3", f"-3{activation}"), epochs)
    for pool, activation, epochs in itertools.product("PA", ("g", "t", ""), (10, 7))
)
_L1 = Reference(
    "L1", "one convolution without pooling, 150 px", "C32-3 F", 701_825, "test .619 (validation .863)", 0.6186,
    _UNTRAINED, (_F3, _F11), "nothing", void=True, side_px=150, steps_per_epoch=50,
)  # fmt: skip
_L3 = replace(
    _L1, name="L3", system="CNN of four convolutions, 150 px", layers=_L_CNN, parameters=3_453_121, void=False,
    measured_on="test films",
    reported="test .664 (train .976, validation .794)", reported_accuracy=0.6635,
    really="the official 624 test images, one run; 1,000 images an epoch", mended=(_F11,),
)  # fmt: skip
_L5 = replace(
    _L3, name="L5", system='L3, fewer steps ("early stopping", final)', steps_per_epoch=30,
    reported="test .837 (.806 in another run)", reported_accuracy=0.8365,
    really="the official 624 test images, best of two runs; the early stopping was never used",
    mended=("F4: said to be what it was, 20 epochs of 600 images; L5e has the early stopping", _F11,
            "F12: sensitivity and specificity under their right names"),
)  # fmt: skip
_K1 = Reference(
    "K1", "CNN of four padded convolutions", _K_CNN, 1_187_073, "test .838 (validation .958)", 0.8381,
    "a new split by file of 877 images, 29 % of them from the training folder; patients not kept apart", (_F10,),
    learning_rate=1e-3, epochs=50, batch=32, steps_per_epoch=128, patience=20, best=True,
    validation=0.176,
)  # fmt: skip
_K2_SHIFTS = GeneratorAugmentation(
    rotation_degrees=20, width=0.2, height=0.2, shear_degrees=0.2, zoom=0.4, channel_shift=150, brightness=(0.2, 1.0)
)

_SYSTEMS = (
    _A1,
    replace(
        _A1, name="A2", system="four dense layers", layers=_DENSE, parameters=6_003_141, void=True,
        measured_on="nothing",
        reported="test .346 (train .394)", reported_accuracy=0.3462,
        really="random initial weights: A1 was fitted instead",
        mended=("F2: this network is fitted", _F8_UNSCALED),
    ),
    _A3,
    replace(
        _A3, name="A4", system="four dense layers with dropout", layers="F D50 Dr.3 D35 Dr.3 D25 Dr.3 D15 Dr.3",
        reported="test .625 (train .743)", reported_accuracy=0.6250,
        really="the share of pneumonia: it calls every image pneumonia",
    ),
    _A5,
    replace(
        _A5, name="A6", system="A5 with dropout", layers=_A_DROPOUT, reported="test .94 (.942 in the stored run)",
        reported_accuracy=0.9423,
    ),
    _A7,
    replace(
        _A7, name="A7w", system="A7 with the two labels weighted evenly", class_weights=(1.945, 0.673),
        reported="none", reported_accuracy=None,
        really="promised in the authors' text, in no stored code; A7's matrix looks like it",
    ),
    Reference(
        "E1", "one dense layer of 8, grey", "F D8", 131_089, "test .695 (train .930)", 0.6950,
        "200 test images drawn at random", ("F13: measured on a whole hold-out; positive is pneumonia",),
        channels=1, optimizer="sgd", learning_rate=0.01, epochs=100, batch=80, films=200,
    ),
    _E2,
    replace(
        _E2, name="E3", system="E2, images without pneumonia weighted 3", class_weights=(3.0, 1.0),
        reported="validation .8125 (train .995)",
    ),
    replace(
        _E2, name="E4", system="E2 chosen by a grid search", layers=_E_GRID[0][0], epochs=_E_GRID[0][1], batch=32,
        films=64, candidates=_E_GRID, measured_on="nothing", void=True,
        reported="cross-validated .815", reported_accuracy=0.8153,
        really="64 images, and a search that varied nothing",
        mended=(_F5, "F6: each of the twelve candidates is built from its own settings"),
    ),
    replace(
        _E2, name="E5", system="E3 with tanh (the final CNN)", layers="C32-3 P C64-3t P C128-3t P F D512",
        class_weights=(3.0, 1.0), reported="validation .9375 (train .996)", reported_accuracy=0.9375,
        really=f"15 {_SIXTEEN}; the epoch was picked afterwards on the same 16",
        mended=(_F5, "F7: the last epoch counts"),
    ),
    replace(
        _E2, name="E6", system="augmented CNN, grey", layers=_A_CNN, parameters=838_177,
        optimizer="sgd", learning_rate=0.01, epochs=50, batch=500, class_weights=(2.0, 1.0), measured_on="nothing",
        void=True,
        shifts=GeneratorAugmentation(rotation_degrees=30, width=0.3, height=0.2, zoom=0.2, vertical_flip=True),
        reported="none", reported_accuracy=None, really="never run",
        mended=(_F5, "fitted on training images, where its code named the test images; these stay as they are"),
    ),
    _L1,
    replace(
        _L1, name="L2", system="L1, fewer steps", steps_per_epoch=20, reported="test .655 (validation .784)",
        reported_accuracy=0.6554,
    ),
    _L3,
    replace(
        _L3, name="L4", system="L3, fewer steps, more epochs", steps_per_epoch=20, epochs=30, void=True,
        measured_on="nothing",
        reported="test .375 (validation .961)", reported_accuracy=0.3750, really=_UNTRAINED, mended=(_F3, _F11),
    ),
    _L5,
    replace(
        _L5, name="L5e", system="L5 with its early stopping", patience=0, reported="none", reported_accuracy=None,
        really="written in the authors' code, never passed to the fit",
        mended=("F4: the early stopping is used (patience 0, last weights)", _F11),
    ),
    _K1,
    replace(
        _K1, name="K2", system="K1 with augmentation", shifts=_K2_SHIFTS, reported="test .785 (validation .928)",
        reported_accuracy=0.7845, mended=("F9: starts from weights of its own, not from K1's", _F10),
    ),
    replace(
        _K1, name="K3", system="VGG19, frozen where it brings ImageNet weights", layers="VGG19 F D512 D128 D64",
        parameters=24_293_185, shifts=_K2_SHIFTS, steps_per_epoch=64, patience=10,
        reported="test .904 (validation .928)", reported_accuracy=0.9042,
    ),
)  # fmt: skip

REFERENCES = {system.name: system for system in _SYSTEMS}
