"""Which sentences of a case note describe the radiograph.

Notes of teaching collections mix history, image description, other examinations and teaching
remarks. The rule, in order:

1. Where a note has an "Imaging notes:" part, only that part is searched.
2. Pointers into a figure ("(arrow)", "(Fig. 1)") and what introduces a description ("Chest X-ray
   on admission showed ...") are removed.
3. A sentence is kept when it names something that is seen on a radiograph (``_SEEN``) and nothing
   that cannot come from it (``_NOT_SEEN``): history, symptoms, laboratory values, treatment and
   outcome, CT and other examinations, general statements about a disease. What follows a
   sentence that says that a CT was performed describes the CT and is dropped.

What is left are the note's own words.
"""

import re

_SEEN = """
opacit*, opacif*, consolidat*, infiltrat*, ground-glass, ground glass, haz*, airspace, air space,
air-space, bronchogram*, interstitial, reticul*, nodul*, mass, cavit*, cysts, cystic, pneumatoc*,
effusion*, pneumothora*, pneumomediastinum, emphysema, cardiomegaly, cardiac, cardiomediastinal,
heart, mediastin*, hilar, hilum, perihilar, peri-hilar, atelecta*, collapse, fissure,
hemidiaphragm, diaphragm, costophrenic, silhouette, pleura*, lung, lungs, lobe, lobes, edema,
oedema, shadow*, endotracheal, ett, tracheal, ng, ngt, nasogastric, na-sogastric, og, cvl, cvc,
central line*, venous, catheter*, lines, tube, tubes, vascath, pacemaker, sternotomy, clips,
prosthesis, intubated, extubated, bronchial, vessels, markings, pattern, zone, zones, normal,
unremarkable, adenopath*, lymphadenopath*, hernia, chilaiditi, fracture*, bone, densit*,
pneumonia, radiological, condensation, significant findings, limits of the norm, abscess
"""

_NOT_SEEN = """
http*, www*, ct, hrct, computed, tomogra*, mri, bronchoscop*, biops*, histolog*, microscop*,
cultur*, pcr, rt-pcr, swab*, antigen*, serolog*, rna, tested, testing, laborator*, blood,
hematolog*, haematolog*, lymphopeni*, leukocyt*, leucocyt*, neutro*, eosinophili*, crp,
c-reactive, white cell*, urinary, inflammatory marker*, inflamatory maker*, cd4, hiv, cdc,
viral load*, viral suppression, fever*, febrile, pyrexi*, cough*, dyspn*, breath*, sputum,
sore throat, myalg*, malaise, fatigue, headache, nausea, vomit*, diarrh*, haemoptysis, hemoptysis,
odynophag*, chest pain, lethargy, crackles, crepitations, saturation*, spo2, hypox*, oxygen,
ventilation mask, respiratory failure, respiratory symptoms, tachypn*, sepsis, history, pmh,
background, year-old, years old, year old, smok*, travel*, contact, husband, diagnosed with,
diagnosis, admitted, discharge*, died, passed away, postmortem, treated, therap*, antibiotic*,
steroid*, recover*, quarantine, mechanical*, intensive care, icu, multi-organ*, suspicion,
suspected, differential, typical case, classical, classic appearance, considered, correlation,
nonspecific, non-specific, should, usually, commonly, often, sometimes, untreated, likely to,
infection, infections, clinical*, physical exam*, surgery, asthma, diabet*, hypertension, patient,
patients, this case, symptom*, illness, illnesses, co-infection, prophyla*, carcinoma, metasta*,
may progress, further assessed, months after, month after, no further, possibility, differs,
explain, serial, the previous x-ray, specimen, autopsy, elderly, reported no, days earlier,
the lateral image, bowel, examination, attempts, emergently, misinterpreted, disease has,
over the months
"""

# "Examination within the limits of the norm" and the like say that the image is normal.
_NORMAL_STUDY = re.compile(
    r"^(?:normal (?:examination|appearances?|study)|examination within the limits of the norm"
    r"|no significant findings(?: reported)?|normal)$",
    re.IGNORECASE,
)

