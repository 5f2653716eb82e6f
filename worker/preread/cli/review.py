"""``preread review`` and ``preread stats``: work list and reviews."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from sqlalchemy import Engine

from preread.cli import formatting, output
from preread.cli.context import command_database, read_settings
from preread.cli.formatting import patient_label, result_text
from preread.cli.invoking_user import actor, ask_password
from preread.cli.messages import print_message
from preread.core.errors import UsageError
from preread.core.text.wording import format_percent
from preread.core.types import Presence, Verdict
from preread.db.engine import new_token, sqlite_path, write
from preread.imaging import previews
from preread.review import agreement, disclosures, history, reviews, worklist
from preread.review import export as review_export
from preread.review.audit import Action, append_entry
from preread.review.auth import accounts
from preread.review.export import ReviewedImage, review_to_json, write_image
from preread.review.history import detail_to_json
from preread.review.results import format_utc, result_to_json
from preread.review.reviews import Review, ReviewDraft, ShownResult
from preread.review.worklist import Order, WorklistFilter, WorklistImage

app = typer.Typer(help="Show the work list; sign and export reviews.", no_args_is_help=True)
OrderName = Literal["arrival", "priority", "newest"]
VerdictName = Literal["accepted", "rejected", "supplemented"]


class GroupName(StrEnum):
    """Groups by which reviews are counted."""

    BUNDLE = "bundle"
    DEVICE = "device"
    MONTH = "month"


_Order = Annotated[
    OrderName, typer.Option(help="priority: flagged and uncertain first, with a limited wait for the others")
]
_Film = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="ID of the image")]


@app.command("list")
def list_films(
    context: typer.Context,
    order: _Order = "arrival",
    everything: Annotated[bool, typer.Option("--all", help="also images with a review")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="maximum number of studies")] = 50,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per image")] = False,
) -> None:
    """List the images to review, grouped by study.

    Exit code: 0, also if there is none.
    """
    with command_database(context) as engine:
        wanted = WorklistFilter(order=Order(order), unread=not everything, limit=limit)
        films = [film for study in worklist.list_worklist_page(engine, wanted).studies for film in study]
        disclosures.record_list_view(engine, actor(), (film.result for film in films))
    if json:
        for film in films:
            read_at = film.read_at and format_utc(film.read_at)
            record = {"read_at": read_at, "read_before": film.read_before, "waited_s": film.waited_s}
            output.print_json({**result_to_json(film.result), **record})
        return
    columns = ("id", "waiting", "patient / accession", "file", "result", "reviewed")
    output.print_table(columns, map(_row, films))


@app.command("next")
def next_film(context: typer.Context, order: _Order = "arrival") -> None:
    """Print the ID of the next image to review.

    Exit code: 0; 1 if the work list is empty.
    """
    with command_database(context) as engine:
        studies = worklist.list_worklist_page(engine, WorklistFilter(order=Order(order), limit=1)).studies
    if not studies:
        print_message("the work list is empty")
        raise typer.Exit(1)
    output.print_text(str(studies[0][0].result.result_id))


@app.command("show")
def show(
    context: typer.Context,
    film: _Film,
    png: Annotated[Path | None, typer.Option(help="save the preview here (not for diagnosis)")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Show an image's result and reviews.

    With --png the preview is saved.

    Exit code: 0; 1 if a preview was requested and none is stored; 2 if there is no such image.
    """
    settings = read_settings(context)
    with command_database(context) as engine:
        detail = history.load_result(engine, film)
        if detail is None:
            raise UsageError(f"there is no image {film}: `preread review list` prints the IDs")
        shown = reviews.ShownResult(detail.row.outcome, detail.row.code, detail.assessment_id)
        signed = reviews.list_reviews(engine, [film])[film]
        write(engine, lambda connection, _: append_entry(connection, actor(), Action.VIEW, f"film:{film}"))
        folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
        picture = previews.load_preview(folder, detail.row.sha256) if png is not None else None
    if json:
        output.print_json({**detail_to_json(detail), "readings": [review_to_json(review) for review in signed]})
    else:
        output.print_pairs(
            [*formatting.detail_pairs(detail), *(("review", _review_text(review, shown)) for review in signed)]
        )
    if png is not None:
        if picture is None:
            print_message(f"no preview of image {film} is stored")
            raise typer.Exit(1)
        write_image(png, picture)
        print_message(f"{png}: a preview, not for diagnosis")


@app.command("sign")
def sign(
    context: typer.Context,
    film: _Film,
    reader: Annotated[str, typer.Option(help="user name of the reviewer; the password is asked for")],
    verdict: Annotated[VerdictName, typer.Option(help="the reviewer's verdict on the AI result")],
    finding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PRESENCE", help="finding of the reviewer: present, absent or unsure; may be repeated"
        ),
    ] = None,
    comment: Annotated[str, typer.Option(help="comment of the reviewer; it stays in the shell's history")] = "",
    corrects: Annotated[int | None, typer.Option(min=1, help="ID of the own review that this one corrects")] = None,
) -> None:
    """Sign a review of an image.

    The AI result counts as seen before the review. A review is not a radiology report.

    Exit code: 0; 2 if there is no such image, or the reviewer, password or correction is invalid.
    """
    presences = _presences(finding or [])
    password = ask_password(f"Password of {reader}: ")
    with command_database(context) as engine:
        reviewer = accounts.check_password(engine, reader, password, source=actor())
        detail = history.load_result(engine, film)
        if detail is None:
            raise UsageError(f"there is no image {film}: `preread review list` prints the IDs")
        shown = ShownResult(detail.row.outcome, detail.row.code, detail.assessment_id)
        reviews.record_viewing(engine, reviewer, film, shown, answer_visible=True)
        draft = ReviewDraft(film, shown, Verdict(verdict), new_token(), presences, comment, corrects)
        reading_id = reviews.sign_review(engine, reviewer, draft)
    print_message(f"review {reading_id} of image {film} is signed as {reviewer.full_name}")


