"""Tables of files, results and workers, for SQLite and Postgres.

The migrations in ``migrations/`` lead to these tables; a test compares the two.

``root`` ─< ``file`` (one version of one path; identity, state, outcome) ─< ``transition``, ``past_outcome``
``file`` ─ ``study_header`` (patient and study as written)
``file`` >─ ``instance`` (one content) ─< ``assessment`` (unique with ``bundle``) ─< ``finding``
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
    UniqueConstraint,
    any_,
    literal,
    text,
)

from preread.core.types import Answer, FileState, Outcome

T = TypeVar("T")
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the type is exactly INTEGER.
RowId = BigInteger().with_variant(Integer(), "sqlite")
# Compared byte by byte, so that an index serves "begins with" whatever the database's language.
SearchText = Text().with_variant(Text(collation="C"), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """Database column type of aware UTC datetimes.

    TIMESTAMP WITH TIME ZONE on Postgres, sortable UTC text on SQLite.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert an aware time to UTC for the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the time {value} has no UTC offset; give an aware datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a time of the database as an aware UTC datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def column_in(database: Connection | Engine, column: ColumnElement[T], values: Sequence[T]) -> ColumnElement[bool]:
    """Return the SQL condition that a column holds one of these values.

    On Postgres the values are one array, so that the statement is the same for any number of them and is prepared once.
    """
    if database.dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    return column.in_(values)


def _one_of(name: str, values: type[FileState | Outcome | Answer]) -> CheckConstraint:
    words = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{name} IN ({words})", name=f"{name}_known")


class RootColumns(TypedColumns):
    """One watched folder: its declaration, and its state.

    ``counted_at``: time when the files that lay there before the first start had been taken in as backlog.
    ``looked_at``: time of the last scan progress reported by ``worker_id``. ``fault_code``, ``fault``: why the folder,
    or a part of it, cannot be listed now, since ``fault_since``.
    """

    id = Column(RowId, primary_key=True)
    path = Column(LargeBinary, nullable=False)
    path_key = Column(LargeBinary(32), nullable=False)
    path_text = Column(Text, nullable=False)
    population = Column(String(32), nullable=False)
    path_pattern = Column(Text, nullable=True)
    registered_at = Column(UtcDateTime, nullable=False)
    counted_at = Column(UtcDateTime, nullable=True)
    last_scan_started_at = Column(UtcDateTime, nullable=True)
    last_scan_completed_at = Column(UtcDateTime, nullable=True)
    last_scan_files = Column(BigInteger, nullable=True)
    last_scan_s = Column(Double, nullable=True)
    worker_id = Column(String(128), nullable=True)
    looked_at = Column(UtcDateTime, nullable=True)
    fault_code = Column(String(64), nullable=True)
    fault = Column(Text, nullable=True)
    fault_since = Column(UtcDateTime, nullable=True)


root = Table("root", metadata, RootColumns, UniqueConstraint("path_key"))


class BundleColumns(TypedColumns):
    """One model bundle.

    ``digest``: SHA-256 of its manifest. A withdrawn bundle assesses no more; its results are shown struck through.
    """

    id = Column(RowId, primary_key=True)
    name = Column(Text, nullable=False)
    version = Column(Text, nullable=False)
    digest = Column(String(64), nullable=False)
    manifest = Column(Text, nullable=False)
    registered_at = Column(UtcDateTime, nullable=False)
    withdrawn_at = Column(UtcDateTime, nullable=True)
    withdrawn_reason = Column(Text, nullable=True)


bundle = Table("bundle", metadata, BundleColumns, UniqueConstraint("digest"))


class InstanceColumns(TypedColumns):
    """One content: exactly these bytes, in however many files."""

    id = Column(RowId, primary_key=True)
    sha256 = Column(String(64), nullable=False)
    size_bytes = Column(BigInteger, nullable=False)
    format = Column(String(16), nullable=False)
    transfer_syntax_uid = Column(Text, nullable=True)
    rows = Column(Integer, nullable=True)
    columns = Column(Integer, nullable=True)
    first_read_at = Column(UtcDateTime, nullable=False)


