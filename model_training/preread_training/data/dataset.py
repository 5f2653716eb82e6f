"""Data sets for training: images, labels, patients, folds.

Images are decoded by the worker's own code.

A data set is a folder with one folder per label (``NORMAL/`` and ``PNEUMONIA/``) or a CSV with the columns ``path``,
``label`` and ``patient``. A label names what is present: one finding, several joined by ``|`` (``EFFUSION|NODULE``),
or the one word that stands for none of them (``NORMAL`` by default). Files are DICOM, JPEG or PNG. The patient is the
CSV's, or that of a published file name, or that of the file's own tags; an image without any of these counts as a
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
from preread.core.text.csv_cells import unescape_csv_cell, write_rows
from preread.core.types import Identity, JSONObject, PixelArray
from preread.runner.assess_files import Processes
from preread_training.data.decoding import decode_files
from preread_training.data.digests import ABSENT, PUBLISHED_DATA_SET, compute_content_digest, format_labels
from preread_training.stats.baselines import (
    Features,
    compute_baseline_features,
    compute_cross_fitted_logits,
    compute_thumbnails,
    find_contradicted_labels,
    measure_sharpness,
    select_border,
)
from preread_training.stats.bootstrap import Labels, nan_to_none
from preread_training.stats.metrics import OutOfFold, auc

# Scanners and viewers name DICOM files IM-0001-0001 too, whoever the patient is: names count in these files only.
_IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
_PERSON = re.compile(r"person(\d+)_(virus|bacteria)_\d+")
_IM = re.compile(r"(NORMAL2-)?IM-(\d+)-\d+")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A file with its label and patient.

    Attributes:
        path: the file.
        present: the findings present, in lower case, sorted; empty if there is none.
        patient: the key that keeps a patient's images in one fold.
        patient_known: false if the key stands for the image alone.
    """

    path: Path
    present: tuple[str, ...]
    patient: str
    patient_known: bool


def parse_patient_key(name: str) -> str | None:
    """Parse the patient's key from a published file name.

    ``personN_virus_M`` and ``personN_bacteria_M`` are different children, as are ``IM-N`` and ``NORMAL2-IM-N``.

    Args:
        name: of the file, without its folder.

    Returns:
        The key; ``None`` if the name has another form.
    """
    if person := _PERSON.match(name):
        return f"{person[2]}-{int(person[1])}"
    if im := _IM.match(name):
        return f"{'NORMAL2-IM' if im[1] else 'IM'}-{int(im[2])}"
    return None


def _labelled_image(path: Path, label: str, patient: str | None, absent: str) -> LabelledImage:
    names = {name.strip().lower() for name in label.split("|")}
    if "" in names or (absent.lower() in names and len(names) > 1):
        raise UsageError(f"{path}: the label {label!r} is neither {absent} nor findings joined by |: correct it")
    known = patient or (parse_patient_key(path.name) if path.suffix.lower() in _IMAGE_SUFFIXES else None)
    return LabelledImage(path, tuple(sorted(names - {absent.lower()})), known or f"film:{path.name}", known is not None)


