"""Exceptions: one class, stable code and text for each kind of failure.

The code of a class is what the database stores, the log writes and the page shows; the first line of its docstring is
the default message.

::

    PrereadError
    ├── UnreadableError          the bytes are at fault; the same bytes always fail the same way
    │   ├── NotAFile             EmptyFile            TooManyBytes         UnknownFormat
    │   ├── BrokenHeader         NoPixels             TooManyPixels        TruncatedPixels
    │   ├── DecodeFailed         UnsupportedPixels    UnsupportedTransferSyntax
    │   └── ColourNotGrey        MultiFrame           BlankPicture
    ├── SlotError                the inference process failed or died; retried, then quarantined
    │   └── SlotCrashed          SlotDeadline         SlotMemory
    ├── EnvironmentFault         the machine or share is at fault; never counts as an attempt
    │   ├── FileLocked           FileVanished         FileChanged
    │   ├── ShareDown            ShareStalled         ScanIncomplete       AlarmNotSent
    │   └── DatabaseAway         DatabaseFull         DatabaseReadOnly     DatabaseBusy
    ├── BundleError              the bundle cannot be used
    │   └── BundleMissing        BundleDamaged        BundleMismatch       BundleWithdrawn
    ├── SettingsError            a setting or the database is unsuitable
    │   └── SchemaTooNew         SchemaOutdated       DatabaseUnsuitable   Unconfined
    ├── UsageError               an argument is invalid or names nothing that exists
    │   └── NotAllowed           TooManyTries         ReadingOutdated      FindingUnknown
    ├── BackupDamaged            UpgradeFailed        AuditBroken          AuditKeyMissing
    └── InternalError            Preread itself is at fault
"""

from __future__ import annotations

from typing import ClassVar, TypeVar


class PrereadError(Exception):
    """Preread cannot continue."""

    code: ClassVar[str] = "preread_error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    hint: str = ""

    def __init__(self, message: str = "", hint: str = "") -> None:
        """Create the error.

        Args:
            message: what failed, with value and limit; the class's text if empty.
            hint: what to do; the class's hint if empty.
        """
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint or self.hint


class UnreadableError(PrereadError):
    """The file cannot be read as a radiograph."""

    code = "unreadable"
    hint = "Open the file in a viewer; if it is intact there, report the code and the device's manufacturer."


class NotAFile(UnreadableError):
    """The name is a symbolic link, a pipe, a socket or a device, not a file."""

    code = "not_a_file"
    hint = "Links are not followed, so that nothing outside the folder is read: put the image file itself there."


class EmptyFile(UnreadableError):
    """The file is empty."""

    code = "empty"
    hint = "Ask the sender to write it again; a new file under the same name is read automatically."


class TooManyBytes(UnreadableError):
    """The file is larger than the limit on bytes."""

    code = "too_many_bytes"
    hint = "A radiograph has some tens of megabytes; a larger file is rarely one."


class UnknownFormat(UnreadableError):
    """The content is neither DICOM, JPEG nor PNG."""

    code = "unknown_format"
    hint = "The content decides, not the file name: export the image as DICOM, JPEG or PNG."


class BrokenHeader(UnreadableError):
    """The header is inconsistent or lacks an element needed for decoding."""

    code = "broken_header"
    hint = "Export the image again from the modality or PACS."


class NoPixels(UnreadableError):
    """The header describes an image, but the file has no pixel data."""

    code = "no_pixels"
    hint = "The transfer was probably interrupted: send the image again."


class TooManyPixels(UnreadableError):
    """The image is larger than the limit on pixels."""

    code = "too_many_pixels"
    hint = "No radiograph has so many rows and columns; the header is probably damaged."


class TruncatedPixels(UnreadableError):
    """The pixel data ends too early."""

    code = "truncated"
    hint = "The transfer was probably interrupted: send the image again."


class DecodeFailed(UnreadableError):
    """The pixel data cannot be decoded."""

    code = "decode_failed"
    hint = "The pixel data is damaged: send the image again, if possible uncompressed."