@app.command("export")
def export(
    context: typer.Context,
    images: Annotated[Path | None, typer.Option(help="folder for the previews, as pseudonymised PNGs")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="print all reviews, including corrected ones, as JSON Lines instead")
    ] = False,
) -> None:
    """Export reviewed images as CSV for training.

    The CSV is for `preread-train --absent ABSENT`; patients have pseudonyms.

    Images on which reviewers disagree or are unsure are left out and named, as are, with --images, those without a
    stored preview. A preview has at most 1024 pixels per side; text burned into its pixels stays. Without --images the
    paths are those of the files themselves.

    Exit code: 0 if every reviewed image is printed; 1 if some were left out.
    """
    settings = read_settings(context)
    left_out: list[str] = []
    with command_database(context) as engine:
        write(engine, lambda connection, _: append_entry(connection, actor(), Action.EXPORT, "readings"))
        if json:
            after = 0
            while batch := reviews.list_review_page(engine, after, 500):
                for one in batch:
                    output.print_json(review_export.review_to_json(one))
                after = batch[-1].reading_id
            return
        folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
        output.print_csv(review_export.COLUMNS, _lines(engine, images, folder, left_out))
    for line in left_out:
        print_message(line)
    if left_out:
        raise typer.Exit(1)


def stats(
    context: typer.Context,
    by: Annotated[list[GroupName] | None, typer.Option(help="group by; default: all three")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per group")] = False,
) -> None:
    """Show how far reviewers and bundles agree.

    Also shows how long images waited for a review, and how many were overtaken by priority order.

    Exit code: 0, also if there is no signed review.
    """
    names = tuple(by or agreement.BY)
    with command_database(context) as engine:
        found = agreement.count_agreement(engine, names)
    if json:
        for one in found:
            output.print_json(agreement.agreement_to_json(one))
        return
    rows = [
        (
            *one.group.values(),
            str(one.readings),
            *(str(count) for count in one.verdicts.values()),
            str(one.agree),
            str(one.disagree),
            str(one.undecided),
            "" if one.share is None else format_percent(one.share),
            str(one.before_answer),
            "" if one.median_waited_s is None else f"{one.median_waited_s / 60:.0f}",
            "" if one.mean_overtook is None else f"{one.mean_overtook:.1f}",
        )
        for one in found
    ]
    verdicts = ("accepted", "rejected", "supplemented")
    counted = ("agree", "disagree", "undecided", "agreement", "before AI result", "median wait min", "overtook")
    output.print_table((*names, "reviews", *verdicts, *counted), rows)


def _review_text(one: Review, shown: ShownResult) -> str:
    corrected = ", corrected later" if one.superseded else "" if one.shown == shown else ", of an earlier result"
    comment = f": {one.comment}" if one.comment else ""
    when = f"{one.signed_at:%Y-%m-%d %H:%M} UTC"
    return f"{one.reading_id}: {one.verdict.value} by {one.reader} {when}{corrected}{comment}"


def _row(film: WorklistImage) -> tuple[str, ...]:
    result = film.result
    read = "before its result changed" if film.read_before else "" if film.read_at is None else "yes"
    return (
        str(result.result_id),
        f"{film.waited_s / 60:.0f} min",
        patient_label(result.identity),
        result.path_text,
        result_text(result),
        read,
    )


def _presences(written: list[str]) -> dict[str, Presence]:
    found = {}
    for one in written:
        name, _, presence = one.partition("=")
        if not name or presence not in set(Presence):
            raise UsageError(f"invalid finding {one!r}: write pneumonia=present, =absent or =unsure")
        found[name] = Presence(presence)
    return found


def _lines(
    engine: Engine, images: Path | None, folder: Path | None, left_out: list[str]
) -> list[tuple[str | int | bool | None, ...]]:
    lines = []
    for film in review_export.reviewed_images(engine):
        number = film.result.result_id
        if film.open is not None:
            left_out.append(f"image {number} is left out: {_why(film)}")
            continue
        saved = None if images is None else review_export.save_reviewed_image(images, film, folder)
        if images is not None and saved is None:
            left_out.append(f"image {number} is left out: no preview of it is stored")
            continue
        path = os.path.join(film.result.root_text, film.result.path_text) if saved is None else os.path.abspath(saved)
        lines.append(film.cells(str(path)))
    return lines


def _why(film: ReviewedImage) -> str:
    return {
        "disagreement": "its reviewers disagree",
        "undecided": "no reviewer is sure",
        "changed": "the content of the file has changed since the review",
    }[film.open or ""]
