"""Every failure has one name: class = stable ``code`` = column value = log field = text on the page.

::

    PrereadError
    ├── UnreadableError          the bytes are at fault; the same bytes fail the same way for ever
    │   ├── NotAFile             EmptyFile            TooManyBytes         UnknownFormat
    │   ├── BrokenHeader         NoPixels             TooManyPixels        TruncatedPixels
    │   ├── DecodeFailed         UnsupportedPixels    UnsupportedTransferSyntax
    │   └── ColourNotGrey        MultiFrame           BlankPicture
    ├── SlotError                the slot (child process) is at fault or died; retried, then quarantined
    │   └── SlotCrashed          SlotDeadline         SlotMemory
    ├── EnvironmentFault         the machine or share is at fault; never counts as an attempt
    │   ├── FileLocked           FileVanished         FileChanged
    │   ├── ShareDown            ShareStalled         ScanIncomplete       AlarmNotSent
    │   └── DatabaseAway         DatabaseFull         DatabaseReadOnly     DatabaseBusy
    ├── BundleError              the bundle may not be used
    │   └── BundleMissing        BundleDamaged        BundleMismatch       BundleWithdrawn
    ├── SettingsError            the operator wrote something that cannot be meant
    │   └── SchemaTooNew         SchemaOutdated       DatabaseUnsuitable   Unconfined
    ├── UsageError               a command was called with something that does not exist
    │   └── NotAllowed           TooManyTries         ReadingOutdated      FindingUnknown
    ├── BackupDamaged            UpgradeFailed        AuditBroken          AuditKeyMissing
    └── InternalError            Preread itself is at fault
"""

from __future__ import annotations

from typing import ClassVar, TypeVar


