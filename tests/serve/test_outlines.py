"""Outlines of organs, from a head that tells left from right."""

import io
import json

import numpy as np
import pytest
import torch
from helpers.live_server import live_server
from helpers.tiny_models import build, byte_level_tokenizer
from PIL import Image

from llava_rad.model.encoder_heads import EncoderHeads
from llava_rad.outlines import SegmentationHead
from llava_rad.serve.organ_outlines import colours_of, outline_picture


@pytest.fixture(scope="module")
def outlining():
    """A model whose head calls every patch one of two organs, whatever it shows."""
    model = build(byte_level_tokenizer(), name="outlining")
    model.folder_hash = "0" * 64
    head = SegmentationHead("linear", ("left_lung", "heart"), model.config.encoder.dim)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.zero_()
            if name.endswith("bias"):
                parameter += torch.tensor([9.0, -9.0])
    model.heads = EncoderHeads(segmentation=head)
    with live_server([model]) as server:
        yield server


def test_a_line_runs_inside_the_border_of_each_mask():
    mask = np.zeros((90, 120), dtype=bool)
    mask[20:60, 30:80] = True
    masks = {"left_lung": mask, "heart": ~mask}
    drawn = np.asarray(Image.open(io.BytesIO(outline_picture(masks, 2048))))
    assert drawn.shape == (90, 120, 4)
    assert drawn[40, 50, 3] == drawn[75, 60, 3] == 0  # inside the one and the other
    red, green, blue = (int(colours_of(masks)["left_lung"][i : i + 2], 16) for i in (1, 3, 5))
    assert drawn[20, 50].tolist() == drawn[40, 30].tolist() == [red, green, blue, 255]
    assert drawn[19, 50, 3] == 255 and drawn[19, 50, :3].tolist() != [red, green, blue]
    small = Image.open(io.BytesIO(outline_picture(masks, 60)))
    assert small.size == (60, 45)
    assert len(set(colours_of(masks).values())) == 2


def test_outlines_lie_over_the_preview(outlining, chest):
    assert outlining.http.get("/v1/models").json()["data"][0]["outlines"] == ["left_lung", "heart"]
    answer = outlining.post("/v1/outlines", [chest], size="64")
    assert answer.status_code == 200, answer.text
    colours = json.loads(answer.headers["X-Outlines"])
    assert list(colours) == ["left_lung", "heart"]
    drawn = Image.open(io.BytesIO(answer.content))
    preview = Image.open(io.BytesIO(outlining.post("/v1/preview", [chest], size="64").content))
    assert drawn.mode == "RGBA" and drawn.size == preview.size
    found = {"#{:02x}{:02x}{:02x}".format(*p[:3]) for _, p in drawn.getcolors() if p[3]}
    assert found <= {colours["left_lung"]}  # no patch is the heart


def test_a_model_without_a_head_says_so(live, chest):
    assert live.http.get("/v1/models").json()["data"][0]["outlines"] == []
    answer = live.post("/v1/outlines", [chest])
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_outlines"
    assert live.post("/v1/outlines", [chest, chest]).status_code == 400
