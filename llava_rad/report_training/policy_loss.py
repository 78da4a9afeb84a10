"""The loss of learning from rewards: pure functions of tensors.

Self-critical sequence training (SCST; Rennie et al. 2017) weighs the log-probability of a sampled
text by its reward less that of the greedy text. Group relative policy optimisation (GRPO; Shao et
al. 2024) takes the mean of a group of samples in place of the greedy text, in units of the group's
standard deviation, and each sample's mean over its own tokens in place of their sum. Both use the
clipped ratio of PPO here, which is 1 in the first update that learns from some samples, and then
has the gradient of the log-probability.
"""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["scst", "grpo"]

#: Added to a group's standard deviation, as TRL does.
EPSILON = 1e-4


def scst_advantages(rewards: Tensor, greedy: Tensor) -> Tensor:
    """What each sample is better than the greedy text.

    Args:
        rewards: of the samples, [studies, samples].
        greedy: reward of each study's greedy text, [studies].

    Returns:
        [studies, samples]

    Example:
        >>> scst_advantages(torch.tensor([[1.0, 0.25]]), torch.tensor([0.5])).tolist()
        [[0.5, -0.25]]
    """
    return rewards - greedy[:, None]


def grpo_advantages(rewards: Tensor) -> Tensor:
    """What each sample is better than its group, in standard deviations of the group.

    Args:
        rewards: of the samples, [studies, samples], at least 2 samples.

    Returns:
        [studies, samples]; 0 where all samples of a study have the same reward.

    Example:
        >>> grpo_advantages(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).round(decimals=3).tolist()
        [[-0.707, 0.707], [0.0, 0.0]]
    """
    mean, deviation = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True)
    return (rewards - mean) / (deviation + EPSILON)


def token_shares(mask: Tensor, method: Method, samples: int, longest: int) -> Tensor:
    """How much each token counts in the loss of a step.

    With GRPO each sample counts the same, whatever its length. With SCST each token does: a sample
    counts by the sum over its tokens, in units of the longest text.

    Args:
        mask: [rows, tokens], true where a token was sampled.
        method: of learning.
        samples: of the whole step, in all its forward passes and processes.
        longest: tokens that a text may have.

    Returns:
        [rows, tokens], 0 outside the mask.
    """
    tokens = mask.sum(dim=1, keepdim=True).clamp_min(1) if method == "grpo" else longest
    return mask / (samples * tokens)


def policy_losses(
    logs: Tensor,
    before: Tensor,
    advantages: Tensor,
    *,
    clip_ratio: float,
    start: Tensor | None = None,
    kl: float = 0.0,
) -> Tensor:
    """The loss of each sampled token.

    Args:
        logs: logarithms of the tokens' probabilities, [rows, tokens].
        before: the same of the policy that sampled them, without a gradient.
        advantages: of the rows, [rows].
        clip_ratio: how far the ratio of new and old probability may lie from 1 and still count.
        start: the same of the policy that training started from; needed where ``kl`` is above 0.
        kl: weight of the distance from the start.

    Returns:
        [rows, tokens]

    Example:
        >>> logs = torch.zeros(1, 2)
        >>> policy_losses(logs, logs, torch.tensor([0.5]), clip_ratio=0.2).tolist()
        [[-0.5, -0.5]]
    """
    ratio = (logs - before).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    advantage = advantages[:, None]
    losses = -torch.minimum(ratio * advantage, clipped * advantage)
    if start is not None and kl:
        losses = losses + kl * kl_to_start(logs, start)
    return losses


def kl_to_start(logs: Tensor, start: Tensor) -> Tensor:
    """Schulman's estimate, from sampled tokens, of the distance from the start policy.

    It is never negative, and its mean over tokens of the policy is the Kullback-Leibler divergence.

    Args:
        logs: logarithms of the tokens' probabilities, of any shape.
        start: the same of the policy that training started from.
    """
    less = start - logs
    return less.exp() - less - 1
