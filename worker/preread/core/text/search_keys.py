"""What films are looked up by, beyond their identifiers: the device in one word, and a name however it is typed."""

from __future__ import annotations

import re
import unicodedata

from preread.core.types import Identity

MAX_NAME_KEY_CHARS = 200
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def device_label(identity: Identity) -> str | None:
    """Return what people call the device: its station name, else its model, else its serial number."""
    return identity.station_name or identity.manufacturer_model_name or identity.device_serial_number


def name_key(name: str | None) -> str | None:
    """Return a Patient Name as it is searched for: ``MÜLLER^Ada`` and ``Muller, ada`` are both ``muller ada``.

    Only the first of the component groups of a PN value (PS3.5 section 6.2) counts; case, accents and punctuation do
    not. ``None`` when nothing is left.
    """
    first = (name or "").split("=")[0] or name or ""
    plain = "".join(c for c in unicodedata.normalize("NFKD", first) if not unicodedata.combining(c)).casefold()
    return _BETWEEN_WORDS.sub(" ", plain).strip()[:MAX_NAME_KEY_CHARS].strip() or None
