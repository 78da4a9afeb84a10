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
from llava_rad.metrics.tokens import read_once
from llava_rad.observations import OBSERVATIONS, Mention

VERSION = "2"

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
        r"cavitations?|(?<!thoracic )(?<!pleural )(?<!chest )(?<!abdominal )cavit(?:y|ies)\b",
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
    "Pneumothorax": (r"(?:hydro|hemo)?pneumo ?thora\w+|ptx\b",),
    "Pleural Effusion": (
        r"(?<!pericardial )effusions?\b|pleural(?: or | and |/)pericardial effusions?",
        r"pleural fluid|fluid in the (?:\w+ )?fissure",
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

_SENTENCE_END = re.compile(
    r"(?<=[a-z)\]%])[.!?]+(?=\s|$)|(?<=\d)\.(?=\s+[a-z])|;"
    # A short answer ends where the next title begins: 'pneumothorax: none effusion: small'.
    r"|(?<=: none) (?=[a-z /]{3,30}:)|(?<=: no) (?=[a-z /]{3,30}:)"
)
_BULLET = re.compile(r"(?:[-*•]|\d+[.)])\s")
_LINE_TITLE = re.compile(r"[a-z][a-z /&-]{0,40}:(?!\d)")
# Between a title and its answer.
_COLON = re.compile(
    r":(?!\d)|(?: [-–—]+| =|,| \() ?(?=(?:none|nil|negative|absent|no)(?: seen)?\)?$)"
)
_LONGEST_TITLE = 6  # words

_SIZES = (
    r"small|tiny|trace|mild(?:ly)?|moderate(?:ly)?|minimal(?:ly)?|slight(?:ly)?|stable|unchanged|"
    r"persist\w*|residual|increas\w+|decreas\w+|improv\w+|worse\w*"
)
# What a verb says of a finding that is there.
_PREDICATE = rf"(?:{_SIZES}|large|larger|smaller|enlarged|present|again)\b"
_CLAUSE_END = re.compile(
    r",? (?:but|however|although|though|except(?: for)?|aside from|apart from|other than|"
    r"otherwise|with the exception of|nevertheless|which|while|whereas|only)\b"
    r"| [-–—]+ "
    r"|(?:,? and|,)? (?=there (?:is|are|has|have)\b)"
    r"|,? and (?=(?:the )?(?:lungs?|heart|cardiac|cardiomediastinal|mediastinum|bony|osseous)\b)"
    r"|,(?: and)? (?=(?:[\w/-]+ ){1,5}?(?:is|are|remains?|has|have|appears?) (?:\w+ )?"
    rf"{_PREDICATE})"
    rf"| and (?=(?:[\w/-]+ ){{1,5}}?(?:is|remains|has|appears) (?:\w+ )?{_PREDICATE})"
    r"|(?:, and|,| and) (?=(?:[\w/-]+ ){1,5}?persists?\b)"
    r"|,? (?=with(?:out)? (?:no |any |evidence))"
    r"|,? (?=(?:without|w/o)\b)"
)

# Words that deny what follows them. A verb before 'resolved' makes it deny what stands before.
_DENIES_BEFORE = re.compile(
    r"\b(?:no|not|none|nor|nothing|without|w/o|neg|negative for|free (?:of|from)|clear of|"
    r"devoid of|never|neither|(?:resolution|clearance|disappearance) of|rather than|lack of|lacks|"
    r"denies|excludes?|excluded|rules out|unlikely|fail(?:s|ed) to|(?:interval )?removal of|"
    r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )(?<!\bhas )(?<!\bhave )(?<!\bbeen )"
    r"(?:absen(?:ce|t)(?: of)?|resolved|removed))\b"
)
_DENIED_CHANGE = (
    r"(?:chang(?:e|es|ed)|increased?|decreased?|progress(?:ion|ed)|worsen(?:ing|ed)|"
    r"improve(?:d|ment)|enlargement|growth|reduction|difference|resolution|clear(?:ing|ance)|"
    r"disappearance|evolution|migration|displacement|complications?)"
)
# Words that end the reach of an earlier denial inside one clause: 'no increase in the effusion'.
_DENIAL_STOPS = re.compile(
    r"\b(?:(?<!consistent )(?<!compatible )(?<!keeping )with(?!(?:in|out))|but|secondary to|"
    r"due to|after|following|status post|s/p|despite|"
    rf"{_DENIED_CHANGE} (?:in|from|since|to the)|(?<!changes ){_DENIED_CHANGE} of|"
    r"changes? of|"
    r"(?:significant|appreciable|interval|substantial) changes?(?! (?:or|and|nor|to)\b)|"
    r"(?:changed|increased|decreased|worsened|progressed|larger|smaller|worse))\b"
    r"|^(?: \w+)? change (?!or\b|and\b|nor\b|to\b|suggest|consistent)"
)
_ENDED = re.compile(r"(?:resolution|clearance|disappearance|removal) of$")
_PARTLY = re.compile(
    r"\b(?:partial\w*|near(?:ly)?|almost|incomplete\w*|ongoing|continued|gradual|some|not|no|"
    r"without|lack of)(?:[ -](?:complete(?:ly)?|yet|fully|entirely|total|interval|significant|"
    r"evidence of|signs? of))*"
    r"[ -](?:resol\w+|clear(?:ed|ing|ance)|disappear\w+|remov\w+)"
)
# A comma or 'and' before words that say how a finding is: what follows is there.
_STATES = rf"{_SIZES}|chronic|old|healed|healing|known|patchy|streaky|bibasilar|biapical"
_AND_DESCRIBED = re.compile(rf"(\S+),? and (?:(?:a|an|the) )?(?:{_STATES})\b")
_COMMA_DESCRIBED = re.compile(
    rf"(\S+), (?:(?:a|an|the) )?(?:{_STATES}|large|multiple|subtle|left|right|bilateral|basilar|"
    r"possible|probable|likely|questionable|suspected)\b"
)
_ADJECTIVE = re.compile(
    rf"\b(?:{_STATES}|large|left|right|bilateral|acute|focal|new|upper|lower|definite|significant)$"
)
# 'No acute process, cardiomegaly': two things, not a list.
_GENERAL = re.compile(
    r"\b(?:acute|active|cardiopulmonary|significant) (?:process|disease|abnormalit\w+|findings?),"
    r"[^,]*$"
)
_RUN_ON = re.compile(
    r"\b(?:effusions?|pneumothora\w+|consolidations?|edema|pneumonia) (?:small|tiny|trace|mild|"
    r"moderate|minimal|stable|bibasilar)\b"
)
_ASSERTED_AFTER = re.compile(rf"^ (?:(?:is|are|remains?) )?{_PREDICATE}")
_ALTERNATIVE = re.compile(r"\bn?or\b|(?<!\bw)(?<!\bs)/")

