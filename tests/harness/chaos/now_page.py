"""The console's page Now during a fault: which of the expected words it has shown, and when first."""

import html
import re
import time
from collections.abc import Sequence

import httpx

READ_SECONDS = 2.0
"""Pause between two readings, so that the console costs the measured platform little."""


class NowPage:
    """Reads the page at ``url``; ``seen`` has the seconds from the start until each word was shown first."""

    def __init__(self, url: str, wanted: Sequence[str]) -> None:
        self._url = url
        self._wanted = wanted
        self._began = time.monotonic()
        self._read_at = 0.0
        self.seen: dict[str, float] = {}

    def tells(self) -> bool:
        """Read the page if words are missing; return whether every word has been shown."""
        missing = [word for word in self._wanted if word not in self.seen]
        if missing and time.monotonic() - self._read_at >= READ_SECONDS:
            text = page_text(self._url)
            self._read_at = time.monotonic()
            self.seen |= {word: self._read_at - self._began for word in missing if word in text}
        return self.seen.keys() >= set(self._wanted)


def page_text(url: str) -> str:
    """Return a page's text without tags, "" if the console does not respond."""
    try:
        answer = httpx.get(url, timeout=30)
    except httpx.HTTPError:
        return ""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))
