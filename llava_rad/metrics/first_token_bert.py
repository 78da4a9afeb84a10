"""BERT's vector of the first token, of many texts at once, and nothing that it does not need.

The texts of a batch lie end to end without padding, texts of one length attend together, and of
the last layer only the first token of each text is computed: the same numbers as transformers'
``BertModel`` gives, to rounding, for less work.
"""

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import BertModel


class FirstTokenBert(nn.Module):
    """The encoder of a ``BertModel``, whose weights it shares but for the joined projections.

    Args:
        bert: in evaluation mode, with BERT's own activation (GELU).
    """

    def __init__(self, bert: "BertModel") -> None:
        super().__init__()
        self.heads = bert.config.num_attention_heads
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(_Layer(layer, self.heads) for layer in bert.encoder.layer)

    def forward(self, texts: list[list[int]]) -> Tensor:
        """First-token vectors [texts, dim] of texts' word pieces, ``[CLS]`` and ``[SEP]`` included.

        Texts of one length are best given beside each other: they attend in one product.
        """
        device = self.embeddings.word_embeddings.weight.device
        lengths = [len(text) for text in texts]
        pieces = torch.tensor([piece for text in texts for piece in text], device=device)
        places = torch.cat([torch.arange(length, device=device) for length in lengths])
        hidden: Tensor = self.embeddings(pieces[None], position_ids=places[None])[0]
        runs = [(length, len([*same])) for length, same in groupby(lengths)]
        for layer in self.layers[:-1]:
            hidden = layer(hidden, runs)
        first = torch.tensor(lengths, device=device).cumsum(0) - torch.tensor(
            lengths, device=device
        )
        last: Tensor = self.layers[-1](hidden, runs, first)
        return last


class _Layer(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        attention = layer.attention.self
        parts = (attention.query, attention.key, attention.value)
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        self.heads = heads
        self.after_attention = layer.attention.output
        self.wide, self.narrow = layer.intermediate.dense, layer.output

    def forward(
        self, hidden: Tensor, runs: list[tuple[int, int]], first: Tensor | None = None
    ) -> Tensor:
        """Tokens of all texts [pieces, dim] to the same, or to those at ``first`` alone.

        Args:
            hidden: the texts end to end.
            runs: length and number of texts of one length beside each other.
            first: where each text begins.
        """
        dim = hidden.shape[1]
        if first is None:
            joined = functional.linear(hidden, self.weight, self.bias)
            queries, memory = joined[:, :dim], joined[:, dim:]
        else:
            memory = functional.linear(hidden, self.weight[dim:], self.bias[dim:])
            hidden = hidden[first]
            queries = functional.linear(hidden, self.weight[:dim], self.bias[:dim])
        found = []
        asked = read = 0
        for length, count in runs:
            asking, reading = count * (length if first is None else 1), count * length
            query = self._by_head(queries[asked : asked + asking], count)
            keys, values = memory[read : read + reading].split(dim, dim=1)
            mixed = functional.scaled_dot_product_attention(
                query, self._by_head(keys, count), self._by_head(values, count)
            )
            found.append(mixed.transpose(1, 2).reshape(asking, dim))
            asked, read = asked + asking, read + reading
        hidden = self.after_attention(torch.cat(found), hidden)
        narrowed: Tensor = self.narrow(functional.gelu(self.wide(hidden)), hidden)
        return narrowed

    def _by_head(self, tokens: Tensor, texts: int) -> Tensor:
        return tokens.view(texts, -1, self.heads, tokens.shape[1] // self.heads).transpose(1, 2)
