"""What there is to learn from: films, labels, patients, folds; read through the worker's own decoding.

A data set is a folder with one folder per label (``NORMAL/`` and ``PNEUMONIA/``) or a CSV with the columns ``path``,
``label`` and ``patient`` (``patient`` may be absent: then each film counts as a patient of its own, and the record
says so).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_training.baselines import conflict_slice, cross_fitted_logits, thumbnails
from model_training.evaluation import OutOfFold, auc, number
from worker.domain import JSONObject, PixelArray
from worker.errors import UnreadableError, UsageError
from worker.preprocessing import TRAINING_SPEC, PreprocessingSpec, shrink
from worker.radiograph import decode, read_header

LABELS = {"NORMAL": 0, "PNEUMONIA": 1}
_PERSON = re.compile(r"person(\d+)_(virus|bacteria)_\d+")
_IM = re.compile(r"(NORMAL2-)?IM-(\d+)-\d+")


@dataclass(frozen=True, slots=True)
class Film:
    """One labelled film.

    Attributes:
        label: 1 where the finding is present, else 0.
        patient: the key that keeps a patient's films in one fold.
        patient_known: False where the key stands for the film alone.
    """

    path: Path
    label: int
    patient: str
    patient_known: bool


def patient_key(name: str) -> str | None:
    """Tell the patient from a published file name, or None.

    ``personN_virus_M`` and ``personN_bacteria_M`` are different children, as are ``IM-N`` and ``NORMAL2-IM-N``.
    """
    if person := _PERSON.match(name):
        return f"{person[2]}-{int(person[1])}"
    if im := _IM.match(name):
        return f"{'NORMAL2-IM' if im[1] else 'IM'}-{int(im[2])}"
    return None


def _film(path: Path, label: str, patient: str | None) -> Film:
    if label not in LABELS:
        raise UsageError(f"{path}: label {label!r} is not one of {', '.join(LABELS)}")
    known = patient or patient_key(path.name)
    return Film(path, LABELS[label], known or f"film:{path.name}", known is not None)


def index(source: Path) -> list[Film]:
    """List the films of a folder or CSV, in a fixed order.

    Raises:
        UsageError: there is no such source, a label is unknown, a listed file is missing, or no film of one label.
    """
    if source.is_dir():
        films = [
            _film(path, label, None)
            for label in LABELS
            for path in sorted((source / label).glob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
    elif source.is_file():
        try:
            with source.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                if not {"path", "label"} <= set(reader.fieldnames or ()):
                    raise UsageError(f"{source}: the columns path and label are needed, patient is wanted")
                rows = list(reader)
                if short := [number for number, row in enumerate(rows, 2) if not (row["path"] and row["label"])]:
                    raise UsageError(f"{source}: line {short[0]} lacks its path or label")
                films = [_film(source.parent / row["path"], row["label"], row.get("patient")) for row in rows]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{source} is no CSV in UTF-8: {error}") from None
    else:
        raise UsageError(f"{source}: no such folder or CSV")
    counts = Counter(film.label for film in films)
    for name, value in LABELS.items():
        if not counts[value]:
            raise UsageError(f"{source}: no film labelled {name}; both labels are needed")
    if missing := [film.path for film in films if not film.path.is_file()]:
        raise UsageError(f"{source}: {len(missing)} listed files do not exist, the first is {missing[0]}")
    return films


def split_folds(films: Sequence[Film], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal patients into folds, label by label, so that each fold has about the same share of each.

    Returns:
        int64 [films], the fold of each film; no patient stands in two.

    Raises:
        UsageError: a patient has films of both labels under one key that would be torn apart, or a fold stays empty.
    """
    sizes: dict[str, int] = defaultdict(int)
    labels: dict[str, set[int]] = defaultdict(set)
    for film in films:
        sizes[film.patient] += 1
        labels[film.patient].add(film.label)
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for group in ({0}, {1}, {0, 1}):
        patients = sorted(patient for patient in sizes if labels[patient] == group)
        generator.shuffle(patients)
        load = [0] * folds
        for patient in sorted(patients, key=lambda p: -sizes[p]):  # stable: shuffled within a size
            fold_of[patient] = int(np.argmin(load))
            load[fold_of[patient]] += sizes[patient]
    assigned = np.array([fold_of[film.patient] for film in films], dtype=np.int64)
    for fold in range(folds):
        present = {film.label for film, of in zip(films, assigned, strict=True) if of == fold}
        if present != {0, 1}:
            raise UsageError(f"fold {fold} of {folds} lacks a label: too few patients for so many folds")
    return assigned


