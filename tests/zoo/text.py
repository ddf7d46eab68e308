"""Networks for sequences of tokens: recurrent ones, and transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.vision import ensure_torchvision
from tests.zoo.base import BATCH, CLASSES, Entry, Example, made

VOCABULARY = 100
LENGTH = 12
# Padding, which no drawn token equals.
PAD = 0


class Recurrent(nn.Module):
    """A classifier of what a recurrent network makes of embedded tokens."""

    def __init__(
        self, kind: Callable[..., nn.Module], *, bidirectional: bool = False, mean: bool = False
    ) -> None:
        super().__init__()
        self.mean = mean
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.cells = kind(32, 40, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.out = nn.Linear(80 if bidirectional else 40, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.cells(self.embed(tokens))
        logits: Tensor = self.out(hidden.mean(dim=1) if self.mean else hidden[:, -1])
        return logits


def _bidirectional() -> nn.Module:
    return Recurrent(nn.LSTM, bidirectional=True, mean=True)


def _tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(PAD + 1, VOCABULARY, (BATCH, LENGTH), generator=generator)


def _masked(generator: torch.Generator) -> Example:
    """Return tokens the last of which are padding in one sequence of the batch."""
    tokens = _tokens(generator)
    mask = torch.ones_like(tokens)
    mask[1, -3:] = 0
    return {"input_ids": tokens.masked_fill(mask == 0, PAD), "attention_mask": mask}


_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "num_labels": CLASSES,
}


def _transformers() -> Any:
    # Some of its modules import torchvision, which may need its mend first.
    ensure_torchvision()
    import transformers

    return transformers


def _bert() -> nn.Module:
    transformers = _transformers()
    config = transformers.BertConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        **_ENCODER,
    )
    return transformers.BertForSequenceClassification(config)


def _distilbert() -> nn.Module:
    transformers = _transformers()
    config = transformers.DistilBertConfig(dim=48, n_layers=2, n_heads=4, hidden_dim=96, **_ENCODER)
    return transformers.DistilBertForSequenceClassification(config)


# A cache of keys and values would be a second output, of a class of its own.
_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_labels": CLASSES,
    "use_cache": False,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _gpt2(head: str) -> nn.Module:
    """Return a GPT-2; with the language model's head, that is tied to the embedding."""
    transformers = _transformers()
    config = transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=32, **_DECODER)
    network: nn.Module = getattr(transformers, f"GPT2{head}")(config)
    return network


def _llama(head: str) -> nn.Module:
    """Return a Llama with two queries to every key."""
    transformers = _transformers()
    config = transformers.LlamaConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
        **_DECODER,
    )
    network: nn.Module = getattr(transformers, f"Llama{head}")(config)
    return network


def _entry(
    name: str,
    network: Callable[[], nn.Module],
    example: Callable[[torch.Generator], Example] = _masked,
) -> Entry:
    return made(name, "text", network, example)


ENTRIES = (
    _entry("lstm", lambda: Recurrent(nn.LSTM), _tokens),
    _entry(
        "lstm_bidirectional", lambda: Recurrent(nn.LSTM, bidirectional=True, mean=True), _tokens
    ),
    _entry("gru", lambda: Recurrent(nn.GRU), _tokens),
    _entry("bert", _bert),
    _entry("distilbert", _distilbert),
    _entry("gpt2_classifier", lambda: _gpt2("ForSequenceClassification")),
    _entry("gpt2_lm", lambda: _gpt2("LMHeadModel")),
    _entry("llama_classifier", lambda: _llama("ForSequenceClassification")),
    _entry("llama_lm", lambda: _llama("ForCausalLM")),
)
