"""Pieces of a text that is being written, joined, are the text."""

import asyncio
from types import SimpleNamespace

import pytest

from llava_rad.serve.report_text import GrowingText


def pieces_of(steps, findings, stops=("</s>",)):
    """Pieces where the tokens decode to these texts one after the other."""
    model = SimpleNamespace(
        processor=SimpleNamespace(
            decode=lambda ids, ends: steps[len(ids) - 1].split(*stops)[0].strip(),
            template=SimpleNamespace(stop_texts=stops),
        ),
        end_ids=set(),
    )

    async def run():
        text = GrowingText(model)
        for number in range(len(steps)):
            text.follow([0] * (number + 1))
        text.end(findings)
        await asyncio.sleep(0)
        text.close()
        found = []
        while (piece := await text.piece()) is not None:
            found.append(piece)
        return found

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("steps", "findings", "stops"),
    [
        (["The", "The lungs ", "The lungs are"], "The lungs are", ("</s>",)),
        (["4 \ufffd", "4 µ", "4 µm"], "4 µm", ("</s>",)),
        (["Clear.", "Clear.\n#", "Clear.\n##", "Clear.\n## x"], "Clear.", ("\n## ",)),
        (["a <", "a < b"], "a < b", ("<|end|>",)),
        ([""], "", ("</s>",)),
        (["  x"], "x", ("</s>",)),
        (["<ob", "<obj>A", "<obj>A.<box><x1", "<obj>A.<box></obj><obj>B"], "A. B", ("</s>",)),
    ],
)
def test_pieces_joined_are_the_findings(steps, findings, stops):
    assert "".join(pieces_of(steps, findings, stops)) == findings


def test_what_is_sure_comes_at_once():
    assert pieces_of(["The", "The lungs"], "The lungs are") == ["The", " lungs", " are"]
