"""Data sets: images, labels, patients, folds.

Images are decoded by the worker's own code.

A data set is a folder with one folder per label (``NORMAL/`` and ``PNEUMONIA/``) or a CSV with the columns ``path``,
``label`` and ``patient``. A label names what is present: one finding, several joined by ``|`` (``EFFUSION|NODULE``), or
the one word that stands for none of them (``NORMAL`` unless said otherwise). Films are DICOM, JPEG or PNG. The patient
is the CSV's, or told by a published file name, or by the film's own tags; a film that has none of these counts as a
patient of its own, and the record says so.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.text.csv_cells import plain, write_rows
from preread.core.types import Identity, JSONObject, PixelArray
from preread.runner.assess_files import Processes
from preread_training.data.decoding import read_pictures
from preread_training.data.digests import ABSENT, PUBLISHED_FILMS, content_digest, label_names
from preread_training.stats.baselines import (
    Features,
    baseline_features,
    border,
    contradicting,
    cross_fitted_logits,
    sharpness,
    thumbnails,
)
from preread_training.stats.bootstrap import Labels, number
from preread_training.stats.metrics import OutOfFold, auc

# The published set holds pictures; scanners and viewers name DICOM files IM-0001-0001 too, whoever the patient is.
_PICTURES = frozenset({".jpeg", ".jpg", ".png"})
_PERSON = re.compile(r"person(\d+)_(virus|bacteria)_\d+")
_IM = re.compile(r"(NORMAL2-)?IM-(\d+)-\d+")


@dataclass(frozen=True, slots=True)
class Film:
    """One labelled image.

    Attributes:
        present: the findings present, in lower case, sorted; empty where there is none.
        patient: the key that keeps a patient's films in one fold.
        patient_known: False where the key stands for the film alone.
    """

    path: Path
    present: tuple[str, ...]
    patient: str
    patient_known: bool


def patient_key(name: str) -> str | None:
    """Return the patient in a published file name, or ``None``.

    ``personN_virus_M`` and ``personN_bacteria_M`` are different children, as are ``IM-N`` and ``NORMAL2-IM-N``.
    """
    if person := _PERSON.match(name):
        return f"{person[2]}-{int(person[1])}"
    if im := _IM.match(name):
        return f"{'NORMAL2-IM' if im[1] else 'IM'}-{int(im[2])}"
    return None


def _film(path: Path, label: str, patient: str | None, absent: str) -> Film:
    names = {name.strip().lower() for name in label.split("|")}
    if "" in names or (absent.lower() in names and len(names) > 1):
        raise UsageError(f"{path}: label {label!r} is neither {absent} nor findings joined by |")
    known = patient or (patient_key(path.name) if path.suffix.lower() in _PICTURES else None)
    return Film(path, tuple(sorted(names - {absent.lower()})), known or f"film:{path.name}", known is not None)


def index(source: Path, absent: str = ABSENT) -> list[Film]:
    """List the images of a folder or CSV in a fixed order.

    Args:
        absent: the label of films with none of the findings.

    Raises:
        UsageError: there is no such source, a label is unusable, a listed file is missing or listed twice, or no film
            has a finding, or none has none of them.
    """
    if source.is_dir():
        labels = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
        films = [
            _film(path, folder.name, None, absent)
            for folder in labels
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
    elif source.is_file():
        films = _read_csv(source, absent)
    else:
        raise UsageError(f"{source}: no such folder or CSV")
    if not films:
        raise UsageError(f"{source}: no film; one folder per label is expected, e.g. {absent}/ and PNEUMONIA/")
    if all(film.present for film in films):
        named = ", ".join(findings_of(films)).upper()
        raise UsageError(f"{source}: no film labelled {absent}; its labels are {named}: `--absent` names that for none")
    if not any(film.present for film in films):
        raise UsageError(f"{source}: every film is labelled {absent}; films with a finding are needed too")
    if missing := [film.path for film in films if not film.path.is_file()]:
        raise UsageError(f"{source}: {len(missing)} listed files do not exist, the first is {missing[0]}")
    if twice := [path for path, count in Counter(film.path for film in films).items() if count > 1]:
        raise UsageError(f"{source}: {twice[0]} is listed more than once")
    return films


def _read_csv(source: Path, absent: str) -> list[Film]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise UsageError(f"{source}: the columns path and label are needed, patient is wanted")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{source} is no CSV in UTF-8: {error}") from None
    if short := [number for number, row in enumerate(rows, 2) if not (row["path"] and row["label"])]:
        raise UsageError(f"{source}: line {short[0]} lacks its path or label")
    # `review export` and `preread-train index` put apostrophes before what a spreadsheet would run
    texts = [{name: plain(row[name]) for name in ("path", "label", "patient") if row.get(name)} for row in rows]
    return [_film(source.parent / row["path"], row["label"], row.get("patient"), absent) for row in texts]


def findings_of(films: Sequence[Film]) -> tuple[str, ...]:
    """Return the findings of a data set, sorted."""
    return tuple(sorted({name for film in films for name in film.present}))


def split_folds(films: Sequence[Film], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Assign patients to folds with similar shares of the findings.

    Returns:
        int64 [films], the fold of each film; no patient stands in two.

    Raises:
        UsageError: a fold has no film with a finding, or none without it.
    """
    sizes: dict[str, int] = defaultdict(int)
    seen: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for film in films:
        sizes[film.patient] += 1
        seen[film.patient].add(film.present)
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    # A patient's combination is all that his films show; patients with none come first, mixed ones last.
    combination = {patient: (len(shown), tuple(sorted(shown))) for patient, shown in seen.items()}
    for group in sorted(set(combination.values())):
        patients = sorted(patient for patient in sizes if combination[patient] == group)
        generator.shuffle(patients)
        load = [0] * folds
        for patient in sorted(patients, key=lambda p: -sizes[p]):  # stable: shuffled within a size
            fold_of[patient] = int(np.argmin(load))
            load[fold_of[patient]] += sizes[patient]
    assigned = np.array([fold_of[film.patient] for film in films], dtype=np.int64)
    findings = findings_of(films)
    if not findings:
        raise UsageError("no film has a finding: there is nothing to deal evenly")
    for fold in range(folds):
        for finding, column in zip(findings, labels_of(films, findings).T, strict=True):
            if set(column[assigned == fold].tolist()) != {0, 1}:
                raise UsageError(
                    f"fold {fold} of {folds} has only films with, or only films without {finding}: "
                    "too few patients for so many folds"
                )
    return assigned