class UnsupportedTransferSyntax(UnreadableError):
    """There is no decoder for this transfer syntax."""

    code = "unsupported_transfer_syntax"
    hint = "Configure the sender to use a supported transfer syntax; docs/reference/images.md lists them."


class UnsupportedPixels(UnreadableError):
    """The bits, samples or photometric interpretation are not supported."""

    code = "unsupported_pixels"
    hint = "Export the image with 8 to 16 bits of grey."


class ColourNotGrey(UnreadableError):
    """The image is in colour, and its channels differ."""

    code = "colour_not_grey"
    hint = "This is probably a screen capture or a photograph: send the original image."


class BlankPicture(UnreadableError):
    """The image is blank: its grey levels hardly differ."""

    code = "blank"
    hint = "Look at the image in a viewer: it was not exposed, is covered, or its header gives a wrong grey scale."


class MultiFrame(UnreadableError):
    """The file has several frames; a radiograph has one."""

    code = "multi_frame"
    hint = "Send the image as a single-frame instance."


class SlotError(PrereadError):
    """The inference process of this file failed."""

    code = "slot_error"
    retryable = True


class SlotCrashed(SlotError):
    """The inference process of this file died."""

    code = "slot_crashed"
    hint = "The file probably crashes a decoder; it is quarantined, and the other files are processed."


class SlotDeadline(SlotError):
    """Reading this file took longer than the deadline."""

    code = "slot_deadline"
    hint = "The share may be slow, or a decoder does not return for this file."


class SlotMemory(SlotError):
    """Reading this file needed more memory than the limit."""

    code = "slot_memory"
    hint = "The file unpacks to far more than a radiograph; it is quarantined."


class EnvironmentFault(PrereadError):
    """The machine, the share or the database is at fault, not the file."""

    code = "environment"
    retryable = True
    exit_code = 3


class FileLocked(EnvironmentFault):
    """The file is locked, or the permission to read it is missing."""

    code = "locked"
    hint = "Check the file's permissions, and whether another program (a virus scanner, the sender) has it open."


class FileVanished(EnvironmentFault):
    """The file no longer exists."""

    code = "vanished"


class FileChanged(EnvironmentFault):
    """The file changed while it was read."""

    code = "changed"


UNREAD_CODES = frozenset(kind.code for kind in (EnvironmentFault, FileLocked, FileVanished, FileChanged))
"""Codes of failures after which an intact file may be unread: any change of the file makes it due again."""


class ShareDown(EnvironmentFault):
    """The share cannot be listed."""

    code = "share_down"
    hint = "Check the mount and the server behind it; Preread continues automatically when it is back."


class ShareStalled(ShareDown):
    """The share does not respond."""

    code = "share_stalled"
    hint = "Check the server behind the mount and the network; Preread continues automatically when it responds."


class ScanIncomplete(EnvironmentFault):
    """A part of the share cannot be listed."""

    code = "scan_incomplete"
    hint = "Give the worker's user permission to list every folder of the watched folder, or repair the disk behind it."


class DatabaseAway(EnvironmentFault):
    """The database does not respond."""

    code = "database_away"
    hint = "Check the database server and PREREAD_DATABASE_URL; Preread continues automatically when it is back."


class DatabaseFull(DatabaseAway):
    """The disk of the database is full."""

    code = "database_full"
    hint = "Free space on the disk of the database; Preread then continues automatically."


class DatabaseReadOnly(DatabaseAway):
    """The database is read-only."""

    code = "database_read_only"
    hint = "Find out why its disk or server became read-only, and repair that; Preread then continues automatically."


class DatabaseBusy(DatabaseAway):
    """Another session holds a lock on a table of the database."""

    code = "database_busy"
    hint = "Find that session (`pg_stat_activity`), and run the command again when it has ended."


class AlarmNotSent(EnvironmentFault):
    """The mail server or webhook did not accept the alarm."""

    code = "alarm_not_sent"
    hint = "Check the PREREAD_ALARM_... settings and the connection; `preread alarm test` sends a test."


