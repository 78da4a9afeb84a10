"""The loss of learning from rewards: by hand, and beside TRL's on the same tokens."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from llava_rad.kernels.token_loss import token_losses
from llava_rad.report_training.policy_loss import (
    grpo_advantages,
    kl_to_start,
    policy_losses,
    scst_advantages,
    token_shares,
)

CLIP, KL, LONGEST = 0.2, 0.04, 7


def test_scst_compares_with_the_greedy_text():
    rewards, greedy = torch.tensor([[0.5, 0.1], [0.3, 0.3]]), torch.tensor([0.2, 0.3])
    expected = torch.tensor([[0.3, -0.1], [0.0, 0.0]])
    assert torch.allclose(scst_advantages(rewards, greedy), expected)


def test_grpo_compares_with_the_group_in_its_standard_deviations():
    found = grpo_advantages(torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0, 4.0, 4.0, 4.0]]))
    deviation = math.sqrt((4 + 1 + 0 + 9) / 3) + 1e-4
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / deviation
    assert torch.allclose(found[0], expected)
    assert found[1].tolist() == [0, 0, 0, 0]


def test_the_first_update_has_the_gradient_of_self_critical_training():
    """Rennie et al. 2017, equation 9: advantage times (probability less one hot), over a text."""
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[1, 4, 0], [2, 0, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    advantages = torch.tensor([0.7, -0.2], dtype=torch.float64)
    logs = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    losses = policy_losses(logs, logs.detach(), advantages, clip_ratio=CLIP)
    (losses * token_shares(mask, "scst", samples=2, longest=LONGEST)).sum().backward()
    one_hot = torch.nn.functional.one_hot(tokens, 5)
    expected = advantages[:, None, None] * (logits.detach().softmax(-1) - one_hot)
    assert torch.allclose(logits.grad, expected * mask[..., None] / (2 * LONGEST))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 1.5])
def test_a_ratio_counts_only_while_it_is_near_one_or_would_come_back(advantage, ratio):
    logs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    losses = policy_losses(logs, torch.zeros(1, 1), torch.tensor([advantage]), clip_ratio=CLIP)
    losses.sum().backward()
    clipped = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    edge = min(max(ratio, 0.8), 1.2)
    assert losses.item() == pytest.approx(-advantage * (edge if clipped else ratio))
    assert logs.grad.item() == pytest.approx(0.0 if clipped else -advantage * ratio)


def test_the_distance_from_the_start_is_the_divergence_on_average():
    """Over all tokens of a policy, weighed by their probability, it is Kullback and Leibler's."""
    policy, start = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    estimate = kl_to_start(policy, start)
    assert estimate.min() >= 0
    expected = (policy.exp() * (policy - start)).sum()
    assert (policy.exp() * estimate).sum().item() == pytest.approx(expected.item())
    assert kl_to_start(policy, policy).abs().max() == 0


def test_each_sample_counts_the_same_with_grpo_and_each_token_with_scst():
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    grpo = token_shares(mask, "grpo", samples=4, longest=LONGEST)
    assert grpo.sum(dim=1).tolist() == [0.25, 0.25]
    assert torch.allclose(grpo[0], torch.full((4,), 1 / 16))
    scst = token_shares(mask, "scst", samples=4, longest=LONGEST)
    assert torch.allclose(scst, mask / (4 * LONGEST))


@pytest.mark.parametrize(("method", "loss_type"), [("grpo", "grpo"), ("scst", "dr_grpo")])
@pytest.mark.parametrize("kl", [0.0, KL])
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_loss_and_gradient_are_those_of_trl(method, loss_type, kl, drift):
    """TRL's own function on the same tokens; a drift stands for a second update."""
    pytest.importorskip("trl")
    from trl import GRPOTrainer

    generator = torch.Generator().manual_seed(0)
    rows, length, vocabulary = 6, 5, 11
    values = torch.randn(rows, length, vocabulary, generator=generator)
    tokens = torch.randint(vocabulary, (rows, length), generator=generator)
    ends = torch.tensor([5, 1, 3, 4, 2, 5])
    mask = torch.arange(length) < ends[:, None]
    before = token_logs(values, tokens).detach() + drift * torch.randn(
        rows, length, generator=generator
    )
    start = before + 0.3 * torch.randn(rows, length, generator=generator)
    advantages = grpo_advantages(torch.rand(2, 3, generator=generator)).flatten()

    theirs = values.clone().requires_grad_()
    accelerator = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            token_logs(theirs, tokens),
            torch.zeros(rows, length),
            None,
        ),
        accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        beta=kl,
        current_gradient_accumulation_steps=1,
        epsilon_high=CLIP,
        epsilon_low=CLIP,
        importance_sampling_level="token",
        loss_type=loss_type,
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    expected = GRPOTrainer._compute_loss(
        trainer,
        None,
        {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
            "completion_ids": tokens,
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": before,
            "ref_per_token_logps": start,
        },
    )
    expected.backward()

    own = values.clone().requires_grad_()
    wanted = tokens.masked_fill(~mask, -100)
    logs = -token_losses(own.flatten(0, 1), wanted.flatten(), -100).view(rows, length)
    losses = policy_losses(logs, before, advantages, clip_ratio=CLIP, start=start, kl=kl)
    loss = (losses * token_shares(mask, method, samples=rows, longest=LONGEST)).sum()
    loss.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(own.grad, theirs.grad, atol=1e-7)


def token_logs(logits, tokens):
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
