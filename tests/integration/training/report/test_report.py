"""The report of a run, end to end on drawn films: what the page holds, and what a shared one must not hold."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from preread.core.errors import UsageError
from preread_training.cli.app import app
from preread_training.data.atomic_files import NotKept
from preread_training.data.dataset import Data, read_data_set, summarise_data_set
from preread_training.data.phantoms import draw_chest

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")

SECTIONS = ("films", "learning", "separation", "answers", "calibration", "subgroups", "sizes", "timing", "record")
FIGURES = {
    "class-balance-films",
    "class-balance-patients",
    "learning-curves",
    "roc-all-films",
    "roc-conflict-normals",
    "precision-recall-all-films",
    "precision-recall-conflict-normals",
    "confusion-matrix",
    "probability-histogram",
    "reliability-all-films",
    "reliability-conflict-slice",
    "subgroups",
}


class Page(HTMLParser):
    """What a browser would find: identifiers, addresses, text; refuses tags that are not closed in order."""

    _VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [str(named["id"])] if "id" in named else []
        self.addresses += [str(named[key]) for key in ("src", "href", "srcset", "poster") if key in named]
        if tag == "img":
            assert named.get("alt")
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def jpegs(self) -> list[str]:
        return [address for address in self.addresses if address.startswith("data:image/jpeg")]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with pneumonia are brighter, as is the border of a few without it: the conflict normals."""
    folder = tmp_path_factory.mktemp("films")
    for label, lift in (("NORMAL", 0), ("PNEUMONIA", 50)):
        (folder / label).mkdir()
        for seed in range(20):
            pixels = draw_chest(seed, rows=224, columns=224).astype(int) + lift
            if not lift and seed % 7 == 0:
                inside = pixels[32:-32, 32:-32].copy()
                pixels += 50
                pixels[32:-32, 32:-32] = inside
            kind = ("IM", "NORMAL2-IM")[seed % 2] if not lift else ("virus", "bacteria")[seed % 2]
            name = f"person{seed // 4}_{kind}_{seed}.png" if lift else f"{kind}-{seed:04}-0001.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / label / name)
    return folder


@pytest.fixture(scope="module")
def data(films: Path) -> Data:
    return read_data_set(films, 2, 0)


def _write_run(run: Path, data: Data, folds: tuple[int, ...]) -> Path:
    from preread_training.fit.trainer import RECIPES, format_recipe

    run.mkdir()
    record = {
        "recipe": json.loads(format_recipe(RECIPES["smoke"])),
        "seed": 0,
        "steps_per_epoch": None,
        "data": summarise_data_set(data),
        "environment": {"python": "3.x", "keras": "y"},
    }
    (run / "record.json").write_text(json.dumps(record))
    generator = np.random.default_rng(3)
    for fold in folds:
        part = run / f"fold-{fold}"
        part.mkdir()
        held = np.flatnonzero(data.folds == fold)
        logits = 1.5 * (2 * data.labels[held] - 1) + generator.normal(size=(len(held), 1))
        np.savez(part / "logits.npz", index=held, logits=logits)
        (part / "history.csv").write_text("1,0.6,10.0\n2,0.4,12.0\n")
    return run