class PrereadError(Exception):
    """Preread could not go on."""

    code: ClassVar[str] = "preread_error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    hint: str = ""

    def __init__(self, message: str = "", hint: str = "") -> None:
        """Take a remedy that fits this cause better than the class's, where there is one."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint or self.hint


class UnreadableError(PrereadError):
    """The file cannot be read as a radiograph."""

    code = "unreadable"
    hint = "Look at the file in a DICOM or picture viewer; if it is whole there, report the code and the file's maker."


class NotAFile(UnreadableError):
    """The name is a symbolic link, a pipe, a socket or a device, not a file."""

    code = "not_a_file"
    hint = "Links are not followed, so that nothing outside the folder is read: put the film itself there."


class EmptyFile(UnreadableError):
    """The file has no bytes."""

    code = "empty"
    hint = "Ask the sender to write it again; new bytes under the same name are picked up by themselves."


class TooManyBytes(UnreadableError):
    """The file is larger than the limit on bytes."""

    code = "too_many_bytes"
    hint = "Films are some tens of megabytes; a larger file is seldom one."


class UnknownFormat(UnreadableError):
    """The content is neither DICOM, JPEG nor PNG."""

    code = "unknown_format"
    hint = "The name does not count, the content does: export the film as DICOM, JPEG or PNG."


class BrokenHeader(UnreadableError):
    """The header contradicts itself or lacks what decoding needs."""

    code = "broken_header"
    hint = "Export the film again from the modality or PACS."


class NoPixels(UnreadableError):
    """The header describes a picture, but the file holds no pixel data."""

    code = "no_pixels"
    hint = "The transfer probably broke off: send the film again."


class TooManyPixels(UnreadableError):
    """The picture is larger than the limit on pixels."""

    code = "too_many_pixels"
    hint = "No radiograph has so many rows and columns; the header is probably damaged."


class TruncatedPixels(UnreadableError):
    """The pixel data ends too early."""

    code = "truncated"
    hint = "The transfer probably broke off: send the film again."


class DecodeFailed(UnreadableError):
    """The decoder could not read the pixel data."""

    code = "decode_failed"
    hint = "The pixel data is damaged: send the film again, if possible uncompressed."


class UnsupportedTransferSyntax(UnreadableError):
    """No decoder is installed for this transfer syntax."""

    code = "unsupported_transfer_syntax"
    hint = "Configure the sender to use a supported transfer syntax (docs/reference/images.md lists them)."


class UnsupportedPixels(UnreadableError):
    """Bits, samples or photometric interpretation are not those of a radiograph."""

    code = "unsupported_pixels"
    hint = "Export the film as an 8 to 16 bit grey picture."


class ColourNotGrey(UnreadableError):
    """The picture is in colour, and its channels differ."""

    code = "colour_not_grey"
    hint = "This is probably a screen capture or a photograph: send the original film."


class BlankPicture(UnreadableError):
    """The picture shows next to nothing: its grey levels hardly differ."""

    code = "blank"
    hint = "Look at the film in a viewer: it was not exposed, is covered, or its header spoils the grey scale."


class MultiFrame(UnreadableError):
    """The file holds several frames; a radiograph is one."""

    code = "multi_frame"
    hint = "Send the film as a single-frame instance."


class SlotError(PrereadError):
    """The process that read this file failed."""

    code = "slot_error"
    retryable = True


class SlotCrashed(SlotError):
    """The process that read this file died."""

    code = "slot_crashed"
    hint = "The file probably crashes a decoder; it was set aside so that the others go on."


class SlotDeadline(SlotError):
    """Reading this file took longer than the deadline."""

    code = "slot_deadline"
    hint = "The share may be slow, or the file makes a decoder hang."


class SlotMemory(SlotError):
    """Reading this file needed more memory than a slot may use."""

    code = "slot_memory"
    hint = "The file unpacks to far more than a film; it was set aside."


class EnvironmentFault(PrereadError):
    """The machine, the share or the database is at fault, not the file."""

    code = "environment"
    retryable = True
    exit_code = 3


class FileLocked(EnvironmentFault):
    """The file is locked or may not be read."""

    code = "locked"
    hint = "Check the file's rights and whether another program (a virus scanner, the sender) holds it open."


class FileVanished(EnvironmentFault):
    """The file went away."""

    code = "vanished"


class FileChanged(EnvironmentFault):
    """The file changed while it was read."""

    code = "changed"


UNREAD_CODES = frozenset(kind.code for kind in (EnvironmentFault, FileLocked, FileVanished, FileChanged))
"""Why one file may never have been read although its bytes are whole: whatever changes about it, it is read again."""


class ShareDown(EnvironmentFault):
    """The share cannot be listed."""

    code = "share_down"
    hint = "Check the mount and the server behind it; Preread goes on by itself when it is back."


class ShareStalled(ShareDown):
    """The share was asked for something and does not answer."""

    code = "share_stalled"
    hint = "Check the server behind the mount and the network; Preread goes on by itself when it answers."


class ScanIncomplete(EnvironmentFault):
    """A part of the share cannot be listed."""

    code = "scan_incomplete"
    hint = "Give the worker's user the right to list every folder below the root, or mend the disk behind it."


class DatabaseAway(EnvironmentFault):
    """The database does not answer."""

    code = "database_away"
    hint = "Check the database server and PREREAD_DATABASE_URL; Preread goes on by itself when it is back."


class DatabaseFull(DatabaseAway):
    """The disk of the database is full."""

    code = "database_full"
    hint = "Free space on the disk of the database; Preread goes on by itself then."


class DatabaseReadOnly(DatabaseAway):
    """The database takes no changes now."""

    code = "database_read_only"
    hint = "See why its disk or server turned read-only and mend that; Preread goes on by itself then."


class DatabaseBusy(DatabaseAway):
    """Somebody else holds a table of the database."""

    code = "database_busy"
    hint = "See who is at work on the database (`pg_stat_activity`), and run the command again."


class AlarmNotSent(EnvironmentFault):
    """Mail server or webhook did not take the alarm."""

    code = "alarm_not_sent"
    hint = "Look at the PREREAD_ALARM_... settings and the way there; `preread alarm test` tries them."


class BundleError(PrereadError):
    """The bundle may not be used."""

    code = "bundle_error"
    exit_code = 4


class BundleMissing(BundleError):
    """There is no such bundle."""

    code = "bundle_missing"
    hint = "`preread bundle list` shows the bundles that are installed."


class BundleDamaged(BundleError):
    """A file of the bundle is missing or does not have the hash in its manifest."""

    code = "bundle_damaged"
    hint = "Install the bundle again; `preread bundle verify` names the files."


class BundleMismatch(BundleError):
    """The bundle does not give its own golden results on this machine."""

    code = "bundle_mismatch"
    hint = "Do not use it here; report the machine's processor and the versions from `preread check`."


class BundleWithdrawn(BundleError):
    """The bundle was withdrawn: it assesses nothing any more."""

    code = "bundle_withdrawn"
    hint = "`preread bundle activate NAME/VERSION` or `preread bundle rollback` names another, then start again."


class SettingsError(PrereadError):
    """A setting cannot be meant."""

    code = "settings"
    exit_code = 2


class SchemaTooNew(SettingsError):
    """The database was upgraded by a newer version of Preread."""

    code = "schema_too_new"
    hint = "Install the newer version, or point PREREAD_DATABASE_URL at another database."


class SchemaOutdated(SettingsError):
    """The database was made by an older version of Preread, or is empty."""

    code = "schema_outdated"
    hint = "Run `preread db upgrade`."


class DatabaseUnsuitable(SettingsError):
    """This database cannot keep its promises where it lies."""

    code = "database_unsuitable"
    hint = "Put the SQLite file on a local disk, or use Postgres."


class UsageError(PrereadError):
    """The command names something that does not exist."""

    code = "usage"
    exit_code = 2


class NotAllowed(UsageError):
    """This account may not do that."""

    code = "not_allowed"
    hint = "Look at name and password; `preread users list` shows roles and what is disabled."


class TooManyTries(NotAllowed):
    """Too many passwords were tried: the next try must wait."""

    code = "too_many_tries"
    hint = "Wait for as long as it says. Whose failures these were: `sign_in_failed` in the log names the address."
    wait_s: float = 1.0


class ReadingOutdated(UsageError):
    """The reading is about a result that has changed meanwhile."""

    code = "reading_outdated"
    hint = "Look at the film again, then sign."


class FindingUnknown(UsageError):
    """The reading names a finding that the film's bundle does not know."""

    code = "finding_unknown"
    hint = "`preread review show ID` lists the findings of the film; what else there is belongs into the comment."


class BackupDamaged(PrereadError):
    """The backup is not whole, or is none for this database."""

    code = "backup_damaged"
    hint = "Take another backup; `preread db restore` changes nothing before it has read a backup to its end."


class UpgradeFailed(PrereadError):
    """The schema could not be changed; the database is as it was before."""

    code = "upgrade_failed"
    hint = "Go on with the version that was installed before, and report this with the log lines above."


class AuditBroken(PrereadError):
    """The audit trail is not what was written."""

    code = "audit_broken"
    hint = "Keep a copy of the database as it is, and find out who could write to it."


class AuditKeyMissing(PrereadError):
    """The key of the audit trail is missing, so that the trail cannot be verified."""

    code = "audit_key_missing"
    hint = "Put the key's file back (PREREAD_AUDIT_KEY_FILE); if it is lost, look first, then `preread audit rekey`."


class InternalError(PrereadError):
    """Preread failed in a way that nobody foresaw."""

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
