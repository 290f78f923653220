"""Sequence policies for token tasks: a causal transformer and a GRU that read a prompt once.

Both take the observations of `environments.tokens`: P prompt tokens and T places for the output. A
step feeds the latest token alone to a cache of what came before; `unroll` sees all tokens of an
output at once, and both give the same distributions. Neighbours with one prompt share its cache.

Plain functions over dictionaries of arrays: tokens are looked up and laid down by products with
one-hot vectors, whose transposes are products again, and no scatter.
"""

from purejax_po.sequence.gru import Memory, gru_policy
from purejax_po.sequence.tokens import check_layers, check_token_task
from purejax_po.sequence.transformer import EMBEDDING_SCALE, Cache, transformer_policy

__all__ = [
    "EMBEDDING_SCALE",
    "Cache",
    "Memory",
    "check_layers",
    "check_token_task",
    "gru_policy",
    "transformer_policy",
]