def load_pixels(
    films: Sequence[Film], progress: Callable[[], None] = lambda: None, processes: Processes | None = None
) -> tuple[list[Film], PixelArray, list[str]]:
    """Read, decode and shrink each image as the worker does.

    Reading happens in inference processes like the worker's.

    Returns:
        The films, with the patient of their tags where nothing else told one; uint8 [films, rows, columns]; and the
        SHA-256 (hex) of each file's bytes.

    Raises:
        UsageError: a film is unreadable (named), or equal bytes carry different labels.
    """
    found, pictures, hashes = [], [], []
    film_of: dict[str, Film] = {}
    with contextlib.closing(read_pictures([film.path for film in films], processes)) as read:
        for film, (picture, digest, identity) in zip(films, read, strict=True):
            twin = film_of.setdefault(digest, film)
            if twin.present != film.present:
                raise UsageError(f"{film.path} and {twin.path} hold the same bytes under different labels")
            found.append(_with_patient_of_tags(film, identity))
            pictures.append(picture)
            hashes.append(digest)
            progress()
    return found, np.stack(pictures), hashes


def _with_patient_of_tags(film: Film, identity: Identity) -> Film:
    """Identify patients by ID, issuer and birth date, as a digest.

    Records hold no patient data.
    """
    if film.patient_known or identity.patient_id is None:
        return film
    who = (identity.patient_id, identity.issuer_of_patient_id, identity.patient_birth_date)
    key = hashlib.sha256(json.dumps(who).encode()).hexdigest()[:16]
    return replace(film, patient=f"tags:{key}", patient_known=True)


def join_twins(films: Sequence[Film], hashes: Sequence[str]) -> list[Film]:
    """Merge patients that share an image, byte for byte.

    So no fold contains an image of another one.
    """
    joined: dict[str, str] = {}

    def root(patient: str) -> str:
        while (other := joined.get(patient, patient)) != patient:
            patient = other
        return patient

    first: dict[str, str] = {}
    for film, digest in zip(films, hashes, strict=True):
        one, other = sorted((root(first.setdefault(digest, film.patient)), root(film.patient)))
        if one != other:
            joined[other] = one
    return [replace(film, patient=root(film.patient)) for film in films]