_WORD = r"(?!(?:and|but|with|is|are|was|were|has|have|had|not|no|nor)\b)[\w/-]+"
_VERBS = (
    r"(?:(?:is|are|was|were|has|have|had|been|be|appears?|seems?|to|now|since|completely|fully|"
    r"entirely|essentially|apparently|clearly) )*"
)
_SEEN = (
    r"(?:seen|identified|present|visuali[sz]ed|noted|evident|appreciated|detected|demonstrated|"
    r"observed|apparent|enlarged|suspected|visible|found|shown|appreciable|discerned|there)"
)
_DENIES_AFTER = re.compile(
    # What is said of the finding itself, of one of a list with 'or', of several that 'are' not.
    rf"^(?:(?: {_WORD}){{0,6}}? {_VERBS}"
    rf"|(?:,? {_WORD}){{0,8}}?,? or(?: {_WORD}){{1,4}}? {_VERBS}"
    rf"|(?:,? {_WORD}){{0,6}}?,? and(?: {_WORD}){{1,8}}? (?:are|were|have) {_VERBS})"
    rf"(?:not (?:\w+[ -])?{_SEEN}|no longer (?:\w+ )?{_SEEN}|absent|gone|resolved|cleared|"
    r"disappeared|removed|excluded|ruled out|removal|unlikely|"
    r"within (?:normal limits|limits of normal)|(?:none|nil|no|negative|no longer)(?= *$))(?!\w)"
)

