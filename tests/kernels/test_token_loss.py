"""The loss against torch's cross-entropy."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from torch.nn.functional import cross_entropy

from llava_rad.kernels import token_loss as loss_file
from llava_rad.kernels.token_loss import token_loss, token_losses


def run(function, logits, targets):
    leaf = logits.clone().requires_grad_()
    loss = function(leaf, targets)
    (3 * loss).backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("block", [1, 500, 2**18])
def test_loss_and_gradient_are_those_of_torch(monkeypatch, block):
    monkeypatch.setattr(loss_file, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(37, 101, generator=generator)
    targets = torch.randint(0, 101, (37,), generator=generator)
    targets[[0, 5, 36]] = -100
    own = run(lambda x, y: token_loss(x, y, -100), logits, targets)
    for found, expected in zip(own, run(cross_entropy, logits, targets), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_each_token_has_its_own_loss_and_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 11, generator=generator)
    targets = torch.randint(0, 11, (9,), generator=generator)
    targets[4] = -100
    weights = torch.randn(9, generator=generator)
    own = run(lambda x, y: (weights * token_losses(x, y, -100)).sum(), logits, targets)
    theirs = run(
        lambda x, y: (weights * cross_entropy(x, y, reduction="none")).sum(), logits, targets
    )
    for found, expected in zip(own, theirs, strict=True):
        torch.testing.assert_close(found, expected)
    assert token_losses(logits, targets, -100)[4] == 0


def test_bfloat16_logits_give_the_float32_loss_of_the_same_numbers():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 101, generator=generator).bfloat16()
    targets = torch.randint(0, 101, (37,), generator=generator)
    loss, gradient = run(lambda x, y: token_loss(x, y, -100), logits, targets)
    expected, exact = run(lambda x, y: cross_entropy(x.float(), y), logits, targets)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, exact)


def test_the_logits_are_kept_as_they_are():
    logits = torch.randn(37, 101).bfloat16().requires_grad_()
    with kept_for_backward() as tensors:
        token_loss(logits, torch.arange(37), -100)
    kept = storage_bytes(tensors)
    assert kept.pop(logits.untyped_storage().data_ptr())
    # a target, whether it counts, a weight and a norm for each token
    assert sum(kept.values()) == 37 * (8 + 1 + 4 + 4)