# Starts of the parts that structured notes have.
_PART = re.compile(r"\b(presentation|imaging notes?|(?:case )?discussion|impression)\s*:", re.I)

_SENTENCE_END = re.compile(r"(?<=\.)\s+(?=\(?[A-Z]|there\b)|(?<=[a-z]\.)(?=[A-Z][a-z])")

_INTRODUCTION = re.compile(
    r"""^.{0,140}?\b(?:x[-\s]?rays?|radiographs?|radiography|cxr|film)\b[^.:;]{0,90}?
        (?:\b(?:show|demonstrat|reveal|depict|document|obtained\s[^.]*\sshow)\w*
           (?:\sonly)?(?:\sthe\spresence\sof)?\s
         | \bsuggestive\sof\s | \bwith\s(?=an?\s) | :\s?)""",
    re.IGNORECASE | re.VERBOSE,
)
_POINTER = re.compile(
    r"\s*\((?:(?:red |green )?(?:arrow(?:head)?s?|line)(?: pointing)?(?: in [AB])?|asterisk"
    r"|fig(?:ure)?\.?\s*\d+|not shown|\+(?: in [AB])?)\)",
    re.IGNORECASE,
)
# What the introduction may not hold: a negation belongs to the description, and some images that
# a note speaks of are not the one at hand.
_NEGATION = re.compile(r"\b(?:not|no|without|never)\b", re.IGNORECASE)
_OTHER_IMAGE = re.compile(r"\b(?:post-?mortem|repeat|ct|computed tomography)\b", re.IGNORECASE)
# From here on a note describes the CT.
_CT = re.compile(r"\bct\b", re.IGNORECASE)
_PERFORMED = re.compile(r"\bperformed\b", re.IGNORECASE)

# Characters that a lossy conversion left behind, such as "?ground-glass opacities?".
_LOST_CHARACTER = re.compile(r"�|(?<!\w)\?(?=\w)|(?<=opacities)\?")


def _phrases(words: str) -> re.Pattern[str]:
    """A pattern of whole words and phrases; a final ``*`` stands for any ending."""
    phrases = [" ".join(phrase.split()) for phrase in words.split(",")]
    patterns = [
        re.escape(phrase.rstrip("*")) + (r"\w*" if phrase.endswith("*") else "")
        for phrase in phrases
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", re.IGNORECASE)


_SEEN_PATTERN = _phrases(_SEEN)
_NOT_SEEN_PATTERN = _phrases(_NOT_SEEN)


def image_sentences(note: str) -> str | None:
    """The sentences of a case note that describe the radiograph, or None if there are none."""
    kept: dict[str, None] = {}  # in order, each once
    for sentence in _SENTENCE_END.split(_imaging_part(_LOST_CHARACTER.sub(" ", note))):
        if _ct_follows(sentence):
            break
        described = _described(sentence)
        if described:
            kept[described] = None
    return " ".join(kept) or None


def _ct_follows(sentence: str) -> bool:
    """Whether "CT ... performed" stands in a sentence, with no full stop between."""
    for part in sentence.split("."):
        ct = _CT.search(part)
        if ct is not None and _PERFORMED.search(part, ct.end()):
            return True
    return False


def _imaging_part(text: str) -> str:
    starts = list(_PART.finditer(text))
    for place, match in enumerate(starts):
        if match[1].lower().startswith("imaging note"):
            end = starts[place + 1].start() if place + 1 < len(starts) else len(text)
            return text[match.end() : end]
    return text


def _described(sentence: str) -> str:
    text = _POINTER.sub("", " ".join(sentence.split())).strip(" .,;")
    introduction = _INTRODUCTION.match(text)
    if introduction and _OTHER_IMAGE.search(introduction[0]):
        return ""
    if introduction and not _NEGATION.search(introduction[0]):
        text = text[introduction.end() :]
    if not text:
        return ""
    if not _NORMAL_STUDY.match(text) and (
        _NOT_SEEN_PATTERN.search(text) or not _SEEN_PATTERN.search(text)
    ):
        return ""
    return text[0].upper() + text[1:] + "."
