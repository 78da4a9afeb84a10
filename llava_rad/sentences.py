"""Where the sentences of a report are."""

import re

#: The white space between two sentences; that after titles and hours is none.
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bMrs\.)(?<!\bvs\.)(?<!\ba\.m\.)(?<!\bp\.m\.)"
    r"\s+(?=[A-Z(])"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """First character and end of each sentence, in order; a new line begins a new one.

    Example:
        >>> from llava_rad.sentences import sentence_spans
        >>> text = "Lungs are clear. Heart is normal."
        >>> [text[start:end] for start, end in sentence_spans(text)]
        ['Lungs are clear.', 'Heart is normal.']
    """
    spans = []
    for line in re.finditer(r"[^\n]+", text):
        ends = [found.span() for found in SENTENCE_END.finditer(text, *line.span())]
        starts = [line.start(), *(end for _, end in ends)]
        for start, end in zip(starts, [*(begin for begin, _ in ends), line.end()], strict=True):
            words = text[start:end]
            if words.strip():
                first = start + len(words) - len(words.lstrip())
                spans.append((first, start + len(words.rstrip())))
    return spans