_EXCLUDE = r"(?:exclud\w+|rul\w+ out)"
_NOT_EXCLUDED = (
    r"(?:cannot|can not|can't|could not|couldn't|not|difficult to|hard to|unable to|without)"
    rf"(?: be)?(?: \w+ly)? {_EXCLUDE}"
)
_ASKED = re.compile(
    rf"\b{_NOT_EXCLUDED}|(?:\bto|\bplease|^)(?: \w+)? ?(?:exclude|rule out)\b|\br/o\b|\? ?$|"
    r"\b(?:evaluat\w+|assess\w*|eval) for\b"
)
_DOUBTS_BEFORE = re.compile(
    r"\b(?:possib\w+|probab\w+|likely|perhaps|may|might|could|suspici\w+|suspect\w*|"
    r"question\w*|concern\w*|suggest\w*|equivocal|versus|vs|differential|considered?|"
    r"consideration|worrisome for|cannot|borderline|if|doubt\w*)\b"
)
_DOUBTS_AFTER = re.compile(
    rf"^(?:(?: {_WORD}){{0,5}}?|(?:,? {_WORD}){{0,8}}?,? or(?: {_WORD}){{1,4}}?) "
    r"(?:(?:is|are|would|could|may|should|be|remains?|also) )*"
    rf"(?:possible|questionable|suspected|doubtful|{_NOT_EXCLUDED}|considered|versus|vs|"
    r"in the differential|borderline)\b"
)
_NOT_IN_NAME = re.compile(r"\b(?:not|no|never|normal|unremarkable)\b")
_DOUBTFUL_NAME = re.compile(r"borderline")
_NO_ANSWER = re.compile(
    r"(?:no|none|nil|not|neg|negative|absent|without|normal|clear|unremarkable|nothing|within "
    r"normal)\b"
)
_UNCHANGED = re.compile(
    r"(?:no|not|without)(?: \w+){0,2}? (?:chang\w+|increas\w+|decreas\w+|worse\w*|improv\w+|"
    r"progress\w+|larger|smaller)\b"
)
_NORMAL_ANSWER = re.compile(r"(?<!not )\b(?:clear|normal|unremarkable|intact)\b")
_LONGEST_CLAUSE = 100  # words


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
            if found[name] == Mention.BLANK:
                denial = pattern.search(clause)
                if denial and " not " not in denial[0]:
                    found[name] = Mention.NEGATIVE
    findings = (m for name, m in found.items() if name not in ("Support Devices", "No Finding"))
    if not is_empty(text) and not any(m in (Mention.POSITIVE, Mention.UNCERTAIN) for m in findings):
        found["No Finding"] = Mention.POSITIVE
    return list(found.values())


def label_reports(
    texts: Sequence[str], known: dict[str, list[Mention]] | None = None
) -> NDArray[np.int64]:
    """Labels of many reports [texts, 14]; equal texts are labelled once.

    Args:
        texts: the reports.
        known: labels of texts from other calls, which this one adds to.
    """
    labels = read_once(label_report, texts, {} if known is None else known)
    return np.array(labels, dtype=np.int64).reshape(-1, len(OBSERVATIONS))


