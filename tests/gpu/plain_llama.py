"""Llama as a stranger would write it: all in plain torch but Linear and attend."""

import torch
import torch.nn.functional as F
from torch import nn

from ferrule import Architecture, hookimpl
from ferrule.hf_config import decoder_config
from ferrule.layers import AttentionSpec, Decoder, Linear


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight


def rope(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config, window):
        super().__init__()
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.spec = AttentionSpec(
            num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, window=window, scale=dim**-0.5
        )
        parts = {"q_proj": heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        self.qkv_proj = Linear(config.hidden_size, parts)
        self.o_proj = Linear(heads * dim, config.hidden_size)

    def forward(self, x, rotation, attend):
        spec = self.spec
        qkv = self.qkv_proj(x).unflatten(
            -1, (spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)
        )
        q, k, v = qkv.split((spec.num_heads, spec.num_kv_heads, spec.num_kv_heads), dim=1)
        return self.o_proj(attend(rope(q, *rotation), rope(k, *rotation), v).flatten(-2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_up_proj = Linear(size, {"gate_proj": inner, "up_proj": inner})
        self.down_proj = Linear(inner, size)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.self_attn = Attention(config, config.windows[index])
        self.mlp = MLP(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, rotation, attend):
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


def configure(checkpoint):
    return decoder_config(
        checkpoint, defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    )


def build(config):
    return Decoder(config, layer=Layer)


@hookimpl
def architectures():
    return [
        Architecture(
            name="plain-llama", matches=lambda config: False, configure=configure, build=build
        )
    ]
