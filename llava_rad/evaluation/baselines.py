"""What a model that never looks at the image would score: the baselines under every result."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llava_rad.errors import MetricError
from llava_rad.metrics.result import MetricResult, is_empty
from llava_rad.metrics.score import LOWER_IS_BETTER, Scorer, headline_values

CANDIDATES = 10
_FORGETFUL = {"bertscore", "radcliq_v0", "radcliq_v1", "ratescore"}


@dataclass(frozen=True)
class FixedReport:
    """The best value that one text for every study reaches.

    Attributes:
        value: the metric's value.
        text: the text that reaches it.
    """

    value: float
    text: str


def fixed_report_candidates(reports: Sequence[str], count: int = CANDIDATES) -> list[str]:
    """Texts that do well as the report of every study: the most frequent and the most central.

    Half are the most frequent of the reports, half those whose word counts have the largest mean
    cosine with all of them.
    """
    usable = [report for report in reports if not is_empty(report)]
    if not usable:
        return []
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    frequent = [text for text, _ in Counter(usable).most_common(count // 2)]
    vectors = normalize(CountVectorizer(token_pattern=r"\S+").fit_transform(usable))
    centrality = np.asarray(vectors @ np.asarray(vectors.mean(axis=0)).ravel()).ravel()
    central = [usable[i] for i in np.argsort(-centrality, kind="stable")]
    return list(dict.fromkeys([*frequent, *central]))[:count]


def score_each(
    scorer: Scorer, texts: Sequence[Sequence[str]], references: Sequence[str]
) -> Iterator[dict[str, MetricResult]]:
    """Score several lists of texts against the same references.

    One list after the other, each when it is asked for: what all of them hold of each pair would be
    most of a run's memory. Metrics that read texts remember what they said of them; those that do
    not get all lists at once, so that distinct texts cost once, and hold a few numbers of a pair.
    CIDEr's weights, which come from the references, are the same for one list and for several.
    """
    if not texts:
        return
    count = len(references)
    forgetful = scorer.only([name for name in scorer.metrics if name in _FORGETFUL])
    others = scorer.only([name for name in scorer.metrics if name not in _FORGETFUL])
    together: dict[str, MetricResult] = {}
    if forgetful.metrics:
        every = [text for one in texts for text in one]
        together = forgetful(every, [*references] * len(texts)).results
    for i, one in enumerate(texts):
        own = np.arange(i * count, (i + 1) * count)
        found = {name: result.on(own) for name, result in together.items()}
        if others.metrics:
            found |= others(one, references).results
        yield {name: found[name] for name in scorer.metrics if name in found}


def best_fixed_report(
    scored: Iterable[dict[str, MetricResult]], texts: Sequence[str]
) -> dict[str, FixedReport]:
    """The best of some fixed reports, for each headline value ``metric/value`` on its own.

    Args:
        scored: for each text the results of giving it for every study.
        texts: the texts.
    """
    best: dict[str, FixedReport] = {}
    for results, text in zip(scored, texts, strict=True):
        for key, value in headline_values(results).items():
            sign = -1 if key.split("/")[0] in LOWER_IS_BETTER else 1
            if key not in best or sign * value > sign * best[key].value:
                best[key] = FixedReport(value, text)
    return best


def other_patients(patients: Sequence[str], *, seed: int = 0) -> NDArray[np.int64]:
    """For each study the index of a study of another patient, each used about once.

    Args:
        patients: the patient of each study; at least two different ones.
        seed: of the random order.

    Raises:
        MetricError: all studies are of one patient.
    """
    if len(set(patients)) < 2:
        raise MetricError(
            "all studies are of one patient",
            remedy="Give studies of at least two patients",
            kind="one_patient",
        )
    count = len(patients)
    names = sorted(set(patients))
    ranks = np.random.default_rng(seed).permutation(len(names))
    rank = dict(zip(names, ranks, strict=True))
    # In an order where a patient's studies stand together, a shift by the largest group's size
    # leads each study to another patient's, unless that group is more than half of all.
    order = sorted(range(count), key=lambda i: rank[patients[i]])
    shift = max(Counter(patients).values())
    chosen = np.empty(count, dtype=np.int64)
    for place, i in enumerate(order):
        step = shift
        while patients[order[(place + step) % count]] == patients[i]:
            step += 1
        chosen[i] = order[(place + step) % count]
    return chosen


def nearest(queries: ArrayLike, pool: ArrayLike, *, block: int = 1024) -> NDArray[np.int64]:
    """For each row of ``queries`` [n, dim] the most similar row of ``pool`` [m, dim], by cosine."""
    queries = _unit(np.asarray(queries, dtype=np.float32))
    pool = _unit(np.asarray(pool, dtype=np.float32))
    starts = range(0, len(queries), block)
    found = [np.argmax(queries[i : i + block] @ pool.T, axis=1) for i in starts]
    return np.concatenate(found).astype(np.int64)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    lengths[lengths == 0] = 1
    return rows / lengths
