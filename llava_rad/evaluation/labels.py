"""What metrics, their values and baselines are called where people read."""

from llava_rad.metrics.label_f1 import POLICIES
from llava_rad.metrics.radgraph import PUBLISHED_LEVEL

BASELINE_NAMES = {
    "fixed_report": "best single report",
    "other_patient": "another patient's report",
    "nearest_training_report": "nearest training report",
}

_METRICS = {
    "bleu_coco": "BLEU (COCO)",
    "bleu_sacrebleu": "BLEU (sacreBLEU)",
    "rouge": "ROUGE",
    "rouge_l_coco": "ROUGE-L (COCO)",
    "meteor": "METEOR",
    "meteor_wordnet": "METEOR (WordNet)",
    "cider": "CIDEr-D",
    "chexpert_rules": "chexpert-rules",
    "chexbert": "CheXbert",
    "radgraph": "RadGraph",
    "bertscore": "BERTScore",
    "bleu_rexrank": "BLEU (ReXrank)",
    "radgraph_radcliq": "RadGraph (RadCliQ's)",
    "radcliq_v0": "RadCliQ-v0",
    "radcliq_v1": "RadCliQ-v1",
    "temporal_f1": "Temporal F1",
    "srr_bert": "F1-SRR-BERT",
    "ratescore": "RaTEScore",
    "green": "GREEN",
    "radfact": "RadFact",
}
_VALUES = {
    "radgraph_f1": f"RadGraph F1, level {PUBLISHED_LEVEL}",
    "cider": "CIDEr-D",
    "meteor": "METEOR",
    "radcliq_v0": "RadCliQ-v0",
    "radcliq_v1": "RadCliQ-v1",
    "ratescore": "RaTEScore",
    "green": "GREEN",
    "f1": "F1",
    **{f"rouge{kind}": f"ROUGE-{kind}" for kind in ("1", "2", "L", "Lsum")},
    **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
}


def metric_label(metric: str) -> str:
    """A metric's name as people write it."""
    return _METRICS.get(metric, metric)


def value_label(value: str) -> str:
    """A value's key as people say it."""
    policy, *rest = value.split("/")
    if policy in POLICIES and len(rest) == 3:
        how = policy.replace("_", " ")
        return f"{rest[1]} {rest[2].upper()}, {rest[0]} observations, {how}"
    return _VALUES.get(value) or value.replace("_", " ").replace("/f1", " F1")


def key_label(key: str) -> str:
    """A value's ``metric/value`` as people say it: ``BLEU-4 (COCO)``."""
    metric, _, value = key.partition("/")
    name, _, rules = metric_label(metric).partition(" (")
    said = value_label(value)
    whole = said if said.startswith(name) else f"{name} {said}"
    return f"{whole} ({rules}" if rules else whole
