"""What a conversion kept, what it left out and why: no row disappears unseen."""

from dataclasses import dataclass, field

from llava_rad.data.image_files import summarise


@dataclass
class ConversionLog:
    """Filled by an adapter while it reads a data set.

    Attributes:
        left_out: reason to the ids of rows or studies that did not become a study.
        noted: fact to the ids of studies that were kept although something is missing or odd.
    """

    left_out: dict[str, list[str]] = field(default_factory=dict)
    noted: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, row_id: str) -> None:
        """Record that a row was not used."""
        self.left_out.setdefault(reason, []).append(row_id)

    def note(self, fact: str, row_id: str) -> None:
        """Record something about a row that was used."""
        self.noted.setdefault(fact, []).append(row_id)

    def summary(self) -> list[str]:
        """What was passed over, with the first names of each reason, and what was noted."""
        return [
            *summarise(self.left_out),
            *(f"noted, {fact}: {len(ids)}" for fact, ids in self.noted.items()),
        ]