def labels_of(films: Sequence[Film], findings: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return labels, int64 [images, findings] in {0, 1}."""
    return np.array([[int(finding in film.present) for finding in findings] for film in films], dtype=np.int64)


def labels_for(films: Sequence[Film], finding: str) -> npt.NDArray[np.int64]:
    """Return labels of a bundle's finding, int64 [images] in {0, 1}.

    Raises:
        UsageError: no label names it.
    """
    if finding not in (known := findings_of(films)):
        named = ", ".join(known)
        raise UsageError(f"the bundle speaks of {finding}, and no film is labelled so; the labels name {named}")
    return labels_of(films, [finding])[:, 0]


def patients_of(films: Sequence[Film]) -> npt.NDArray[np.str_]:
    """Return the patient key of each image, str [images]."""
    return np.array([film.patient for film in films])


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        pictures: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``.
        hashes: SHA-256 (hex) of each file's bytes.
        findings: what the labels' columns stand for.
        labels: int64 [n, findings] in {0, 1}.
        folds: int64 [n], the fold in which each film is held out.
        conflict: bool [n, findings], the conflict slice: films whose border alone says the opposite of their label.
        absent: the label of films with none of the findings, as it was given.
    """

    films: list[Film]
    pictures: PixelArray
    hashes: list[str]
    findings: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]
    conflict: npt.NDArray[np.bool_]
    absent: str = ABSENT

    @cached_property
    def misled_by_sharpness(self) -> npt.NDArray[np.bool_]:
        """Images whose sharpness alone contradicts their label.

        bool [n, findings].
        """
        return _contradicting(sharpness(self.pictures), self.labels, self.folds)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over hash, label, patient and fold of each image."""
        rows = zip(self.hashes, label_names(self.films), self.patients.tolist(), self.folds.tolist(), strict=True)
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()

    @cached_property
    def published(self) -> bool:
        """Return whether this is the published data set, whatever its folds."""
        return content_digest(self.films, self.hashes) == PUBLISHED_FILMS

    def of(
        self, finding: int, logits: npt.NDArray[np.float64], rows: npt.NDArray[np.int64] | slice = slice(None)
    ) -> OutOfFold:
        """Return the out-of-fold logits of one finding for these rows.

        ``logits`` is float64 [rows].
        """
        labels, conflict = self.labels[rows, finding], self.conflict[rows, finding]
        return OutOfFold(logits, labels, conflict, self.patients[rows], self.folds[rows])


def read(
    source: Path, folds: int, seed: int, progress: Callable[[], None] = lambda: None, absent: str = ABSENT
) -> Data:
    """Index and decode a data set and assign its patients to folds.

    Raises:
        UsageError: see ``index``, ``load_pixels`` and ``split_folds``.
    """
    films, pictures, hashes = load_pixels(index(source, absent), progress)
    films = join_twins(films, hashes)
    findings = findings_of(films)
    labels = labels_of(films, findings)
    assigned = split_folds(films, folds, seed)
    conflict = _contradicting(border(thumbnails(pictures)), labels, assigned)
    return Data(films, pictures, hashes, findings, labels, patients_of(films), assigned, conflict, absent)


def _contradicting(features: Features, labels: Labels, folds: Labels) -> npt.NDArray[np.bool_]:
    """Return bool [n, findings], see ``baselines.contradicting``."""
    return np.stack([contradicting(features, column, folds) for column in labels.T], axis=1)


def to_csv(data: Data) -> str:
    """Return one CSV line for each image.

    Columns: path, label, patient, fold, SHA-256, whether its border contradicts a label.
    """
    stream = io.StringIO()
    rows = (
        (
            film.path.resolve(),
            "|".join(film.present).upper() or ABSENT,
            film.patient,
            int(data.folds[row]),
            data.hashes[row],
            int(data.conflict[row].any()),
        )
        for row, film in enumerate(data.films)
    )
    write_rows(stream, ("path", "label", "patient", "fold", "sha256", "conflict"), rows)
    return stream.getvalue()


def summary(data: Data) -> JSONObject:
    """Return counts and digest of a data set, and its baselines' AUC."""
    repeated = {digest for digest, count in Counter(data.hashes).items() if count > 1}
    features = baseline_features(data.pictures)

    def of(finding: int) -> JSONObject:
        labels = data.labels[:, finding]
        baselines = {}
        for name, values in features.items():
            films = data.of(finding, cross_fitted_logits(values, labels, data.folds))
            baselines[name] = {
                "auc": number(auc(films.logits, films.labels)),
                "auc_conflict_normals": number(auc(*films.on_conflict_normals())),
            }
        conflict = data.conflict[:, finding]
        return {
            "films": int(labels.sum()),
            "conflict_normals": int((conflict & (labels == 0)).sum()),
            "conflict_with_finding": int((conflict & (labels == 1)).sum()),
            "baselines": baselines,
        }

    return {
        "films": len(data.films),
        "patients": len(set(data.patients.tolist())),
        "patients_unknown": sum(not film.patient_known for film in data.films),
        "films_with_a_twin": sum(digest in repeated for digest in data.hashes),
        "findings": {name: of(column) for column, name in enumerate(data.findings)},
        "folds": np.bincount(data.folds).tolist(),
        "digest": data.digest,
    }