instance = Table("instance", metadata, InstanceColumns, UniqueConstraint("sha256"))


class AssessmentColumns(TypedColumns):
    """Result of one bundle for one instance.

    ``activation_map``: little-endian float32, C order.

    ``picture_...``: see ``types.ImageStatistics``; ``None`` in rows of a program that did not measure them.
    ``seal``: see ``seals``; ``None`` in rows of a program that had no key.
    """

    id = Column(RowId, primary_key=True)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=False)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=False, index=True)
    decoder = Column(Text, nullable=False)
    pixel_caveats = Column(Text, nullable=False)
    activation_map = Column(LargeBinary, nullable=False)
    activation_map_shape = Column(String(32), nullable=False)
    assessed_at = Column(UtcDateTime, nullable=False)
    picture_mean = Column(Double, nullable=True)
    picture_contrast = Column(Double, nullable=True)
    picture_sharpness = Column(Double, nullable=True)
    picture_border = Column(Double, nullable=True)
    seal = Column(String(64), nullable=True)


assessment = Table("assessment", metadata, AssessmentColumns, UniqueConstraint("instance_id", "bundle_id"))


class FindingColumns(TypedColumns):
    """One finding of an assessment."""

    assessment_id = Column(RowId, ForeignKey("assessment.id"), primary_key=True)
    finding = Column(String(64), primary_key=True)
    position = Column(Integer, nullable=False)
    logit = Column(Double, nullable=False)
    probability = Column(Double, nullable=False)
    prevalence = Column(Double, nullable=False)
    answer = Column(String(16), nullable=False)


finding = Table("finding", metadata, FindingColumns, _one_of("answer", Answer), Index(None, "answer", "assessment_id"))


