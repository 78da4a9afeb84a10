"""Devices and number formats by name."""

import pytest
import torch

import llava_rad
from llava_rad.cli.common import say_precision
from llava_rad.devices import pick_device, pick_devices, pick_dtype
from llava_rad.errors import ConfigError


@pytest.mark.parametrize(
    ("there", "best"),
    [({"cuda", "xpu", "mps"}, "cuda"), ({"xpu", "mps"}, "xpu"), ({"mps"}, "mps"), (set(), "cpu")],
)
def test_auto_is_the_best_that_is_there(monkeypatch, there, best):
    pretend(monkeypatch, there)
    assert pick_device("auto") == torch.device(best)


def pretend(monkeypatch, there, count=1):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    for kind in ("cuda", "xpu", "mps"):
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "device_count", lambda k=kind: count if k in there else 0)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_processes_are_spread_over_the_accelerators(monkeypatch, kind):
    pretend(monkeypatch, {kind}, count=3)
    all_of_them = [f"{kind}:0", f"{kind}:1", f"{kind}:2"]
    assert pick_devices("auto", None, most=9) == all_of_them
    assert pick_devices(kind, None, most=9) == all_of_them
    assert pick_devices("auto", 4, most=9) == [*all_of_them, f"{kind}:0"]
    assert pick_devices("auto", None, most=2) == all_of_them[:2]  # there is no more work
    assert pick_devices("auto", None, most=1) == ["auto"]
    assert pick_devices(f"{kind}:1", 2, most=9) == [f"{kind}:1"] * 2
    assert pick_devices("cpu", None, most=9) == ["cpu"]


@pytest.mark.parametrize(("there", "kind"), [({"mps"}, "mps"), (set(), "cpu")])
def test_where_there_is_one_device_processes_share_it_if_they_are_asked_for(
    monkeypatch, there, kind
):
    pretend(monkeypatch, there)
    assert pick_devices("auto", None, most=9) == ["auto"]
    assert pick_devices("auto", 2, most=9) == [kind] * 2
    assert pick_devices("warp-drive", 2, most=9) == ["warp-drive"] * 2  # refused by each of them


def test_a_device_that_is_not_there_is_one_clear_error():
    for name in ("cuda:99", "warp-drive"):
        with pytest.raises(ConfigError, match="llava-rad doctor"):
            llava_rad.load("mini", device=name)
        with pytest.raises(ConfigError, match=name):
            llava_rad.load_encoder("mini", device=name)
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


def pretend_cpu(monkeypatch, **units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)


def test_auto_is_a_short_format_where_it_is_fast(monkeypatch):
    pretend_cpu(monkeypatch, avx2=True, amx_bf16=False)
    formats = {device: pick_dtype("auto", device) for device in ("cuda:1", "xpu", "mps", "cpu")}
    assert list(formats.values()) == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert pick_dtype("float16") is pick_dtype(torch.float16) is torch.float16
    with pytest.raises(ConfigError, match="bfloat16"):
        pick_dtype("int4")


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_with_units_for_bfloat16_uses_them_and_says_so(monkeypatch, capsys, unit):
    pretend_cpu(monkeypatch, **{unit: True})
    pretend(monkeypatch, set())
    for limit in ("DEFAULT", "avx512_core_amx", "AVX512_CORE_BF16"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert pick_dtype("auto", "cpu") is torch.bfloat16
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert pick_dtype("auto", "cpu") is torch.float32
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert pick_dtype("auto", "cpu") is torch.bfloat16
    assert pick_dtype("float32", "cpu") is torch.float32
    say_precision("auto", "torch.bfloat16, not quantised", "auto")
    assert "--dtype float32" in capsys.readouterr().err
    say_precision("bfloat16", "torch.bfloat16, not quantised", "cpu")  # as was asked
    say_precision("auto", "torch.float32, not quantised", "cpu")
    pretend(monkeypatch, {"cuda"})
    say_precision("auto", "torch.bfloat16, not quantised", "auto")
    assert not capsys.readouterr().err
