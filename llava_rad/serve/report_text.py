"""The text of a report while it is being written, in pieces that are never taken back."""

import asyncio
from collections.abc import Sequence

from llava_rad.grounded_text import growing_text
from llava_rad.model import ReportModel


class GrowingText:
    """Follows the tokens of one report; its pieces joined are the report's findings.

    Tokens come on the models' thread, pieces are taken on the thread that it was made on. What
    later tokens may change is held back: half a character, spaces at the end, the beginning of a
    text that ends reports.

    Args:
        model: that writes.
    """

    def __init__(self, model: ReportModel) -> None:
        self._processor, self._ends = model.processor, model.end_ids
        self._stops = model.processor.template.stop_texts
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._told = ""

    def follow(self, ids: Sequence[int]) -> None:
        """Take all tokens so far."""
        text = growing_text(self._processor.decode(ids, self._ends).rstrip("\ufffd"))
        self._tell(text[: len(text) - self._unsure(text)].rstrip())

    def end(self, findings: str) -> None:
        """Take the whole text."""
        self._tell(findings)

    def close(self) -> None:
        """There are no further pieces; called on the thread that takes them."""
        self._pieces.put_nowait(None)

    async def piece(self) -> str | None:
        """The next piece of text, or None after the last one."""
        return await self._pieces.get()

    def _unsure(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop."""
        sizes = (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(sizes, default=0)

    def _tell(self, text: str) -> None:
        if len(text) > len(self._told) and text.startswith(self._told):
            piece, self._told = text[len(self._told) :], text
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
