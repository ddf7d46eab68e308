"""Multi-head attention whose heads, and places within them, may have left.

`nn.MultiheadAttention` insists that its heads fill its embedding. A pruned one has the
same parameters under the same names, computes the same function, and does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SlimAttention(nn.MultiheadAttention):
    """Attention with `num_heads` heads of `head_dim` places, scaled as before pruning.

    Takes what `nn.MultiheadAttention` takes; made from one by carving, never on its own.
    """

    dense_head_dim: int

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs of the query's shape, and weights (batch, queries, keys) if asked."""
        if not self.batch_first and query.dim() == 3:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        queries, keys, values = self._projected(query, key, value)
        weights = queries @ keys.transpose(-2, -1) * self.dense_head_dim**-0.5
        if attn_mask is not None and attn_mask.dim() == 3:  # one for every sample and head
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        for mask in (attn_mask, _of_keys(key_padding_mask)):
            if mask is not None:
                added = (
                    weights.new_zeros(()).where(~mask, float("-inf"))
                    if mask.dtype == torch.bool
                    else mask
                )
                weights = weights + added
        weights = functional.dropout(weights.softmax(-1), self.dropout, self.training)
        mixed = (weights @ values).transpose(-3, -2).flatten(-2)
        out = self.out_proj(mixed)
        if not self.batch_first and query.dim() == 3:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        return out, weights.mean(-3) if average_attn_weights else weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return queries, keys and values, shape (..., heads, tokens, width) each."""
        width = self.num_heads * self.head_dim
        bounds = (width, width, self.out_proj.in_features)
        if self.in_proj_weight is not None:
            kernels = self.in_proj_weight.split(bounds)
        else:
            kernels = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        shifts = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(bounds)
        made = (
            functional.linear(source, kernel, shift)
            for source, kernel, shift in zip((query, key, value), kernels, shifts, strict=True)
        )
        return [each.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for each in made]


def _of_keys(mask: Tensor | None) -> Tensor | None:
    """Turn a mask of keys, shape (..., keys), into one of all heads and queries."""
    return None if mask is None else mask[..., None, None, :]