class BundleError(PrereadError):
    """The bundle cannot be used."""

    code = "bundle_error"
    exit_code = 4


class BundleMissing(BundleError):
    """There is no such bundle."""

    code = "bundle_missing"
    hint = "`preread bundle list` shows the installed bundles."


class BundleDamaged(BundleError):
    """A file of the bundle is missing or differs from its manifest."""

    code = "bundle_damaged"
    hint = "Install the bundle again; `preread bundle verify` names the files."


class BundleMismatch(BundleError):
    """The bundle does not reproduce its reference outputs on this machine."""

    code = "bundle_mismatch"
    hint = "Do not use it here; report the machine's processor and the versions from `preread check`."


class BundleWithdrawn(BundleError):
    """The bundle is withdrawn and assesses no image."""

    code = "bundle_withdrawn"
    hint = "Choose another with `preread bundle activate NAME/VERSION` or `preread bundle rollback`, then start again."


class SettingsError(PrereadError):
    """A setting is invalid."""

    code = "settings"
    exit_code = 2


class SchemaTooNew(SettingsError):
    """The database has the schema of a newer version of Preread."""

    code = "schema_too_new"
    hint = "Install the newer version, or set PREREAD_DATABASE_URL to another database."


class SchemaOutdated(SettingsError):
    """The database is empty or has the schema of an older version."""

    code = "schema_outdated"
    hint = "Run `preread db upgrade`."


class DatabaseUnsuitable(SettingsError):
    """The database cannot guarantee its commits where it is stored."""

    code = "database_unsuitable"
    hint = "Put the SQLite file on a local disk, or use Postgres."


class UsageError(PrereadError):
    """An argument is invalid or names something that does not exist."""

    code = "usage"
    exit_code = 2


class NotAllowed(UsageError):
    """The account does not exist, or lacks the permission."""

    code = "not_allowed"
    hint = "Check name and password; `preread users list` shows roles and disabled accounts."


class TooManyTries(NotAllowed):
    """Too many sign-ins failed; the next attempt must wait."""

    code = "too_many_tries"
    hint = "Wait as long as the message states. The log event `sign_in_failed` gives the address of each failure."
    wait_s: float = 1.0


class ReadingOutdated(UsageError):
    """The result under review has changed."""

    code = "reading_outdated"
    hint = "Look at the image again, then sign."


class FindingUnknown(UsageError):
    """The review names a finding that the bundle does not have."""

    code = "finding_unknown"
    hint = "`preread review show ID` lists the findings of the image; write anything else into the comment."


class BackupDamaged(PrereadError):
    """The backup is incomplete, or belongs to another database."""

    code = "backup_damaged"
    hint = "Use another backup; `preread db restore` reads a backup to its end before it changes anything."


class UpgradeFailed(PrereadError):
    """The schema could not be changed; the database is unchanged."""

    code = "upgrade_failed"
    hint = "Continue with the version that was installed before, and report this with the log lines above."


class AuditBroken(PrereadError):
    """The audit trail was changed after it was written."""

    code = "audit_broken"
    hint = "Keep a copy of the database as it is, and find out who could write to it."


class AuditKeyMissing(PrereadError):
    """The key of the audit trail is missing; the trail cannot be verified."""

    code = "audit_key_missing"
    hint = "Restore the key file (PREREAD_AUDIT_KEY_FILE); if it is lost, investigate, then `preread audit rekey`."


class InternalError(PrereadError):
    """Unexpected internal error."""

    code = "internal"
    exit_code = 70
    hint = "Report it with the lines above; they hold no patient data."


Failure = TypeVar("Failure", bound=PrereadError)


def error_from_code(code: str, message: str, base: type[Failure]) -> Failure:
    """Return the error of a stored code.

    Args:
        code: ``PrereadError.code`` of the class.
        message: message of the error.
        base: class to search, with its subclasses.

    Returns:
        An instance of the class with this code, or of ``base`` if neither it nor a subclass has this code.
    """
    pending: list[type[Failure]] = [base]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind(message)
        pending.extend(kind.__subclasses__())
    return base(message)
