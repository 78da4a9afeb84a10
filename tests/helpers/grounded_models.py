"""A tiny model that writes what it is told, such as a text with boxes."""

from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm
from transformers import LlamaForCausalLM

GROUNDED = (
    "<obj>There is a nodule in the right lung.<box><x22><y30><x34><y40></box></obj>"
    "<obj>Both bases are dense.<box><x15><y60><x40><y80></box><box><x60><y60><x85><y80></box></obj>"
    "<obj>The heart is normal.</obj>"
)


class _Writer(LlamaForCausalLM):
    ids: list[int]
    step: int

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        # A prompt comes whole, what is written token by token.
        given = kwargs.get("inputs_embeds")
        self.step = 0 if given is not None and given.shape[1] > 1 else self.step + 1
        out.logits[:, -1] = -1e9
        out.logits[:, -1, self.ids[min(self.step, len(self.ids) - 1)]] = 0
        return out


def writer_of(text: str = GROUNDED, **options):
    """A model whose every report is this text."""
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.__class__ = _Writer
    llm.ids, llm.step = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id], 0
    return build(tokenizer, llm=llm, **options)