def chexpert_rules(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    known: dict[str, list[Mention]] | None = None,
) -> MetricResult:
    """F1 of the observations that this package's rules find in both texts.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        known: labels of texts from other calls, which this one adds to.

    Returns:
        The values of :mod:`llava_rad.metrics.label_f1`, in [0, 1].

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    known = {} if known is None else known
    return label_f1(
        "chexpert_rules",
        label_reports(predictions, known),
        label_reports(references, known),
        facts={"scorer": f"llava_rad chexpert-rules, version {VERSION}", "language": "English"},
        empty=some_empty(predictions, references),
    )


def _clauses(text: str) -> list[str]:
    clauses = []
    for paragraph in _paragraphs(text.lower()):
        for sentence in _SENTENCE_END.split(paragraph):
            for titled in _answers(sentence.strip()):
                for clause in _CLAUSE_END.split(titled):
                    words = clause.split()
                    # A text without punctuation must not cost the square of its length.
                    starts = range(0, len(words), _LONGEST_CLAUSE)
                    clauses += [" ".join(words[i : i + _LONGEST_CLAUSE]) for i in starts]
    return [clause for clause in clauses if clause]


def _paragraphs(text: str) -> list[str]:
    """Lines joined where one goes on in the next: not at empty lines, list items and titles."""
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        words = " ".join(line.split())
        bullet = _BULLET.match(words)
        if not words or bullet or _LINE_TITLE.match(words):
            paragraphs.append([])
        paragraphs[-1].append(words[bullet.end() :] if bullet else words)
    return [" ".join(lines) for lines in paragraphs]


def _answers(sentence: str) -> list[str]:
    """A sentence whose titles are put into words: 'pneumothorax: none' is 'no pneumothorax'."""
    *titles, answer = (part.strip() for part in _COLON.split(sentence))
    if not titles:
        return [answer]
    *outer, title = titles
    if not answer or len(title.split()) > _LONGEST_TITLE:
        return [*outer, title, answer]
    named = [pattern for pattern in _NAME_PATTERNS.values() if pattern.search(title)]
    if not named:
        # 'heart: enlarged' is 'heart is enlarged'.
        joint = " is " if len(answer.split()) < 4 else " "
        return [*outer, f"{title}{joint}{answer}"]
    if any(pattern.search(answer) for pattern in named):
        return [*outer, answer]
    asked = _DOUBTS_AFTER.search(f" {answer}") or _UNCHANGED.match(answer)
    mentions = any(pattern.search(answer) for pattern in _NAME_PATTERNS.values())
    normal = _NO_ANSWER.match(answer) or (_NORMAL_ANSWER.search(answer) and not mentions)
    if normal and not asked:
        return [*outer, f"no {title}", answer]
    return [*outer, f"{title} {answer}"]


def _judge(clause: str, match: re.Match[str]) -> Mention:
    before, name, after = clause[: match.start()], match[0], clause[match.end() :]
    if _DOUBTS_AFTER.search(after) or _ASKED.search(before):
        return Mention.UNCERTAIN
    if _denied_before(before, after) or _NOT_IN_NAME.search(name) or _denied_after(after):
        return Mention.NEGATIVE
    if _doubted_before(before) or _DOUBTFUL_NAME.search(name):
        return Mention.UNCERTAIN
    return Mention.POSITIVE


def _denied_before(before: str, after: str) -> bool:
    """Whether words before a finding deny it and not something else."""
    denials = list(_DENIES_BEFORE.finditer(before))
    if not denials:
        return False
    last = denials[-1]
    between = before[last.end() :]
    if _ENDED.search(last[0]) and _PARTLY.search(before):
        return False  # 'no resolution of', 'partial resolution of'
    if _DENIAL_STOPS.search(between) or _RUN_ON.search(between):
        return False
    if any(not _ADJECTIVE.search(m[1]) for m in _AND_DESCRIBED.finditer(between)):
        return False
    # A list with 'or' is denied as a whole, up to the item behind its last 'or'.
    if _ALTERNATIVE.search(after):
        return True
    alternatives = list(_ALTERNATIVE.finditer(between))
    if alternatives:
        between = between[alternatives[-1].end() :]
    asserted = "," in between and _ASSERTED_AFTER.search(after)
    general = _GENERAL.search(between) and not after.startswith(",")
    return not (_new_finding(between) or asserted or general)


def _doubted_before(before: str) -> bool:
    """Whether words before a finding doubt it and not something else."""
    doubts = list(_DOUBTS_BEFORE.finditer(before))
    return bool(doubts) and not _new_finding(before[doubts[-1].end() :])


def _new_finding(between: str) -> bool:
    """Whether a finding is described anew after a comma: 'possible pneumonia, small effusion'."""
    return any(not _ADJECTIVE.search(m[1]) for m in _COMMA_DESCRIBED.finditer(between))


def _denied_after(after: str) -> bool:
    """Whether words after a finding deny it."""
    return bool(_DENIES_AFTER.search(after)) and not _PARTLY.search(after)


def _stronger(first: Mention, second: Mention) -> Mention:
    order = (Mention.BLANK, Mention.NEGATIVE, Mention.UNCERTAIN, Mention.POSITIVE)
    return max(first, second, key=order.index)