class FileColumns(TypedColumns):
    """One version of one path: state, outcome, and identity of the image.

    ``path_key`` is the path's sha256, for the indexes: a path may be longer than a Postgres index entry.
    ``newest`` holds for one version of each path, the one last seen there. ``alone``: see ``records.Claim``.
    ``backlog``: it lay in the root before the first start; claimed after live files, outside the unread list.
    ``outcome`` and its columns are those last committed: a version that is read again keeps them until the next commit,
    and then they become a ``past_outcome``. ``answer``: the most urgent answer of its findings, kept here because the
    work list is ordered and filtered by it. Identity columns carry the names of ``types.Identity``.
    ``failed_...``: time, error and content (if known) when it last ended its inference process or met its deadline; an
    outcome clears them.
    ``study_date``: StudyDate alone; in rows of 0.1.1 and before, another date of the
    image where it was missing.
    ``acquired_local``, ``acquired_from``: time by the modality's clock to sort by, and the date that it is:
    ``acquisition``, ``content``, ``series`` or ``study``; the latter ``None`` in rows of 0.1.1 and
    before.
    ``read_at``: time of the first signed review of its present result. ``device``, ``patient_name_key``: see
    ``core/text/search_keys.py``.
    """

    id = Column(RowId, primary_key=True)
    root_id = Column(RowId, ForeignKey("root.id"), nullable=False)
    path = Column(LargeBinary, nullable=False)
    path_key = Column(LargeBinary(32), nullable=False)
    path_text = Column(Text, nullable=False)
    size_bytes = Column(BigInteger, nullable=False)
    mtime_ns = Column(BigInteger, nullable=False)
    inode = Column(BigInteger, nullable=False, index=True)
    ctime_ns = Column(BigInteger, nullable=True)
    newest = Column(Boolean, nullable=False)
    backlog = Column(Boolean, nullable=False, server_default=text("false"))

    state = Column(String(16), nullable=False)
    attempts = Column(Integer, nullable=False)
    interruptions = Column(Integer, nullable=False)
    alone = Column(Boolean, nullable=False)
    epoch = Column(BigInteger, nullable=False)
    owner = Column(String(128), nullable=True)
    claim_token = Column(String(32), nullable=True)
    lease_until = Column(UtcDateTime, nullable=True)
    retry_at = Column(UtcDateTime, nullable=True)
    locked_since = Column(UtcDateTime, nullable=True)
    first_seen_at = Column(UtcDateTime, nullable=False)
    settled_at = Column(UtcDateTime, nullable=True)
    committed_at = Column(UtcDateTime, nullable=True)
    changed_at = Column(UtcDateTime, nullable=False)
    failed_at = Column(UtcDateTime, nullable=True)
    failed_code = Column(String(64), nullable=True)
    failed_sha256 = Column(String(64), nullable=True)

    outcome = Column(String(16), nullable=True)
    code = Column(String(64), nullable=True)
    reason = Column(Text, nullable=True)
    population = Column(String(32), nullable=True)
    research = Column(Boolean, nullable=False)
    gate_caveats = Column(Text, nullable=False)
    uid_conflict = Column(Boolean, nullable=False)
    ms = Column(Double, nullable=True)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=True, index=True)
    assessment_id = Column(RowId, ForeignKey("assessment.id"), nullable=True, index=True)
    answer = Column(String(16), nullable=True)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=True, index=True)
    seal = Column(String(64), nullable=True)

    read_at = Column(UtcDateTime, nullable=True)
    device = Column(Text, nullable=True)
    patient_name_key = Column(SearchText, nullable=True, index=True)
    patient_name = Column(Text, nullable=True)
    patient_id = Column(Text, nullable=True, index=True)
    issuer_of_patient_id = Column(Text, nullable=True)
    patient_birth_date = Column(Text, nullable=True)
    patient_sex = Column(Text, nullable=True)
    patient_age = Column(Text, nullable=True)
    patient_age_years = Column(Double, nullable=True)
    age_conflict = Column(Boolean, nullable=False)
    study_instance_uid = Column(Text, nullable=True, index=True)
    series_instance_uid = Column(Text, nullable=True)
    sop_instance_uid = Column(Text, nullable=True, index=True)
    sop_class_uid = Column(Text, nullable=True)
    accession_number = Column(Text, nullable=True, index=True)
    modality = Column(Text, nullable=True)
    body_part_examined = Column(Text, nullable=True)
    view_position = Column(Text, nullable=True)
    image_laterality = Column(Text, nullable=True)
    study_date = Column(Text, nullable=True)
    study_description = Column(Text, nullable=True)
    series_description = Column(Text, nullable=True)
    acquisition_date_time = Column(Text, nullable=True)
    acquired_local = Column(String(14), nullable=True)
    acquired_from = Column(String(16), nullable=True)
    timezone_offset_from_utc = Column(Text, nullable=True)
    manufacturer = Column(Text, nullable=True)
    manufacturer_model_name = Column(Text, nullable=True)
    device_serial_number = Column(Text, nullable=True)
    station_name = Column(Text, nullable=True)
    institution_name = Column(Text, nullable=True)


_FAILED = text("failed_at IS NOT NULL")
file = Table(
    "file",
    metadata,
    FileColumns,
    UniqueConstraint("root_id", "path_key", "size_bytes", "mtime_ns"),
    _one_of("state", FileState),
    _one_of("outcome", Outcome),
    Index(
        "uq_file_newest",
        "root_id",
        "path_key",
        unique=True,
        sqlite_where=text("newest"),
        postgresql_where=text("newest"),
    ),
    # Serves the claim (live before backlog, newest first), the pages of SETTLING versions, recovery and counts.
    Index(None, "state", "alone", "backlog", "id"),
    Index(None, "committed_at", "id"),
    Index(None, "device", "id"),
    Index(None, "outcome", "id"),
    Index(None, "answer", "id"),
    Index(None, "acquired_local", "id"),
    # Serves the work list; of a million files few are in it.
    Index(
        "ix_file_unread",
        "id",
        sqlite_where=text("read_at IS NULL AND committed_at IS NOT NULL AND backlog = 0"),
        postgresql_where=text("read_at IS NULL AND committed_at IS NOT NULL AND NOT backlog"),
    ),
    # Serves the counts of quarantined files by code, on every page; the first two columns lead a planner to it.
    Index(
        "ix_file_aside",
        *("state", "newest", "code", "root_id"),
        sqlite_where=text("state = 'quarantined'"),
        postgresql_where=text("state = 'quarantined'"),
    ),
    # Serves failed files, of which there are few.
    Index("ix_file_failed", "failed_at", sqlite_where=_FAILED, postgresql_where=_FAILED),
)