def list_labelled_images(source: Path, absent: str = ABSENT) -> list[LabelledImage]:
    """List the labelled images of a folder or CSV, in a fixed order.

    Args:
        source: folder with one folder per label, or CSV.
        absent: the label of images with none of the findings.

    Raises:
        UsageError: there is no such source, a label is unusable, a listed file is missing or listed twice, or no image
            has a finding, or all have one.
    """
    if source.is_dir():
        labels = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
        images = [
            _labelled_image(path, folder.name, None, absent)
            for folder in labels
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
    elif source.is_file():
        images = _read_csv(source, absent)
    else:
        raise UsageError(f"{source}: no such folder or CSV: correct the path of --data")
    if not images:
        raise UsageError(f"{source} holds no image: put them into a folder per label, such as {absent}/ and PNEUMONIA/")
    if all(image.present for image in images):
        named = ", ".join(list_findings(images)).upper()
        raise UsageError(f"{source}: no image is labelled {absent}: name the label for none of {named} with `--absent`")
    if not any(image.present for image in images):
        raise UsageError(f"{source}: every image is labelled {absent}: add images with a finding")
    if missing := [image.path for image in images if not image.path.is_file()]:
        raise UsageError(f"{source}: {len(missing)} listed files do not exist, first {missing[0]}: correct the list")
    if twice := [path for path, count in Counter(image.path for image in images).items() if count > 1]:
        raise UsageError(f"{source}: {twice[0]} is listed more than once: list each file once")
    return images


def _read_csv(source: Path, absent: str) -> list[LabelledImage]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise UsageError(f"{source} lacks the column path or label: add both, and patient if it is known")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{source} is no CSV in UTF-8 ({error}): save it as such") from None
    if short := [number for number, row in enumerate(rows, 2) if not (row["path"] and row["label"])]:
        raise UsageError(f"{source}: line {short[0]} lacks its path or label: complete or remove it")
    # `review export` and `preread-train index` put apostrophes before what a spreadsheet would run
    texts = [
        {name: unescape_csv_cell(row[name]) for name in ("path", "label", "patient") if row.get(name)} for row in rows
    ]
    return [_labelled_image(source.parent / row["path"], row["label"], row.get("patient"), absent) for row in texts]


def list_findings(images: Sequence[LabelledImage]) -> tuple[str, ...]:
    """Return the findings that the labels of a data set name, sorted."""
    return tuple(sorted({name for image in images for name in image.present}))


def assign_folds(images: Sequence[LabelledImage], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Assign patients to folds with similar shares of the findings.

    Args:
        images: the labelled images.
        folds: number of folds.
        seed: of the order in which patients are dealt.

    Returns:
        int64 [images], the fold of each image; no patient stands in two.

    Raises:
        UsageError: a fold has no image with a finding, or none without it.
    """
    sizes: dict[str, int] = defaultdict(int)
    seen: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for image in images:
        sizes[image.patient] += 1
        seen[image.patient].add(image.present)
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    # A patient's combination is all findings of their images; patients with none come first, mixed ones last.
    combination = {patient: (len(shown), tuple(sorted(shown))) for patient, shown in seen.items()}
    for group in sorted(set(combination.values())):
        patients = sorted(patient for patient in sizes if combination[patient] == group)
        generator.shuffle(patients)
        load = [0] * folds
        for patient in sorted(patients, key=lambda p: -sizes[p]):  # stable: shuffled within a size
            fold_of[patient] = int(np.argmin(load))
            load[fold_of[patient]] += sizes[patient]
    assigned = np.array([fold_of[image.patient] for image in images], dtype=np.int64)
    findings = list_findings(images)
    if not findings:
        raise UsageError("no image has a finding, so no folds can be dealt: add images with a finding")
    for fold in range(folds):
        for finding, column in zip(findings, build_label_matrix(images, findings).T, strict=True):
            if set(column[assigned == fold].tolist()) != {0, 1}:
                raise UsageError(
                    f"fold {fold} of {folds} has only images with, or only images without {finding}: "
                    "take fewer folds or add patients"
                )
    return assigned


def decode_labelled_images(
    images: Sequence[LabelledImage], progress: Callable[[], None] = lambda: None, processes: Processes | None = None
) -> tuple[list[LabelledImage], PixelArray, list[str]]:
    """Decode and shrink each labelled image as the worker does.

    Files are read in inference processes like the worker's.

    Args:
        images: the labelled images.
        progress: called after each image.
        processes: inference processes; ``None``: one for each core.

    Returns:
        The images, with the patient of their tags if nothing else gave one; uint8 [images, rows, columns]; and the
        SHA-256 (hex) of each file's bytes.

    Raises:
        UsageError: an image is unreadable (named), or equal bytes carry different labels.
    """
    found, pixels, hashes = [], [], []
    image_of: dict[str, LabelledImage] = {}
    with contextlib.closing(decode_files([image.path for image in images], processes)) as read:
        for image, (shrunk, digest, identity) in zip(images, read, strict=True):
            twin = image_of.setdefault(digest, image)
            if twin.present != image.present:
                raise UsageError(
                    f"{image.path} and {twin.path} hold the same bytes under different labels: remove one of them"
                )
            found.append(_with_patient_of_tags(image, identity))
            pixels.append(shrunk)
            hashes.append(digest)
            progress()
    return found, np.stack(pixels), hashes


def _with_patient_of_tags(image: LabelledImage, identity: Identity) -> LabelledImage:
    """Identify patients by ID, issuer and birth date, as a digest.

    Records hold no patient data.
    """
    if image.patient_known or identity.patient_id is None:
        return image
    who = (identity.patient_id, identity.issuer_of_patient_id, identity.patient_birth_date)
    key = hashlib.sha256(json.dumps(who).encode()).hexdigest()[:16]
    return replace(image, patient=f"tags:{key}", patient_known=True)


def merge_patients_sharing_images(images: Sequence[LabelledImage], hashes: Sequence[str]) -> list[LabelledImage]:
    """Merge patients that share an image, byte for byte.

    So no fold contains an image of another one.

    Args:
        images: the labelled images.
        hashes: SHA-256 (hex) of each file's bytes, in the same order.

    Returns:
        The images, with one key for all patients that were merged.
    """
    joined: dict[str, str] = {}

    def root(patient: str) -> str:
        while (other := joined.get(patient, patient)) != patient:
            patient = other
        return patient

    first: dict[str, str] = {}
    for image, digest in zip(images, hashes, strict=True):
        one, other = sorted((root(first.setdefault(digest, image.patient)), root(image.patient)))
        if one != other:
            joined[other] = one
    return [replace(image, patient=root(image.patient)) for image in images]


def build_label_matrix(images: Sequence[LabelledImage], findings: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the label matrix of a data set.

    Args:
        images: the labelled images.
        findings: what the columns stand for.

    Returns:
        int64 [images, findings] in {0, 1}.
    """
    return np.array([[int(finding in image.present) for finding in findings] for image in images], dtype=np.int64)


def select_labels(images: Sequence[LabelledImage], finding: str) -> npt.NDArray[np.int64]:
    """Return the labels of a bundle's finding.

    Args:
        images: the labelled images.
        finding: of the bundle.

    Returns:
        int64 [images] in {0, 1}.

    Raises:
        UsageError: no label names the finding.
    """
    if finding not in (known := list_findings(images)):
        named = ", ".join(known)
        raise UsageError(f"no image is labelled with the bundle's finding {finding}, only with {named}: correct labels")
    return build_label_matrix(images, [finding])[:, 0]


def list_patients(images: Sequence[LabelledImage]) -> npt.NDArray[np.str_]:
    """Return the patient key of each image, str [images]."""
    return np.array([image.patient for image in images])


@dataclass(frozen=True)
class Data:
    """A data set in memory, dealt into folds.

    Attributes:
        images: the labelled images.
        pixels: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``.
        hashes: SHA-256 (hex) of each file's bytes.
        findings: names of the labels' columns.
        labels: int64 [n, findings] in {0, 1}.
        patients: str [n], the key of each image's patient.
        folds: int64 [n], the fold in which each image is held out.
        conflict: bool [n, findings], the conflict slice: images whose border alone contradicts their label.
        absent: the label of images with none of the findings, as it was given.
    """

    images: list[LabelledImage]
    pixels: PixelArray
    hashes: list[str]
    findings: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]
    conflict: npt.NDArray[np.bool_]
    absent: str = ABSENT

    @cached_property
    def misled_by_sharpness(self) -> npt.NDArray[np.bool_]:
        """Mask of images whose sharpness contradicts a label, bool [n, findings]."""
        return _contradicting(measure_sharpness(self.pixels), self.labels, self.folds)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over hash, label, patient and fold of each image."""
        rows = zip(self.hashes, format_labels(self.images), self.patients.tolist(), self.folds.tolist(), strict=True)
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()

    @cached_property
    def published(self) -> bool:
        """Return whether this is the published data set, whatever its folds."""
        return compute_content_digest(self.images, self.hashes) == PUBLISHED_DATA_SET

    def make_out_of_fold(
        self, finding: int, logits: npt.NDArray[np.float64], rows: npt.NDArray[np.int64] | slice = slice(None)
    ) -> OutOfFold:
        """Return logits of one finding with labels, patients and folds.

        Args:
            finding: column of ``findings``.
            logits: float64 [rows], of networks that had not seen these images.
            rows: int64 [rows], the images; all of them by default.
        """
        labels, conflict = self.labels[rows, finding], self.conflict[rows, finding]
        return OutOfFold(logits, labels, conflict, self.patients[rows], self.folds[rows])


def read_data_set(
    source: Path, folds: int, seed: int, progress: Callable[[], None] = lambda: None, absent: str = ABSENT
) -> Data:
    """Read a data set: list, decode, merge patients, deal into folds.

    Args:
        source: folder with one folder per label, or CSV.
        folds: number of folds.
        seed: of the folds.
        progress: called after each image.
        absent: the label of images with none of the findings.

    Raises:
        UsageError: see ``list_labelled_images``, ``decode_labelled_images`` and ``assign_folds``.
    """
    images, pixels, hashes = decode_labelled_images(list_labelled_images(source, absent), progress)
    images = merge_patients_sharing_images(images, hashes)
    findings = list_findings(images)
    labels = build_label_matrix(images, findings)
    assigned = assign_folds(images, folds, seed)
    conflict = _contradicting(select_border(compute_thumbnails(pixels)), labels, assigned)
    return Data(images, pixels, hashes, findings, labels, list_patients(images), assigned, conflict, absent)


def _contradicting(features: Features, labels: Labels, folds: Labels) -> npt.NDArray[np.bool_]:
    """Return bool [n, findings], see ``baselines.find_contradicted_labels``."""
    return np.stack([find_contradicted_labels(features, column, folds) for column in labels.T], axis=1)


def format_data_set_csv(data: Data) -> str:
    """Format a data set as CSV, one row for each image.

    Columns: path, label, patient, fold, SHA-256, and 1 if its border contradicts a label.
    """
    stream = io.StringIO()
    rows = (
        (
            image.path.resolve(),
            "|".join(image.present).upper() or ABSENT,
            image.patient,
            int(data.folds[row]),
            data.hashes[row],
            int(data.conflict[row].any()),
        )
        for row, image in enumerate(data.images)
    )
    write_rows(stream, ("path", "label", "patient", "fold", "sha256", "conflict"), rows)
    return stream.getvalue()


def summarise_data_set(data: Data) -> JSONObject:
    """Summarise a data set for the record: counts, digest, baselines' AUC.

    Args:
        data: the data set.

    Returns:
        Counts of images, patients and duplicates, and for each finding counts and the AUC of the linear baselines.
    """
    repeated = {digest for digest, count in Counter(data.hashes).items() if count > 1}
    features = compute_baseline_features(data.pixels)

    def of(finding: int) -> JSONObject:
        labels = data.labels[:, finding]
        baselines = {}
        for name, values in features.items():
            held_out = data.make_out_of_fold(finding, compute_cross_fitted_logits(values, labels, data.folds))
            baselines[name] = {
                "auc": nan_to_none(auc(held_out.logits, held_out.labels)),
                "auc_conflict_normals": nan_to_none(auc(*held_out.select_hard_negatives())),
            }
        conflict = data.conflict[:, finding]
        return {
            "films": int(labels.sum()),
            "conflict_normals": int((conflict & (labels == 0)).sum()),
            "conflict_with_finding": int((conflict & (labels == 1)).sum()),
            "baselines": baselines,
        }

    return {
        "films": len(data.images),
        "patients": len(set(data.patients.tolist())),
        "patients_unknown": sum(not image.patient_known for image in data.images),
        "films_with_a_twin": sum(digest in repeated for digest in data.hashes),
        "findings": {name: of(column) for column, name in enumerate(data.findings)},
        "folds": np.bincount(data.folds).tolist(),
        "digest": data.digest,
    }
