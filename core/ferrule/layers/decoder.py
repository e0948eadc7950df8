"""The decoder that Llama and its relatives share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from ferrule.layers.attention import Attend, Attention, AttentionSpec
from ferrule.layers.embedding import Embedding
from ferrule.layers.linear import Linear
from ferrule.layers.mlp import MLP
from ferrule.layers.norm import RMSNorm
from ferrule.layers.rope import Rope, Rotation
from ferrule.model_config import ModelConfig


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual.

    Args:
        config: Sizes.
        index: Which layer this is, for what differs by layer; it must not enter ``forward``.
        attention: Makes the attention from the config and this layer's window. One of a plugin's
            own has a ``spec`` and is called as ``attention(hidden, rotation, attend)``.
    """

    def __init__(
        self,
        config: ModelConfig,
        index: int,
        attention: Callable[[ModelConfig, int | None], nn.Module] = Attention,
    ) -> None:
        super().__init__()
        self.self_attn = attention(config, config.windows[index])
        self.mlp = MLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """``[tokens, hidden_size] -> [tokens, hidden_size]``."""
        attended = self.self_attn(self.input_layernorm(hidden), rotation, attend)
        kept: Tensor | None = getattr(attend, "kept", None)
        if kept is not None:
            # The last layer of a prompt: no later layer needs the rows that give no token.
            hidden = hidden[kept]
        normed, hidden = self.post_attention_layernorm.add(attended, hidden)
        return self.mlp(normed, hidden)


class HasAttention(Protocol):
    """What the decoder asks of any layer, a plugin's too."""

    self_attn: HasSpec


class HasSpec(Protocol):
    """What the runtime asks of any attention."""

    spec: AttentionSpec


class DecoderModel(nn.Module):
    """Embedding, layers and final norm: what Hugging Face's names keep under ``model.``."""

    def __init__(self, config: ModelConfig, layer: Callable[[ModelConfig, int], nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = Embedding(
            config.vocab_size, config.hidden_size, tied=config.tie_word_embeddings
        )
        self.layers = nn.ModuleList(layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope(config.rope, config.max_position_embeddings)


class Decoder(nn.Module):
    """Tokens to hidden states, and hidden states to logits.

    A number or switch that the checkpoint holds is a field of ModelConfig; new arithmetic is a
    module of the plugin's own, handed in as ``layer``.

    Args:
        config: Sizes.
        layer: Makes one decoder layer from the config and its index. A layer is called as
            ``layer(hidden, rotation, attend)`` and has its attention at ``self_attn``, with a
            ``spec``.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: Callable[[ModelConfig, int], nn.Module] = DecoderLayer,
    ) -> None:
        super().__init__()
        self.model = DecoderModel(config, layer)
        self.lm_head = (
            None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        )

    def attention_specs(self) -> list[AttentionSpec]:
        """One for each layer, in the order of ``attends``."""
        layers = cast("Iterable[HasAttention]", self.model.layers)
        return [layer.self_attn.spec for layer in layers]

    @property
    def narrows(self) -> bool:
        """Whether the last layer takes an ``attend`` that gives fewer rows than it gets.

        Such an ``attend`` has the rows that it keeps as ``kept``.
        """
        last = self.model.layers[-1]
        return type(last) is DecoderLayer and type(last.self_attn) is Attention

    def forward(self, tokens: Tensor, positions: Tensor, attends: Sequence[Attend]) -> Tensor:
        """Runs all layers and the final norm.

        Args:
            tokens: ``[tokens]`` ids, of any number of sequences one after another.
            positions: ``[tokens]``, each within its own sequence.
            attends: One for each layer.

        Returns:
            ``[tokens, hidden_size]``.
        """
        model = self.model
        hidden = model.embed_tokens(tokens)
        rotation = model.rope(positions, hidden.dtype)
        for layer, attend in zip(model.layers, attends, strict=True):
            hidden = layer(hidden, rotation, attend)
        return model.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden_size] -> [rows, vocab_size]``; ask only for the rows that count."""
        if self.lm_head is None:
            return self.model.embed_tokens.logits(hidden)
        return self.lm_head(hidden)