def load_pixels(
    films: Iterable[Film], spec: PreprocessingSpec, progress: Callable[[], None] = lambda: None
) -> tuple[PixelArray, list[str]]:
    """Read, decode and shrink every film exactly as the worker does.

    Returns:
        uint8 [films, rows, columns] and the SHA-256 (hex) of each file's bytes.

    Raises:
        UsageError: a film is unreadable (named), or equal bytes carry different labels.
    """
    pictures, hashes = [], []
    label_of: dict[str, Film] = {}
    for film in films:
        data = film.path.read_bytes()
        try:
            radiograph = decode(read_header(data))
        except UnreadableError as error:
            raise UsageError(f"{film.path} is unreadable ({error.code}): {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        twin = label_of.setdefault(digest, film)
        if twin.label != film.label:
            raise UsageError(f"{film.path} and {twin.path} hold the same bytes under different labels")
        pictures.append(shrink(spec, radiograph.pixels))
        hashes.append(digest)
        progress()
    return np.stack(pictures), hashes


def labels_of(films: Sequence[Film]) -> npt.NDArray[np.int64]:
    """int64 [films] in {0, 1}."""
    return np.array([film.label for film in films], dtype=np.int64)


def patients_of(films: Sequence[Film]) -> npt.NDArray[np.str_]:
    """Str [films], the patient key of each."""
    return np.array([film.patient for film in films])


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        pictures: uint8 [n, rows, columns] after ``preprocessing.shrink``.
        hashes: SHA-256 (hex) of each file's bytes.
        folds: int64 [n], the fold in which each film is held out.
        conflict: bool [n], see ``baselines.conflict_slice``.
    """

    films: list[Film]
    pictures: PixelArray
    hashes: list[str]
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]
    conflict: npt.NDArray[np.bool_]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over every film's hash, label, patient and fold."""
        rows = zip(self.hashes, self.labels.tolist(), self.patients.tolist(), self.folds.tolist(), strict=True)
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def read(source: Path, folds: int, seed: int, progress: Callable[[], None] = lambda: None) -> Data:
    """Index and decode a data set and deal its patients into folds.

    Raises:
        UsageError: see ``index``, ``load_pixels`` and ``split_folds``.
    """
    films = index(source)
    labels = labels_of(films)
    pictures, hashes = load_pixels(films, TRAINING_SPEC, progress)
    assigned = split_folds(films, folds, seed)
    conflict = conflict_slice(pictures, labels, assigned)
    return Data(films, pictures, hashes, labels, patients_of(films), assigned, conflict)


def summary(data: Data) -> JSONObject:
    """Counts and hashes of a data set, and what a linear model on 14x14 thumbnails reaches on it."""
    repeated = {digest for digest, count in Counter(data.hashes).items() if count > 1}
    linear = cross_fitted_logits(thumbnails(data.pictures).reshape(len(data.labels), -1), data.labels, data.folds)
    films = OutOfFold(linear, data.labels, data.conflict)
    return {
        "films": len(data.films),
        "films_with_finding": int(data.labels.sum()),
        "patients": len(set(data.patients.tolist())),
        "patients_unknown": sum(not film.patient_known for film in data.films),
        "films_with_a_twin": sum(digest in repeated for digest in data.hashes),
        "conflict_normals": int(films.conflict_normals.sum()),
        "folds": np.bincount(data.folds).tolist(),
        "digest": data.digest,
        "linear_14x14_auc": number(auc(linear, data.labels)),
        "linear_14x14_auc_conflict_normals": number(auc(*films.on_conflict_normals())),
    }
