"""``chexpert-rules``: the 14 CheXpert observations found in English reports by rules.

Needs no weights. It is neither the CheXpert labeler nor CheXbert, and its scores are not
comparable with theirs: it is a labeler of this project with the same 14 classes, for use where
those are out of reach. ``python eval/rules_labeler.py`` measures it against the MeSH codes that
people gave to the Open-i reports.

A report is cut into sentences and these into clauses. In each clause the words for an observation
are looked for; every mention is negated, uncertain or positive by the words around it in its
clause. Over a report, positive beats uncertain beats negative beats blank. ``No Finding`` is
positive where no other observation but ``Support Devices`` is positive or uncertain.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llava_rad.metrics.label_f1 import label_f1
from llava_rad.metrics.result import MetricResult, check_pairs, is_empty, some_empty
from llava_rad.observations import OBSERVATIONS, Mention

VERSION = "1"

_HEART = r"(?:heart|cardiac|cardio(?:mediastinal|pericardial|pulmonary|vascular)?)"
_MEDIASTINUM = r"(?:mediastin\w+|cardiomediastin\w+|cardio ?mediastin\w+)"
_LARGE = r"(?:enlarge\w*|promin\w+|widen\w*|large|big|dilat\w+)"
_GAP = r"(?:[\w/,'-]+ ){0,4}?"
_OF_LUNG = r"(?:lungs?|pulmonary|parenchym\w+|bas\w+|bibasilar|perihilar|lobes?|apical|hil\w+)"

# What each observation is called. A pattern is searched in one clause.
_NAMES: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        rf"(?:enlarged|prominent|widened) (?:\w+ ){{0,3}}?{_MEDIASTINUM}",
        rf"{_MEDIASTINUM} {_GAP}(?:is|are|appears?|remains?|be) {_GAP}{_LARGE}",
        rf"{_MEDIASTINUM} (?:widening|enlargement|prominence)",
        rf"(?:widening|prominence|enlargement) of (?:the )?(?:\w+ )?{_MEDIASTINUM}",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        rf"{_LARGE} {_GAP}(?:heart|cardiac|cardiomediastinal|cardiopericardial)(?! failure)",
        r"(?:heart|cardiac|cardiomediastinal|cardiopericardial) (?:enlargement|prominence)",
        rf"{_HEART}(?: \w+){{0,3}}? (?:is|are|appears?|remains?|be|seems?) {_GAP}{_LARGE}",
        r"(?:heart|cardiac silhouette|cardiac contours?)(?: size)?,? (?:mildly|moderately|markedly|"
        r"slightly|borderline|minimally|severely)?,? ?enlarged",
        r"borderline (?:enlarged )?(?:heart|cardiac|cardiomediastinal)(?: \w+)?",
        rf"{_HEART}(?: \w+){{0,4}}? borderline",
        r"(?:left|right|bi)[ -]?(?:ventric\w+|atri\w+) (?:enlargement|hypertrophy)",
        r"enlarged (?:\w+ )?(?:ventric\w+|atri\w+)",
        r"(?:increased|increase in) (?:heart|cardiac) size",
    ),
    "Lung Opacity": (
        r"opaci(?:ty|ties|fi\w+)",
        r"infiltrat\w*",
        r"air ?-?space (?:disease|process|change)\w*",
        rf"{_OF_LUNG} (?:\w+ )?densit(?:y|ies)",
        r"(?:patchy|hazy|streaky|linear|airspace|air space|interstitial|reticular|"
        r"reticulonodular|ill-defined|increased|subtle|vague|focal) densit(?:y|ies)",
        r"densit(?:y|ies) (?:\w+ ){0,4}?(?:lung|lobe|base|apex|lingula)\w*",
        rf"(?:increased?|promin\w+|coarse\w*|accentuat\w+) {_GAP}(?:markings|interstiti\w+)",
        r"interstitial (?:\w+ )?(?:markings|prominence|thickening|changes?|abnormalit\w+|disease)",
        r"markings (?:are|is) (?:\w+ )?(?:increased|prominent|coarse\w*)",
        r"haz(?:e|iness)",
        r"reticular (?:pattern|markings)",
    ),
    "Lung Lesion": (
        r"(?:fibro)?nod(?:ule|ular)\w*(?! (?:pattern|interstitial))",
        r"mass(?:es)?\b(?! effect)",
        r"(?:cavitary|lung|pulmonary|parenchymal) lesions?",
        r"carcinoma|neoplas\w+|malignan\w+|tumou?rs?|metasta\w+|lung cancer",
        r"cavitations?|cavit(?:y|ies)\b",
    ),
    "Edema": (
        r"(?<!soft tissue )(?<!subcutaneous )o?edema(?:tous)?",
        r"heart failure|\bchf\b|fluid overload|volume overload",
        r"(?:vascular|pulmonary|central|venous|hilar|cardiac) congestion|congestive|congestion",
        r"(?:pulmonary )?(?:vascular\w*|vessels?|vasculature) (?:\w+ ){0,3}?(?:engorge\w*|"
        r"congest\w*|redistribut\w+|indistinct\w*)",
        r"(?:vascular|cephalad) (?:indistinctness|redistribution|engorgement|prominence)",
        r"promin\w+ (?:of )?(?:the )?(?:\w+ ){0,2}?vascul\w+|cephalization",
        r"kerley",
    ),
    "Consolidation": (r"consolidat\w+",),
    "Pneumonia": (r"pneumoni\w+|infecti\w+(?! of the)|bronchopneumonia",),
    "Atelectasis": (
        r"atelecta\w+|(?:lobar|lung|lobe|segmental|volume) collapse",
        r"collapsed (?:\w+ )?(?:lung|lobe)|collapse of (?:\w+ ){0,4}?(?:lung|lobe)",
    ),
    "Pneumothorax": (r"(?:hydro|hemo)?pneumo ?thora\w+",),
    "Pleural Effusion": (
        r"(?<!pericardial )effusions?\b|pleural fluid|fluid in the (?:\w+ )?fissure",
        r"hydro(?:pneumo)?thorax|hemothorax|pleural collection",
        rf"(?:blunt\w+|obscur\w+|obliterat\w+) {_GAP}(?:costophrenic|cp)\b",
        r"(?:costophrenic|cp) (?:\w+ ){0,3}?(?:(?:is|are|appears?) )?(?:\w+ ){0,2}?"
        r"(?:blunt\w*|obscur\w*|obliterat\w*)",
    ),
    "Pleural Other": (
        r"pleural(?:[ -]parenchymal)? (?:\w+ ){0,2}?(?:thicken\w+|scar\w*|fibrosis|plaques?|"
        r"calcifi\w+|reaction|disease)",
        r"(?:thicken\w+|scar\w*|calcifi\w+) (?:\w+ ){0,3}?pleura\w*|fibrothorax",
        r"(?:pleural|apical|biapical) (?:cap(?:ping)?|thickening)",
    ),
    "Fracture": (r"fractur\w+",),
    "Support Devices": (
        r"pace ?makers?|pacer\w*|pacing|defibrillat\w+|\baicds?\b|\bicds?\b|"
        r"(?:spinal|nerve|vagal) stimulator|generator|electrodes?",
        r"catheters?|\bpicc\b|(?:central|venous|subclavian|jugular|picc|arterial) lines?|"
        r"\blines? (?:tip|terminates|ends)|\bswan\b|\bcvc\b|\bivc filter|port-? ?a-? ?cath|"
        r"mediport|\bports?\b|chemo ?port",
        r"\btubes?\b|tracheostomy|\bett\b|\bngt\b|\bdrains?\b|cannula|\bshunt\b",
        r"(?:prosthetic|mechanical|artificial|replaced|aortic|mitral|cardiac|heart) "
        r"(?:\w+ )?valves?(?! calcif\w+)|valve (?:replacement|prosthe\w+)|valvular prosthe\w+|"
        r"annuloplasty",
        r"hardware|arthroplast\w+|prosthe\w+|\bscrews?\b|\bplates?\b|\brods?\b|"
        r"fixation|fusion device",
        r"(?:assist|medical|support|monitoring|implanted|cardiac|electronic) devices?|"
        r"\bleads?\b|\bcoils?\b|stents?\b|loop recorder|balloon pump|\biabp\b",
    ),
}

# Statements that an observation is absent which do not name it.
_DENIALS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        rf"{_MEDIASTINUM}(?: [\w,/]+){{0,8}}? (?:normal|unremarkable|clear|within)",
        rf"(?:normal|unremarkable) {_GAP}{_MEDIASTINUM}",
    ),
    "Cardiomegaly": (
        rf"{_HEART}(?: [\w,/]+){{0,8}}? (?:normal|unremarkable|within|upper limits?)",
        rf"(?:normal|unremarkable) {_GAP}{_HEART}",
    ),
    "Lung Opacity": (
        r"lungs?(?: [\w,/]+){0,5}? clear",
        r"clear (?:\w+ )?lungs?",
    ),
    "Pleural Effusion": (
        r"(?:costophrenic|cp) (?:\w+ )?(?:angles?|sulci)(?: \w+){0,3}? (?:sharp|clear|preserved)",
        r"pleural (?:spaces?|surfaces?)(?: \w+){0,3}? (?:clear|normal|unremarkable)",
    ),
    "Fracture": (
        r"(?:bon(?:es|y)|osseous|skelet\w+|ribs?|thorax)(?: [\w,/]+){0,5}? (?:intact|unremarkable|"
        r"normal)",
    ),
}

_SENTENCE_END = re.compile(r"(?<=[a-z)\]%])[.!?]+(?=\s|$)|(?<=\d)\.(?=\s+[a-z])|;|\n\s*\n|:")
_CLAUSE_END = re.compile(
    r",? (?:but|however|although|though|except(?: for)?|aside from|apart from|other than|"
    r"otherwise|with the exception of|nevertheless|which|while|whereas)\b"
    r"|(?:,? and|,)? (?=there (?:is|are|has|have)\b)"
    r"|,? and (?=(?:the )?(?:lungs?|heart|cardiac|cardiomediastinal|mediastinum|bony|osseous)\b)"
    r"|,? (?=with(?:out)? (?:no |any |evidence))"
    r"|,? (?=without\b)"
)
_NOT_FREE = re.compile(
    r"(?:cannot|can not|can't|not|difficult to) (?:be )?(?:entirely |completely "
    r"|definitively )?(?:exclude\w*|rule\w* out)"
)
_DENIES_BEFORE = re.compile(
    r"\b(?:no|not|none|nor|without|negative for|free (?:of|from)|clear of|absen(?:ce|t)(?: of)?|"
    r"never|neither|resolution of|resolved|rather than|lack of|denies|exclude[sd]?|"
    r"rule out|interval removal of|removal of|removed)\b"
)
# Words that end the reach of an earlier denial inside one clause.
_DENIAL_STOPS = re.compile(
    r"\b(?:with(?!(?:in|out))|but|secondary to|due to|change in|changes? (?:of|from|since)|"
    r"significant change|interval change)\b"
)
_DENIES_AFTER = re.compile(
    r"^(?: [\w,/-]+){0,6}? (?:(?:is|are|was|were|has|have|had|been|be) )*"
    r"(?:not (?:\w+ )?(?:seen|identified|present|visuali[sz]ed|noted|evident|appreciated|detected|"
    r"demonstrated|observed|apparent|enlarged|suspected|visible)|absent|resolved|"
    r"(?:been )?(?:removed|excluded)|cleared|unlikely|"
    r"(?:appears? )?within (?:normal limits|limits of normal))\b"
)
_DOUBTS_BEFORE = re.compile(
    r"\b(?:possibl\w+|probabl\w+|likely|perhaps|may|might|could|suspici\w+|suspect\w*|"
    r"question\w*|concern\w*|suggest\w*|equivocal|versus|vs|differential|considered?|"
    r"consideration|worrisome for|cannot|exclude|borderline|if|rule out)\b"
)
_DOUBTS_AFTER = re.compile(
    r"^(?: [\w,/-]+){0,5}? (?:(?:is|are|would be|could be|may be|should be) )?"
    r"(?:possible|questionable|suspected|(?:not|cannot be|can not be|can't be) "
    r"(?:\w+ )?(?:excluded|ruled out)|considered|versus|vs|in the differential|"
    r"borderline)\b"
)
_LONGEST_CLAUSE = 100  # words
_DOUBTFUL_NAME = re.compile(r"borderline")


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(patterns) + ")")


_NAME_PATTERNS = {name: _compile(patterns) for name, patterns in _NAMES.items()}
_DENIAL_PATTERNS = {name: _compile(patterns) for name, patterns in _DENIALS.items()}


def label_report(text: str) -> list[Mention]:
    """What an English report says of each of the 14 observations, in the order of OBSERVATIONS."""
    found = dict.fromkeys(OBSERVATIONS, Mention.BLANK)
    for clause in _clauses(text):
        for name, pattern in _NAME_PATTERNS.items():
            for match in pattern.finditer(clause):
                found[name] = _stronger(found[name], _judge(clause, match))
        for name, pattern in _DENIAL_PATTERNS.items():
            if found[name] == Mention.BLANK and pattern.search(clause):
                found[name] = Mention.NEGATIVE
    findings = (m for name, m in found.items() if name not in ("Support Devices", "No Finding"))
    if not is_empty(text) and not any(m in (Mention.POSITIVE, Mention.UNCERTAIN) for m in findings):
        found["No Finding"] = Mention.POSITIVE
    return list(found.values())


def label_reports(texts: Sequence[str]) -> NDArray[np.int64]:
    """Labels of many reports [texts, 14]; equal texts are labelled once."""
    known = {text: label_report(text) for text in dict.fromkeys(texts)}
    return np.array([known[text] for text in texts], dtype=np.int64).reshape(-1, len(OBSERVATIONS))


def chexpert_rules(predictions: Sequence[str], references: Sequence[str]) -> MetricResult:
    """F1 of the observations that this package's rules find in both texts.

    Returns:
        The values of :mod:`llava_rad.metrics.label_f1`, in [0, 1].

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    return label_f1(
        "chexpert_rules",
        label_reports(predictions),
        label_reports(references),
        facts={"scorer": f"llava_rad chexpert-rules, version {VERSION}", "language": "English"},
        empty=some_empty(predictions, references),
    )


