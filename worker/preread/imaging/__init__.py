"""From bytes to grey pixels, header and identity; no I/O but previews."""