@pytest.fixture(scope="module")
def run(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never fitted: logits by chance around the labels; the network of fold 0 is its first weights."""
    from preread_training.fit.trainer import RECIPES, WEIGHTS_FILE, build_recipe_network

    folder = _write_run(tmp_path_factory.mktemp("runs") / "drawn", data, (0, 1))
    build_recipe_network(RECIPES["smoke"], 1).save_weights(folder / "fold-0" / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="module")
def local(run: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from preread_training.report.report import ReportOptions, write_report

    return write_report(run, data, tmp_path_factory.mktemp("local"), ReportOptions())


@pytest.fixture(scope="module")
def shared(run: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from preread_training.report.report import ReportOptions, write_report

    return write_report(run, data, tmp_path_factory.mktemp("shared"), ReportOptions(share=True))


def _read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_every_section(local: Path) -> None:
    from preread_training.report.report import PAGE

    assert local.name == PAGE
    page = _read(local)
    assert {*SECTIONS, "errors"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("which", ["local", "shared"])
def test_the_page_needs_no_other_file(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    text, page = path.read_text(encoding="utf-8"), _read(path)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address.removeprefix("#") for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert "http" not in text
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_figures_lie_beside_the_page_as_pictures(local: Path) -> None:
    found = {path.stem for path in (local.parent / "figures").iterdir()}
    assert found == FIGURES
    for path in (local.parent / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    svgs = [address for address in _read(local).addresses if address.startswith("data:image/svg+xml")]
    assert len(svgs) == len(FIGURES)


def test_the_local_page_says_that_it_shows_films(local: Path) -> None:
    page = _read(local)
    assert "it shows patients\N{RIGHT SINGLE QUOTATION MARK} images" in page.text[:1000]
    assert page.jpegs
    first = Image.open(io.BytesIO(base64.b64decode(page.jpegs[0].split(",")[1])))
    assert first.size == (224, 224)


def test_every_error_is_in_the_gallery_with_its_map_where_there_is_a_network(
    local: Path, run: Path, data: Data
) -> None:
    page = _read(local)
    missed, called = (
        int(re.findall(pattern, page.text)[0]) for pattern in (r"misses (\d+)", r"(\d+) are called in vain")
    )
    assert missed + called > 0
    shown = re.findall(r"(\S+\.png) probability ([\d.]+), [a-z ]+; fold (\d)", page.text)
    assert len(shown) == missed + called
    with_map = sum(fold == "0" for _, _, fold in shown)
    samples = len(page.jpegs) - len(shown) - with_map
    assert samples == 6 + 6  # one film a patient: of many without, of many with; names tell no kind of other films
    labels = {film.path.name: label for film, label in zip(data.images, data.labels[:, 0].tolist(), strict=True)}
    assert sum(labels[name] for name, _, _ in shown) == missed


def test_a_run_that_learned_nothing_still_shows_its_films_and_its_loss(data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    run = _write_run(tmp_path / "useless", data, (0, 1))
    for part in run.glob("fold-*"):
        kept = np.load(part / "logits.npz")
        np.savez(part / "logits.npz", index=kept["index"], logits=-kept["logits"])
    page = _read(write_report(run, data, tmp_path / "page", ReportOptions(share=True)))
    assert {"films", "learning", "timing", "record"} <= set(page.ids)
    assert not {"separation", "answers", "calibration", "subgroups", "errors"} & set(page.ids)
    assert "Nothing was learned yet." in page.text
    assert "logit does not rise with the finding" in page.text
    assert {address.removeprefix("#") for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert "learning-curves" in {path.stem for path in (tmp_path / "page" / "figures").iterdir()}


def test_a_shared_page_holds_no_film_and_no_name_of_one(shared: Path, data: Data) -> None:
    from preread_training.report.report import SHARED_PAGE

    assert shared.name == SHARED_PAGE
    page, text = _read(shared), shared.read_text(encoding="utf-8")
    assert not page.jpegs
    assert not [address for address in page.addresses if address.startswith("data:") and "svg" not in address]
    assert not [film.path.name for film in data.images if film.path.stem in text]
    for address in page.addresses:
        if address.startswith("data:image/svg"):
            drawing = base64.b64decode(address.split(",")[1])
            assert b"<image" not in drawing  # no picture hides in a figure
    assert "errors" not in page.ids
    assert "Made to be shared" in page.text


def test_counts_and_words_agree_with_the_logits(local: Path, run: Path, data: Data) -> None:
    from preread_training.fit.cross_validation import load_out_of_fold
    from preread_training.report.tables import apply_operating_point

    page = _read(local)
    films, rows = load_out_of_fold(run, data)
    judged = apply_operating_point("network", films, "pneumonia", 0.5)
    found = int((judged.called & (films.labels == 1)).sum())
    assert f"Of 20 images with pneumonia the network finds {found}" in page.text
    assert "95" in page.text
    assert len(rows) == 40


def test_baselines_stand_in_every_table_of_figures(local: Path) -> None:
    text = local.read_text(encoding="utf-8")
    tables = re.findall(r"<table>.*?</table>", text, flags=re.DOTALL)
    names = ("linear 14x14", "border only", "sharpness only")
    assert sum(all(name in table for name in names) for table in tables) == 4


def test_a_run_with_one_fold_says_what_is_missing(data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    run = _write_run(tmp_path / "half", data, (1,))
    (run / "fold-0").mkdir()
    (run / "fold-0" / "history.csv").write_text("1,0.6,10.0\n")
    page = _read(write_report(run, data, tmp_path / "out", ReportOptions(share=True)))
    assert "The run is not finished" in page.text
    assert "fold 0 (1 epochs so far), all images (not begun)" in page.text
    assert f"the {(data.folds == 1).sum()} images (of 40)" in page.text


def test_films_without_a_conflict_slice_get_a_report_too(data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    plain = Data(
        data.images, data.pixels, data.hashes, data.findings, data.labels, data.patients, data.folds,
        np.zeros_like(data.conflict),
    )  # fmt: skip
    path = write_report(
        _write_run(tmp_path / "plain", plain, (0, 1)), plain, tmp_path / "out", ReportOptions(share=True)
    )
    names = {figure.stem for figure in (path.parent / "figures").iterdir()}
    assert names == {name for name in FIGURES if "conflict" not in name}
    assert "nan" not in _read(path).text.split()


def test_sizes_are_measured_once_and_kept_until_the_networks_change(
    run: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.fit.input_sizes import SIZES_FILE, measure_input_sizes, read_input_sizes
    from preread_training.report import sections

    told: list[int] = []
    measured = measure_input_sizes(run, data, sides_px=(64,), progress=lambda: told.append(1))
    assert [side["side_px"] for side in measured["sides"]] == [64, 96]
    assert measured["serving_px"] == 96
    assert len(told) == 2
    for side in measured["sides"]:
        assert 0 < side["median_ms"] <= side["p95_ms"]
        assert set(side["findings"]["pneumonia"]) == {"auc", "auc_conflict_normals"}
    monkeypatch.setattr("preread_training.fit.input_sizes.load_serving_network", None)  # measuring anew would call it
    assert measure_input_sizes(run, data) == json.loads((run / SIZES_FILE).read_text())
    section = sections.build_size_section(measured, "pneumonia", sections.DrawnFigures())
    assert section is not None
    assert [name for name, _ in section["table"].rows] == ["64 px", "96 px (serves)"]
    kept = json.loads((run / SIZES_FILE).read_text())
    (run / SIZES_FILE).write_text(json.dumps({**kept, "networks": {"fold-0": "another"}}))
    assert read_input_sizes(run, data) is None
    (run / SIZES_FILE).unlink()


def test_a_run_without_networks_has_no_sizes_to_measure(data: Data, tmp_path: Path) -> None:
    from preread_training.fit.input_sizes import measure_input_sizes

    with pytest.raises(UsageError, match="no network of the product's own recipes"):
        measure_input_sizes(_write_run(tmp_path / "bare", data, (0,)), data)


def test_the_record_names_every_part_and_weight(run: Path) -> None:
    from preread_training.fit.run_record import list_parts, read_record

    parts = list_parts(run, read_record(run))
    assert [(part.name, part.state) for part in parts] == [
        ("fold 0", "finished"), ("fold 1", "finished"), ("all images", "not begun"),
    ]  # fmt: skip
    assert [len(part.weights) for part in parts] == [64, 0, 0]
    assert parts[0].history == [(1, 0.6, 10.0), (2, 0.4, 12.0)]


# --------------------------------------------------------------------------- the command, and what it refuses


def _invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_writes_into_the_run_unless_told_otherwise(films: Path, data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import SHARED_PAGE

    run = _write_run(tmp_path / "run", data, (0, 1))
    _invoke(run, "--data", films, "--share")
    assert (run / "report" / SHARED_PAGE).is_file()
    assert not list((run / "report").rglob("part-*"))
    with (run / "fold-0" / "history.csv").open() as stream:
        assert len(list(csv.reader(stream))) == 2  # the run itself is left as it was


def test_no_run_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: make one with `preread-train fit"):
        _invoke(tmp_path / "nowhere", "--data", films)


def test_a_damaged_record_is_named(films: Path, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UsageError, match=r"record\.json is damaged"):
        _invoke(tmp_path, "--data", films)
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UsageError, match="lacks data, environment, recipe, seed"):
        _invoke(tmp_path, "--data", films)


def _copies(films: Path, into: Path) -> Iterator[Path]:
    for path in films.rglob("*.png"):
        copy = into / path.relative_to(films)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        yield copy


def test_other_films_are_refused_and_nothing_is_written(run: Path, films: Path, tmp_path: Path) -> None:
    copies = sorted(_copies(films, tmp_path / "films"))
    copies[0].unlink()
    with pytest.raises(UsageError, match="another data set"):
        _invoke(run, "--data", tmp_path / "films", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_finished_fold_is_refused(data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    with pytest.raises(UsageError, match="no finished fold"):
        write_report(_write_run(tmp_path / "begun", data, ()), data, tmp_path / "out", ReportOptions())
    assert not (tmp_path / "out").exists()


def test_an_unknown_finding_is_refused(run: Path, data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    with pytest.raises(UsageError, match="no finding 'fracture': choose one of pneumonia"):
        write_report(run, data, tmp_path / "out", ReportOptions(finding="fracture"))


def test_a_comparison_without_rows_is_refused(run: Path, data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    with pytest.raises(UsageError, match="no finished row"):
        write_report(run, data, tmp_path / "out", ReportOptions(compare=tmp_path))


def test_a_folder_that_cannot_be_made_is_named(run: Path, data: Data, tmp_path: Path) -> None:
    from preread_training.report.report import ReportOptions, write_report

    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="out is no folder"):
        write_report(run, data, tmp_path / "out", ReportOptions(share=True))


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    run: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.report.report import SHARED_PAGE, ReportOptions, write_report

    (tmp_path / SHARED_PAGE).write_text("the old page")

    def full(path: Path, text: str, **_: object) -> None:
        path.open("w").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotKept, match="No space left"):
        write_report(run, data, tmp_path, ReportOptions(share=True))
    assert (tmp_path / SHARED_PAGE).read_text() == "the old page"
    assert not list(tmp_path.rglob("part-*"))


def test_a_baseline_that_learned_nothing_is_named_not_shown(
    run: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.report import tables
    from preread_training.report.report import ReportOptions, write_report
    from preread_training.stats.baselines import compute_cross_fitted_logits

    monkeypatch.setattr(
        tables,
        "compute_cross_fitted_logits",
        lambda features, labels, folds: (
            compute_cross_fitted_logits(features, labels, folds) * (-1 if features.shape[1] == 96 else 1)
        ),
    )
    path = write_report(run, data, tmp_path / "out", ReportOptions(share=True))
    page = _read(path)
    assert "border only\N{RIGHT DOUBLE QUOTATION MARK} is missing" in page.text
    assert "border only: AUC" not in page.text
