"""One process holds a model's values; the others get them, shared tensors shared, wherever."""

import pytest
import torch
import torch.distributed as dist
from helpers.processes import in_processes
from torch import nn

from llava_rad.errors import TrainingError
from llava_rad.runs.receiving import receive


class Tied(nn.Module):
    """Two names of one parameter, a buffer that is not saved, a part that stays out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4, dtype=torch.bfloat16)
        self.head = nn.Linear(4, 5, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.table.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("angles", torch.rand(3), persistent=False)
        self.outside = nn.Linear(2, 2)


def make(seed):
    torch.manual_seed(seed)
    return Tied()


def received():
    rank = dist.get_rank()
    model = make(0)
    if rank > 0:
        outside = make(1).outside
        model.to("meta")
        model.outside = outside
    receive(model, torch.device("cpu"), leave=[model.outside])
    return {
        "values": {**model.state_dict(), "angles": model.angles},
        "tied": model.head.weight is model.table.weight,
        "trained": [p.requires_grad for p in model.parameters()],
        "devices": {str(t.device) for t in (*model.parameters(), *model.buffers())},
    }


def test_all_have_what_the_main_process_has():
    main, other = in_processes(2, received)
    expected = make(0)
    for found in (main, other):
        assert found["tied"]
        assert found["devices"] == {"cpu"}
        assert found["trained"] == [p.requires_grad for p in expected.parameters()]
        for name, value in {**expected.state_dict(), "angles": expected.angles}.items():
            if not name.startswith("outside"):
                assert torch.equal(found["values"][name], value), name
    assert torch.equal(other["values"]["outside.weight"], make(1).outside.weight)


def test_a_tensor_beside_parameters_and_buffers_is_refused():
    module = nn.Linear(2, 2, device="meta")
    module.scale = torch.ones(2, device="meta")
    with pytest.raises(TrainingError, match="Linear keeps scale beside its parameters"):
        receive(module, torch.device("cpu"))
