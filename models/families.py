"""Published sizes of backbones, as keyword arguments of their Hugging Face configs.

Names of sizes are the published ones. Where a family has no published size that trains on one CPU, "tiny" to "medium"
take layers and width of the BERT miniatures (Turc et al. 2019, "Well-read students learn better"). A new family is one
entry of `FAMILIES`. Settings that are not listed are the defaults of the config class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Settings = dict[str, Any]

MINIATURES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512)}
"""Layers and hidden size of the BERT miniatures; heads are 64 wide, feed-forward layers four times the hidden size."""


@dataclass(frozen=True)
class Family:
    """Backbones of one config class.

    Attributes:
        model_type: Hugging Face's `model_type`, which names the config class.
        sizes: size name → keyword arguments of the config.
        common: keyword arguments of every size, where the published ones differ from the config class's defaults.
        positions_after_pad: whether learned positions are counted from `pad_token_id + 1` on (RoBERTa and relatives),
            so that a table for n tokens has n + pad_token_id + 1 rows.
        decoder_start: which token an encoder-decoder's output begins with; `None` for other models.
    """

    model_type: str
    sizes: dict[str, Settings]
    common: Settings = field(default_factory=dict)
    positions_after_pad: bool = False
    decoder_start: Literal["pad", "eos"] | None = None


def _bert(layers: int, hidden: int, **more: Any) -> Settings:
    settings = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    return settings | more


def _gpt2(layers: int, hidden: int, heads: int | None = None) -> Settings:
    return {"n_layer": layers, "n_embd": hidden, "n_head": heads or hidden // 64}


def _llama(layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, **more: Any) -> Settings:
    return _bert(
        layers,
        hidden,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        **more,
    )


def _xlnet(layers: int, hidden: int) -> Settings:
    return {"n_layer": layers, "d_model": hidden, "n_head": hidden // 64, "d_inner": 4 * hidden}


def _bart(layers: int, hidden: int) -> Settings:
    stack = {"layers": layers, "attention_heads": hidden // 64, "ffn_dim": 4 * hidden}
    return {"d_model": hidden} | {
        f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in stack.items()
    }


def _t5(layers: int, hidden: int, heads: int, feed_forward: int, **more: Any) -> Settings:
    return {"num_layers": layers, "d_model": hidden, "num_heads": heads, "d_ff": feed_forward, "d_kv": 64} | more


def _switch(layers: int, hidden: int, heads: int, feed_forward: int, num_experts: int) -> Settings:
    sparse = {"num_sparse_encoder_layers": layers // 2, "num_sparse_decoder_layers": layers // 2}
    settings = _t5(layers, hidden, heads, feed_forward, num_experts=num_experts, **sparse)
    return settings | {"num_decoder_layers": layers}  # the config's default is 12, whatever the encoder has


def _miniatures(settings: Callable[..., Settings], *names: str, **more: Any) -> dict[str, Settings]:
    return {name: settings(*MINIATURES[name], **more) for name in names or MINIATURES}


_ROBERTA_SIZES = _miniatures(_bert) | {"base": _bert(12, 768), "large": _bert(24, 1024)}

FAMILIES: dict[str, Family] = {
    # Devlin et al. 2018; Turc et al. 2019
    "bert": Family("bert", _miniatures(_bert) | {"base": _bert(12, 768), "large": _bert(24, 1024)}),
    # Liu et al. 2019
    "roberta": Family(
        "roberta", _ROBERTA_SIZES, {"type_vocab_size": 1, "layer_norm_eps": 1e-5}, positions_after_pad=True
    ),
    # Conneau et al. 2019
    "xlm-roberta": Family(
        "xlm-roberta", _ROBERTA_SIZES, {"type_vocab_size": 1, "layer_norm_eps": 1e-5}, positions_after_pad=True
    ),
    # Sanh et al. 2019
    "distilbert": Family(
        "distilbert",
        {
            name: {"n_layers": layers, "dim": hidden, "n_heads": hidden // 64, "hidden_dim": 4 * hidden}
            for name, (layers, hidden) in {"tiny": (1, 128), "mini": (2, 256), "base": (6, 768)}.items()
        },
    ),
    # Lan et al. 2019, version 2 (no dropout)
    "albert": Family(
        "albert",
        _miniatures(_bert, "tiny", "mini")
        | {"base": _bert(12, 768), "large": _bert(24, 1024), "xlarge": _bert(24, 2048, num_attention_heads=16)}
        | {"xxlarge": _bert(12, 4096)},
        {"embedding_size": 128},
    ),
    # Clark et al. 2020; sizes are the discriminator's
    "electra": Family(
        "electra",
        _miniatures(_bert, "tiny", "mini", embedding_size=128)
        | {"small": _bert(12, 256, embedding_size=128), "base": _bert(12, 768, embedding_size=768)}
        | {"large": _bert(24, 1024, embedding_size=1024)},
    ),
    # He et al. 2021
    "deberta-v3": Family(
        "deberta-v2",
        _miniatures(_bert, "tiny", "mini")
        | {"xsmall": _bert(12, 384), "small": _bert(6, 768), "base": _bert(12, 768), "large": _bert(24, 1024)},
        {
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
    ),
    # Song et al. 2020
    "mpnet": Family(
        "mpnet",
        _miniatures(_bert, "tiny", "mini") | {"base": _bert(12, 768)},
        {"layer_norm_eps": 1e-5},
        positions_after_pad=True,
    ),
    # Warner et al. 2024; "small" and "medium" are the 32M and 68M encoders of Weller et al. 2025 ("Ettin")
    "modernbert": Family(
        "modernbert",
        _miniatures(_bert, "tiny", intermediate_size=192)
        | _miniatures(_bert, "mini", intermediate_size=384)
        | {"small": _bert(10, 384, intermediate_size=576), "medium": _bert(19, 512, intermediate_size=768)}
        | {"base": _bert(22, 768, intermediate_size=1152), "large": _bert(28, 1024, intermediate_size=2624)},
    ),
    # Radford et al. 2018: norms after the layers
    "gpt1": Family("openai-gpt", _miniatures(_gpt2, "tiny", "mini") | {"base": _gpt2(12, 768)}),
    # Radford et al. 2019; "base" is the 124M model
    "gpt2": Family(
        "gpt2",
        _miniatures(_gpt2, "tiny", "mini")
        | {"base": _gpt2(12, 768), "medium": _gpt2(24, 1024), "large": _gpt2(36, 1280), "xl": _gpt2(48, 1600)},
    ),
    # Brown et al. 2020, table 2.1, names as there; all attention is dense. "xl" has 16 heads and "13b" a width of 5120:
    # the table's 24 heads of 128 in a width of 2048, and 40 of 128 in 5140, do not go together
    "gpt3": Family(
        "gpt2",
        _miniatures(_gpt2, "tiny", "mini")
        | {
            "small": _gpt2(12, 768),
            "medium": _gpt2(24, 1024),
            "large": _gpt2(24, 1536, 16),
            "xl": _gpt2(24, 2048, 16),
            "2.7b": _gpt2(32, 2560, 32),
            "6.7b": _gpt2(32, 4096, 32),
            "13b": _gpt2(40, 5120, 40),
            "175b": _gpt2(96, 12288, 96),
        },
        {"n_positions": 2048},
    ),
    # Touvron et al. 2023. "small" and "base" are the 42M and 110M models of llama2.c, "135m" and "360m" SmolLM2 (Allal
    # et al. 2025), "1.1b" TinyLlama (Zhang et al. 2024); "7b", "13b" and "70b" are LLaMA 2
    "llama": Family(
        "llama",
        {
            "tiny": _llama(2, 128, 2, 2, 344, tie_word_embeddings=True),
            "mini": _llama(4, 256, 4, 4, 688, tie_word_embeddings=True),
            "small": _llama(8, 512, 8, 8, 1376, tie_word_embeddings=True, rms_norm_eps=1e-5),
            "base": _llama(12, 768, 12, 12, 2048, tie_word_embeddings=True, rms_norm_eps=1e-5),
            "135m": _llama(30, 576, 9, 3, 1536, tie_word_embeddings=True, rms_norm_eps=1e-5),
            "360m": _llama(32, 960, 15, 5, 2560, tie_word_embeddings=True, rms_norm_eps=1e-5),
            "1.1b": _llama(22, 2048, 32, 4, 5632, rms_norm_eps=1e-5),
            "7b": _llama(32, 4096, 32, 32, 11008, rms_norm_eps=1e-5, max_position_embeddings=4096),
            "13b": _llama(40, 5120, 40, 40, 13824, rms_norm_eps=1e-5, max_position_embeddings=4096),
            "70b": _llama(80, 8192, 64, 8, 28672, rms_norm_eps=1e-5, max_position_embeddings=4096),
        },
    ),
    # Jiang et al. 2024, the coefficient of load balancing as released; "tiny" and "mini" are scaled down, four experts
    "mixtral": Family(
        "mixtral",
        {
            "tiny": _llama(2, 128, 2, 1, 192, num_local_experts=4, max_position_embeddings=2048),
            "mini": _llama(4, 256, 4, 2, 384, num_local_experts=4, max_position_embeddings=2048),
            "8x7b": _llama(32, 4096, 32, 8, 14336, num_local_experts=8, max_position_embeddings=32768),
        },
        {"router_aux_loss_coef": 0.02},
    ),
    # Yang et al. 2019; no memory unless `mem_len` is given
    "xlnet": Family(
        "xlnet",
        _miniatures(_xlnet, "tiny", "mini") | {"base": _xlnet(12, 768), "large": _xlnet(24, 1024)},
        {"mem_len": None},
    ),
    # Conneau & Lample 2019; "base" is the XNLI-15 model (MLM + TLM), "large" the English one
    "xlm": Family(
        "xlm",
        {
            name: {"n_layers": layers, "emb_dim": hidden, "n_heads": heads}
            for name, (layers, hidden, heads) in {
                "tiny": (2, 128, 2),
                "mini": (4, 256, 4),
                "base": (12, 1024, 8),
                "large": (12, 2048, 16),
            }.items()
        },
    ),
    # Lewis et al. 2019; layers count for each of encoder and decoder. "tiny" and "mini" begin with weights of standard
    # deviation 1 / √width, as wide ones nearly do; with 0.02 they stay near token frequencies for long
    "bart": Family(
        "bart",
        {name: _bart(*MINIATURES[name]) | {"init_std": MINIATURES[name][1] ** -0.5} for name in ("tiny", "mini")}
        | {"base": _bart(6, 768), "large": _bart(12, 1024)},
        decoder_start="eos",
    ),
    # Raffel et al. 2019; "tiny" and "mini" are those of Tay et al. 2021 ("Scale efficiently")
    "t5": Family(
        "t5",
        {
            "tiny": _t5(4, 256, 4, 1024),
            "mini": _t5(4, 384, 8, 1536),
            "small": _t5(6, 512, 8, 2048),
            "base": _t5(12, 768, 12, 3072),
            "large": _t5(24, 1024, 16, 4096),
            "3b": _t5(24, 1024, 32, 16384, d_kv=128),
            "11b": _t5(24, 1024, 128, 65536, d_kv=128),
        },
        decoder_start="pad",
    ),
    # Fedus et al. 2021, with their coefficient of load balancing; "base" has 8 experts in every second layer,
    # "large" 128, as released (switch-base-8, switch-large-128)
    "switch": Family(
        "switch_transformers",
        {
            "tiny": _switch(2, 128, 2, 512, num_experts=4),
            "mini": _switch(4, 256, 4, 1024, num_experts=4),
            "base": _switch(12, 768, 12, 3072, num_experts=8),
            "large": _switch(24, 1024, 16, 4096, num_experts=128),
        },
        {"router_aux_loss_coef": 0.01},
        decoder_start="pad",
    ),
}
