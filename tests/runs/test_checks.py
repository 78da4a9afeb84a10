"""What steps left on the device is read together."""

import torch
from helpers.one_process import OneProcess

from llava_rad.runs.checks import UnreadSteps


class OnDevice(OneProcess):
    """One of two; keeps what is asked of the device, which itself (meta) has no values to give."""

    num_processes = 2

    def __init__(self):
        super().__init__()
        self.asked = []

    def reduce(self, tensor, how):
        assert how == "mean"
        self.asked.append((tensor.device.type, tuple(tensor.shape)))
        return torch.arange(tensor.numel()).view(tensor.shape)


def test_the_figures_of_an_interval_come_from_the_device_in_one_piece():
    accelerator = OnDevice()
    unread = UnreadSteps(accelerator, "Stop")
    for step in range(5):
        figures = {name: torch.zeros((), device="meta") for name in ("loss", "gradient")}
        unread.add(step, figures, [torch.zeros((), device="meta")], [["s"]])
    assert accelerator.asked == []
    assert unread.read() == [{"loss": 2.0 * i, "gradient": 2.0 * i + 1} for i in range(5)]
    assert accelerator.asked == [("meta", (5, 2))]
    assert unread.read() == []
    assert len(accelerator.asked) == 1