def _clauses(text: str) -> list[str]:
    lowered = re.sub(r"[ \t\r\f\v]*\n(?!\s*\n)", " ", text.lower())
    clauses = []
    for sentence in _SENTENCE_END.split(lowered):
        for clause in _CLAUSE_END.split(sentence):
            words = clause.split()
            # A text without punctuation must not cost the square of its length.
            starts = range(0, len(words), _LONGEST_CLAUSE)
            clauses += [" ".join(words[i : i + _LONGEST_CLAUSE]) for i in starts]
    return [clause for clause in clauses if clause]


def _judge(clause: str, match: re.Match[str]) -> Mention:
    before, name, after = clause[: match.start()], match[0], clause[match.end() :]
    if _DOUBTS_AFTER.search(after) or _NOT_FREE.search(before):
        return Mention.UNCERTAIN
    denials = list(_DENIES_BEFORE.finditer(before))
    if denials and not _DENIAL_STOPS.search(before, denials[-1].end()):
        return Mention.NEGATIVE
    if re.search(r"\bnot\b", name) or _DENIES_AFTER.search(after):
        return Mention.NEGATIVE
    if _DOUBTS_BEFORE.search(before) or _DOUBTFUL_NAME.search(name):
        return Mention.UNCERTAIN
    return Mention.POSITIVE


def _stronger(first: Mention, second: Mention) -> Mention:
    order = (Mention.BLANK, Mention.NEGATIVE, Mention.UNCERTAIN, Mention.POSITIVE)
    return max(first, second, key=order.index)
