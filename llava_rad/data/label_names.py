"""Label names that differ only in capitals are one label."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from llava_rad.data.study import Study
from llava_rad.observations import OBSERVATIONS
from llava_rad.wording import counted


@dataclass(frozen=True)
class JoinedLabels:
    """Studies whose labels have one spelling each.

    Attributes:
        studies: in their order.
        spellings: each spelling that was given up, with the one that took its place.
        contradicting: ids of studies whose spellings said different things of one label; it is
            not stated there any more.
    """

    studies: list[Study]
    spellings: dict[str, str] = field(default_factory=dict)
    contradicting: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a person."""
        pairs = ", ".join(f"{old!r} as {new!r}" for old, new in self.spellings.items())
        said = f"labels that differ only in capitals are one: {pairs}"
        if self.contradicting:
            said += "; they contradict each other in "
            said += counted(len(self.contradicting), "study", "studies")
        return said


def join_labels(studies: Iterable[Study]) -> JoinedLabels:
    """Give each label one spelling: CheXpert's where it is among them, else the most frequent."""
    studies = list(studies)
    counts: Counter[str] = Counter(name for study in studies for name in study.labels)
    of_key: dict[str, list[str]] = {}
    for name in counts:
        of_key.setdefault(_key(name), []).append(name)
    spellings: dict[str, str] = {}
    for names in of_key.values():
        chosen = next((name for name in names if name in OBSERVATIONS), None)
        chosen = chosen or max(names, key=lambda name: counts[name])
        spellings |= {name: chosen for name in names if name != chosen}
    if not spellings:
        return JoinedLabels(studies)
    joined, contradicting = [], []
    for study in studies:
        if spellings.keys().isdisjoint(study.labels):
            joined.append(study)
            continue
        labels, agree = _joined(study.labels, spellings)
        joined.append(replace(study, labels=labels))
        if not agree:
            contradicting.append(study.study_id)
    return JoinedLabels(joined, spellings, contradicting)


def _joined(
    labels: Mapping[str, float | None], spellings: Mapping[str, str]
) -> tuple[dict[str, float | None], bool]:
    """The labels under their new names, and whether no two said different things."""
    values: dict[str, set[float]] = {}
    for name, value in labels.items():
        stated = values.setdefault(spellings.get(name, name), set())
        if value is not None:
            stated.add(value)
    agree = all(len(stated) < 2 for stated in values.values())
    return {name: next(iter(s)) if len(s) == 1 else None for name, s in values.items()}, agree


def _key(name: str) -> str:
    return " ".join(name.casefold().split())
