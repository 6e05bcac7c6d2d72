"""Tiny random bases of every family that the installed transformers can build, for trying out."""

from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
UNTIED = {"tie_word_embeddings": False}
HEAD = {"head_dim": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
STATES = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
GEMMA4 = {
    "global_head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "vocab_size_per_layer_input": 300,
    "num_kv_shared_layers": 0,
}

# family -> (class of its configuration, what is special in it)
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", UNTIED),
    "Llama, tied": ("LlamaConfig", {}),
    "Llama 4 (text)": (
        "Llama4TextConfig",
        {**HEAD, **LOCAL, "intermediate_size": 64, "intermediate_size_mlp": 128},
    ),
    "Mistral": ("MistralConfig", {}),
    "Mixtral": ("MixtralConfig", LOCAL),
    "Qwen2, Qwen2.5": ("Qwen2Config", {}),
    "Qwen2-MoE": ("Qwen2MoeConfig", {**MOE, "shared_expert_intermediate_size": 32}),
    "Qwen3": ("Qwen3Config", HEAD),
    "Qwen3-MoE": ("Qwen3MoeConfig", {**MOE, **HEAD}),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        {**MOE, **HEAD, **DELTA, "shared_expert_intermediate_size": 32},
    ),
    "Qwen3.5 (text)": ("Qwen3_5TextConfig", {**HEAD, **DELTA}),
    "Qwen3.5-MoE (text)": (
        "Qwen3_5MoeTextConfig",
        {**MOE, **HEAD, **DELTA, "shared_expert_intermediate_size": 32},
    ),
    "Gemma": ("GemmaConfig", HEAD),
    "Gemma 2": ("Gemma2Config", HEAD),
    "Gemma 3 (text)": ("Gemma3TextConfig", HEAD),
    "Gemma 3n (text)": (
        "Gemma3nTextConfig",
        {
            **HEAD,
            **GEMMA4,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "intermediate_size": [128, 128],
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "Gemma 4 (text)": ("Gemma4TextConfig", {**HEAD, **GEMMA4, "hidden_size_per_layer_input": 8}),
    "Gemma 4, mixture": (
        "Gemma4TextConfig",
        {
            **HEAD,
            **GEMMA4,
            **MOE,
            "top_k_experts": 2,
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "Phi": ("PhiConfig", {"num_key_value_heads": 4}),
    "Phi-3, Phi-4": ("Phi3Config", {}),
    "Phi-3.5-MoE": ("PhimoeConfig", LOCAL),
    "GPT-2": ("GPT2Config", GPT),
    "GPT-Neo": (
        "GPTNeoConfig",
        {
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 9,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "GPT-J": ("GPTJConfig", {**GPT, **UNTIED, "rotary_dim": 8}),
    "CodeGen": ("CodeGenConfig", {**GPT, **UNTIED, "rotary_dim": 8}),
    "StarCoder (GPT-BigCode)": ("GPTBigCodeConfig", GPT),
    "GPT-NeoX, Pythia": ("GPTNeoXConfig", UNTIED),
    "gpt-oss": (
        "GptOssConfig",
        {
            **HEAD,
            **LOCAL,
            **UNTIED,
            "intermediate_size": 32,
            "sliding_window": 9,
            "rope_parameters": {"rope_type": "default"},
        },
    ),
    "Falcon": ("FalconConfig", {"num_kv_heads": 1, "alibi": False}),
    "Falcon, alibi": ("FalconConfig", {"alibi": True, "multi_query": False}),
    "Falcon-H1": (
        "FalconH1Config",
        {**HEAD, **STATES, "mamba_d_ssm": 64, "mamba_n_heads": 4},
    ),
    "Falcon-Mamba": ("FalconMambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "Mamba": ("MambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "Mamba 2": (
        "Mamba2Config",
        {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    ),
    "Jamba": (
        "JambaConfig",
        {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_dt_rank": 4,
        },
    ),
    "Bamba": ("BambaConfig", {**STATES, "attn_layer_indices": [1]}),
    "Zamba 2": (
        "Zamba2Config",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "mamba_ngroups": 1,
            "n_mamba_heads": 8,
            "mamba_d_state": 8,
            "num_mem_blocks": 1,
            "chunk_size": 16,
            "use_mem_rope": True,
            "mamba_headdim": 16,
        },
    ),
    "Nemotron": ("NemotronConfig", HEAD),
    "Nemotron-H": (
        "NemotronHConfig",
        {
            **HEAD,
            **UNTIED,
            "num_hidden_layers": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 8,
            "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        },
    ),
    "Granite": ("GraniteConfig", {"logits_scaling": 4.0}),
    "Granite-MoE": ("GraniteMoeConfig", {**LOCAL, "intermediate_size": 32}),
    "Granite-MoE, shared": (
        "GraniteMoeSharedConfig",
        {**LOCAL, "intermediate_size": 32, "shared_intermediate_size": 32},
    ),
    "Granite 4 (hybrid)": (
        "GraniteMoeHybridConfig",
        {
            **LOCAL,
            **STATES,
            "intermediate_size": 32,
            "shared_intermediate_size": 32,
            "layer_types": ["mamba", "attention"],
            "layers_block_type": ["mamba", "attention"],
        },
    ),
    "OLMo": ("OlmoConfig", {}),
    "OLMo 2": ("Olmo2Config", {}),
    "OLMo 3": ("Olmo3Config", {}),
    "OLMoE": ("OlmoeConfig", {**MOE, "intermediate_size": 32}),
    "DeepSeek-V2": ("DeepseekV2Config", {**LATENT, **ROUTED, **UNTIED}),
    "DeepSeek-V3, R1, Kimi-K2": ("DeepseekV3Config", {**LATENT, **ROUTED, **UNTIED}),
    "Kimi-Linear": (
        "KimiLinearConfig",
        {
            **LATENT,
            **ROUTED,
            **HEAD,
            **UNTIED,
            "num_shared_experts": 1,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "GLM": ("GlmConfig", HEAD),
    "GLM-4": ("Glm4Config", HEAD),
    "GLM-4-MoE": ("Glm4MoeConfig", {**HEAD, **ROUTED}),
    "Cohere": ("CohereConfig", {}),
    "Cohere 2": ("Cohere2Config", {**HEAD, "sliding_window": 9}),
    "StableLM": ("StableLmConfig", {}),
    "SmolLM3": ("SmolLM3Config", {}),
    "StarCoder 2": ("Starcoder2Config", {}),
    "RWKV": ("RwkvConfig", {**UNTIED, "context_length": 128, "attention_hidden_size": 64}),
    "xLSTM": ("xLSTMConfig", {**UNTIED, "num_heads": 4, "num_blocks": 2}),
    "RecurrentGemma": (
        "RecurrentGemmaConfig",
        {**HEAD, "lru_width": 64, "num_hidden_layers": 3, "attention_window_size": 64},
    ),
    "LFM2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "LFM2-MoE": (
        "Lfm2MoeConfig",
        {**MOE, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    ),
    "OPT": ("OPTConfig", {"ffn_dim": 128, "word_embed_proj_dim": 64, "pad_token_id": 0}),
    "BLOOM": ("BloomConfig", {"n_head": 4, "n_layer": 2}),
    "MPT": ("MptConfig", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "EXAONE 4": ("Exaone4Config", {}),
    "ERNIE 4.5": ("Ernie4_5Config", {}),
    "ERNIE 4.5-MoE": (
        "Ernie4_5_MoeConfig",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_layer_start_index": 1,
        },
    ),
    "Hunyuan": ("HunYuanDenseV1Config", HEAD),
    "MiniMax": (
        "MiniMaxConfig",
        {**LOCAL, "layer_types": ["linear_attention", "full_attention"], "block_size": 32},
    ),
    "MiniMax-M2": ("MiniMaxM2Config", {**LOCAL, **HEAD, "intermediate_size": 32}),
    "Seed-OSS": ("SeedOssConfig", HEAD),
    "JetMoE": ("JetMoeConfig", {**LOCAL, "kv_channels": 16}),
    "BitNet": ("BitNetConfig", {}),
    "Helium": ("HeliumConfig", HEAD),
    "Persimmon": ("PersimmonConfig", {}),
    "BERT": ("BertConfig", {}),
    "T5": ("T5Config", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}),
    "LLaVA": ("LlavaConfig", {}),
}


def make_odd(folder: Path, family: str) -> Path:
    """A random model of a family, without a tokenizer."""
    import torch
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_of(transformers, *BASES[family]).save_pretrained(str(folder))
    return folder


def model_of(transformers: Any, name: str, special: dict[str, Any]) -> Any:
    if name == "T5Config":
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**special))
    if name == "LlavaConfig":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        vision = {**sizes, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
        config = transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**COMMON),
            vision_config=transformers.CLIPVisionConfig(**vision, projection_dim=32),
            image_token_index=298,
        )
        return transformers.LlavaForConditionalGeneration(config)
    config = getattr(transformers, name)(**{**COMMON, **special})
    return transformers.AutoModelForCausalLM.from_config(config)
