"""Real workers: a bundle in the shadow costs no film anything, and a film that was purged is not read again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from preread.admin import bundle_comparison, bundle_registry, purge
from preread.admin.reconcile import compare_with_ledger
from preread.core.types import FORGOTTEN, FileState
from preread.db.admin_schema import shadow
from preread.db.schema import metadata
from preread.review import results
from tests.support.worker_process import WorkerBench, film, on_sqlite, sha256


@on_sqlite
def test_a_bundle_in_the_shadow_assesses_the_same_films_and_is_shown_nowhere(
    bench: WorkerBench, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    second = Path(shutil.copytree(bench.bundle.path, tmp_path / "second"))
    manifest = second / "manifest.json"
    text = manifest.read_text().replace('"version": "1.0.0"', '"version": "2.0.0"')
    manifest.write_text(text.replace('"intercept": 0.0', '"intercept": 3.0'))
    films = [film(seed) for seed in range(3)]
    for number, content in enumerate(films):
        bench.write(f"{number}.jpeg", content)
    worker = bench.start(shadow=str(second))
    eventually(lambda: bench.count(shadow) == 3)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert set(bench.assessed_sha256().values()) == {1}
    assert bench.inferred() == dict.fromkeys(map(sha256, films), 2)
    ids = [
        [one.bundle_id for one in bundle_registry.find_bundles(bench.engine, version)] for version in ("1.0.0", "2.0.0")
    ]
    found = bundle_comparison.compare_bundles(bench.engine, *ids)
    assert found.contents == 3
    assert min(found.findings["pneumonia"].shifts) > 0
    assert {one.bundle for one in results.query_results(bench.engine)} == {"stub/1.0.0"}


@on_sqlite
def test_a_film_that_was_purged_is_known_again_under_any_name_and_not_read(bench: WorkerBench, tmp_path: Path) -> None:
    previews = tmp_path / "previews"
    bench.write("P1/film.jpeg", film(1))
    bench.once(preview_dir=str(previews))
    assert list(previews.rglob("*.png"))
    purge.purge_files(
        bench.engine, purge.PurgeRequest("uid:0", "purged", readings=False, journal=None, preview_dir=previews), [1]
    )
    bench.write("P1/copy.jpeg", film(1))
    bench.write("other.jpeg", film(2))
    bench.once(preview_dir=str(previews))
    assert [one.path for one in results.query_results(bench.engine)] == [b"other.jpeg"]
    assert bench.inferred() == {sha256(film(1)): 1, sha256(film(2)): 1}
    assert [path.stem for path in previews.rglob("*.png")] == [sha256(film(2))]
    with bench.engine.connect() as connection:
        file = metadata.tables["file"].c
        rows = connection.execute(select(file.path, file.state, file.code).order_by(file.id)).all()
        tables = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    cells = [str(cell) for table in tables for row in table for cell in row]
    stub = (b"", FileState.IGNORED, FORGOTTEN)
    assert [tuple(row) for row in rows if row.path != b"other.jpeg"] == [stub, stub]
    assert not [cell for cell in cells if "P1" in cell or "copy" in cell or sha256(film(1)) in cell]
    assert compare_with_ledger(bench.engine, [str(bench.inbox).encode()]).differences == []
