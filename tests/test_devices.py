"""Devices and number formats by name."""

import pytest
import torch

import llava_rad
from llava_rad.devices import pick_device, pick_dtype
from llava_rad.errors import ConfigError


@pytest.mark.parametrize(
    ("there", "best"),
    [({"cuda", "xpu", "mps"}, "cuda"), ({"xpu", "mps"}, "xpu"), ({"mps"}, "mps"), (set(), "cpu")],
)
def test_auto_is_the_best_that_is_there(monkeypatch, there, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert pick_device("auto") == torch.device(best)


def test_a_device_that_is_not_there_is_one_clear_error():
    for name in ("cuda:99", "warp-drive"):
        with pytest.raises(ConfigError, match="llava-rad doctor"):
            llava_rad.load("mini", device=name)
        with pytest.raises(ConfigError, match=name):
            llava_rad.load_encoder("mini", device=name)
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


def test_auto_is_a_short_format_where_it_is_fast():
    formats = {device: pick_dtype("auto", device) for device in ("cuda:1", "xpu", "mps", "cpu")}
    assert list(formats.values()) == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert pick_dtype("float16") is pick_dtype(torch.float16) is torch.float16
    with pytest.raises(ConfigError, match="bfloat16"):
        pick_dtype("int4")