class StudyHeaderColumns(TypedColumns):
    """Patient and study of a file version as its file states them.

    Written with the outcome, replaced with it, and deleted with the version's data by a purge. Versions without a DICOM
    header, and those that 0.1.1 or an older version read, have no row.

    ``header``, ``left_out``: see ``core.study_header.StudyHeader``; the latter as a JSON list.
    ``seal``: see ``seals``; ``None`` in rows of a program that had no key.
    """

    file_id = Column(RowId, ForeignKey("file.id"), primary_key=True, autoincrement=False)
    header = Column(Text, nullable=False)
    left_out = Column(Text, nullable=False)
    seal = Column(String(64), nullable=True)


study_header = Table("study_header", metadata, StudyHeaderColumns)


class TransitionColumns(TypedColumns):
    """One transition of one file version, written in its transaction."""

    id = Column(RowId, primary_key=True)
    file_id = Column(RowId, ForeignKey("file.id"), nullable=False, index=True)
    from_state = Column(String(16), nullable=True)
    to_state = Column(String(16), nullable=False)
    at = Column(UtcDateTime, nullable=False)
    why = Column(Text, nullable=False)
    epoch = Column(BigInteger, nullable=False)
    worker_id = Column(String(128), nullable=True)


transition = Table("transition", metadata, TransitionColumns)


class PastOutcomeColumns(TypedColumns):
    """Replaced outcome of a file version.

    The columns are those of ``file``.
    """

    id = Column(RowId, primary_key=True)
    file_id = Column(RowId, ForeignKey("file.id"), nullable=False, index=True)
    outcome = Column(String(16), nullable=False)
    code = Column(String(64), nullable=True)
    reason = Column(Text, nullable=True)
    population = Column(String(32), nullable=True)
    gate_caveats = Column(Text, nullable=False)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=True)
    assessment_id = Column(RowId, ForeignKey("assessment.id"), nullable=True)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=True)
    committed_at = Column(UtcDateTime, nullable=False)
    replaced_at = Column(UtcDateTime, nullable=False)


past_outcome = Table("past_outcome", metadata, PastOutcomeColumns, _one_of("outcome", Outcome))


class WorkerColumns(TypedColumns):
    """One run of one worker process.

    ``process_token`` tells it from a later process with the same number.

    ``slots``: wanted inference processes; ``slots_alive``: those that could read a file at the last heartbeat.
    ``watcher_restarts``: restarts of its file-system watchers. ``previews_dropped_since``: time since when previews of
    new files could not be kept; ``None`` if they can. ``slots_lack``: see ``records.Pulse``.
    """

    id = Column(String(128), primary_key=True)
    host = Column(Text, nullable=False)
    pid = Column(Integer, nullable=False)
    process_token = Column(Text, nullable=False)
    program_version = Column(Text, nullable=False)
    started_at = Column(UtcDateTime, nullable=False)
    heartbeat_at = Column(UtcDateTime, nullable=False)
    stopped_at = Column(UtcDateTime, nullable=True)
    scan_interval_s = Column(Double, nullable=True)
    slots = Column(Integer, nullable=True)
    slots_alive = Column(Integer, nullable=True)
    watcher_restarts = Column(Integer, nullable=True)
    watcher_restarted_at = Column(UtcDateTime, nullable=True)
    previews_dropped_since = Column(UtcDateTime, nullable=True)
    slots_lack = Column(Text, nullable=True)


worker = Table("worker", metadata, WorkerColumns)

Row = dict[str, Any]
"""Values of one row by column name."""
