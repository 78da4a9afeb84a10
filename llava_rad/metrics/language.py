"""Whether a report is in English, by words that tell, also in telegraphic style."""

import re
from collections.abc import Sequence

# fmt: off
# Words of English reports that other languages of reports do not have.
_ENGLISH = frozenset([
    # Small words.
    "the", "is", "are", "was", "were", "be", "been", "has", "have", "of", "and", "with", "within",
    "without", "there", "this", "in", "for", "from", "not", "to", "or", "by", "at", "on", "which",
    "but", "than", "may", "could", "if", "again", "both", "other", "since", "over",
    # Places.
    "right", "left", "upper", "lower", "mid", "middle", "sided", "lung", "lungs", "heart", "chest",
    "rib", "ribs", "bone", "bones", "bony", "spine", "thoracic", "airspace", "air", "airway",
    "space", "spaces", "aortic", "bibasilar", "perihilar", "retrocardiac", "osseous", "skeletal",
    "cardiopulmonary", "pulmonary", "interstitial", "costophrenic", "mediastinum", "hilum", "hila",
    "diaphragm", "hemidiaphragm", "hemithorax", "diaphragms", "hemidiaphragms", "subcutaneous",
    # What is seen.
    "effusion", "effusions", "opacified", "disease", "edematous", "infiltrates",
    "atelectatic", "pneumothoraces", "scarring", "scar", "scars", "thickening", "blunting",
    "blunted", "enlargement", "mass", "masses", "calcified", "calcifications", "granulomas",
    "granulomatous", "degenerative", "vasculature", "markings", "crowding", "shadow", "shadowing",
    "swelling", "bleeding", "collapse", "collapsed", "findings", "finding", "process", "volumes",
    "volume", "size", "limits", "change", "changes", "evidence", "cardiac",
    # How it is seen.
    "acute", "clear", "unremarkable", "unchanged", "mild", "moderate", "small", "large",
    "tiny", "enlarged", "abnormal", "prominent", "tortuous", "elevated", "expanded", "inflated",
    "hyperinflated", "hyperexpanded", "increased", "decreased", "improved", "improving",
    "worsened", "worsening", "resolved", "resolving", "interval", "healed", "healing", "old",
    "new", "prior", "previous", "persistent", "patchy", "streaky", "hazy", "scattered",
    "displaced", "seen", "noted", "identified", "visualized", "visualised", "visible", "suspicious",
    "suggest", "suggests", "suggesting", "likely", "versus", "limited", "rotated", "underlying",
    "overlying", "otherwise", "low", "high", "free", "negative", "active", "severe", "minimal",
    "basilar", "chronic", "definite", "appear", "appears", "intact", "present",
    "overt", "significant", "measuring", "critical", "status", "post", "view", "views", "as",
    "surgery", "soft", "tissue", "above", "before", "below",
    # Devices.
    "tube", "tubes", "line", "lines", "tip", "wires", "clips", "leads", "lead", "pacemaker",
    "catheter", "sternotomy", "hardware", "device", "devices",
])
# Words that English shares with Spanish or Portuguese, and words it shares with French or German:
# no language has one of each but English.
_AS_IN_SPANISH = frozenset([
    "no", "bilateral", "hilar", "vascular", "edema", "residual",
])
_AS_IN_FRENCH = frozenset([
    "pneumothorax", "consolidation", "consolidations", "congestion", "nodule", "nodules",
    "fracture", "fractures", "silhouette", "contour", "contours", "lobe", "fissure", "fissures",
    "base", "bases", "lesions", "atelectases", "emphysema", "hydropneumothorax", "hyperinflation",
    "stable", "infiltrate",
])
# Small words of other languages.
_OTHER = frozenset([
    "el", "la", "los", "las", "un", "una", "con", "sin", "del", "que", "por", "para", "y", "se",
    "le", "les", "des", "du", "et", "pas", "sans", "une", "est", "avec", "aux", "ou", "de",
    "der", "das", "und", "mit", "ohne", "ist", "sind", "nicht", "kein", "keine", "im", "beidseits",
    "het", "een", "van", "niet", "geen", "de", "zijn", "met", "naar", "rechter", "linker",
    "da", "dos", "das", "não", "na", "em", "sem", "com", "e", "il", "lo", "di", "della", "non",
    "nie", "bez", "w", "z", "jest", "og", "ikke", "och", "inte", "nu", "si", "cu",
])
# fmt: on
_ENGLISH_ENDING = re.compile(
    r"(?:..ity|ities|iness|megaly|otomy|ectomy|pathy|graphy|plasty"
    r"|ally|ately|ently|ightly|ildly|edly|ably|ously)$"
)
_FEWEST_WORDS = 4
_LAST_LATIN_LETTER = "\u024f"


def is_english(languages: Sequence[str]) -> bool:
    """Whether language codes such as ``en-US`` are all English, as they are where none is given."""
    return all(language.lower().startswith("en") for language in languages)


def foreign(texts: Sequence[str]) -> int:
    """How many texts do not read as English.

    A text of four words or more does not where no word tells that it is English, or where more
    words tell of another language; neither does one in another script, of whatever length.
    """
    return sum(map(_is_foreign, texts))


def _is_foreign(text: str) -> bool:
    words = re.findall(r"[^\W\d_]+", text.lower())
    letters = "".join(words)
    if 2 * sum(letter > _LAST_LATIN_LETTER for letter in letters) > len(letters):
        return True
    if len(words) < _FEWEST_WORDS:
        return False
    english = sum(word in _ENGLISH or bool(_ENGLISH_ENDING.search(word)) for word in words)
    shared = not _AS_IN_SPANISH.isdisjoint(words) and not _AS_IN_FRENCH.isdisjoint(words)
    other = sum(word in _OTHER or not word.isascii() for word in words)
    return english + shared == 0 or other > english + shared
