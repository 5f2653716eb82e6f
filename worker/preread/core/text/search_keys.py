"""Search keys of images: device label and normalised patient name."""

from __future__ import annotations

import re
import unicodedata

from preread.core.types import Identity

MAX_NAME_KEY_CHARS = 200
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def device_label(identity: Identity) -> str | None:
    """Return the device label: station name, else model, else serial number.

    Returns:
        ``None`` if the image has none of them.
    """
    return identity.station_name or identity.manufacturer_model_name or identity.device_serial_number


def name_key(name: str | None) -> str | None:
    """Return a normalised patient name: ``MÜLLER^Ada`` becomes ``muller ada``.

    Args:
        name: PN value; only its first component group counts (PS3.5 section 6.2), without case, accents and
            punctuation.

    Returns:
        At most 200 characters; ``None`` if nothing is left.
    """
    first = (name or "").split("=")[0] or name or ""
    plain = "".join(c for c in unicodedata.normalize("NFKD", first) if not unicodedata.combining(c)).casefold()
    return _BETWEEN_WORDS.sub(" ", plain).strip()[:MAX_NAME_KEY_CHARS].strip() or None
