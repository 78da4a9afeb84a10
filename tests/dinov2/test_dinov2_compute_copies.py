"""Parameters copied into another type, and their gradients."""

import torch

from llava_rad.dinov2.compute_copies import copies_of


def _parameters():
    generator = torch.Generator().manual_seed(0)
    names = ["encoder.layer.0.a", "encoder.layer.0.b", "encoder.layer.1.a", "norm.weight"]
    return {name: torch.randn(3, 2, generator=generator, requires_grad=True) for name in names}


def test_copies_and_gradients_are_those_of_one_conversion_each():
    parameters = _parameters()
    copies = copies_of(parameters, torch.bfloat16)
    assert copies.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert copies[name].dtype == torch.bfloat16
        assert torch.equal(copies[name], parameter.to(torch.bfloat16))

    sum((copy**2).sum() for copy in copies.values()).backward()
    for parameter in parameters.values():
        alone = parameter.detach().clone().requires_grad_()
        (alone.to(torch.bfloat16) ** 2).sum().backward()
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, alone.grad)


def test_a_copy_used_twice_gathers_both_gradients_and_an_unused_one_has_none():
    parameters = _parameters()
    copies = copies_of(parameters, torch.bfloat16)
    used = copies["encoder.layer.0.a"]
    (used.sum() + 2 * used.sum()).backward()
    assert torch.equal(parameters["encoder.layer.0.a"].grad, torch.full((3, 2), 3.0))
    assert parameters["encoder.layer.0.b"].grad is None
    assert parameters["norm.weight"].grad is None


def test_without_gradients_there_is_no_graph():
    with torch.no_grad():
        copies = copies_of(_parameters(), torch.bfloat16)
    assert not any(copy.requires_grad for copy in copies.values())
