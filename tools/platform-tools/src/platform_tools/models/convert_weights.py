"""Converts one Llama-family GGUF file to a model folder that vLLM loads.

vLLM's CPU build does not load GGUF. It runs on the Python of .venv-vllm, which has transformers and gguf:

    scripts/convert-weights --gguf model.gguf --out DIR
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

BLOCK_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def tensor_name(gguf_name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor.

    Raises:
        KeyError: the tensor does not belong to a Llama-family model.
    """
    stem = gguf_name.removesuffix(".weight")
    if stem.startswith("blk."):
        _, block, kind = stem.split(".", 2)
        return f"model.layers.{block}.{BLOCK_TENSORS[kind]}.weight"
    return f"{TOP_TENSORS[stem]}.weight"


def unpermute(rows: Any, heads: int) -> Any:
    """Undo GGUF's interleaving of the rotary halves in the rows of attn_q and attn_k."""
    return (
        rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows.shape)
    )


def field(reader: Any, name: str) -> Any:
    """Return one metadata value of a GGUF file, None if the file lacks it."""
    entry = reader.get_field(name)
    return None if entry is None else entry.contents()


def model_config(reader: Any, *, tied: bool) -> dict[str, Any]:
    """Return config.json of the model, read from the GGUF metadata."""
    arch = field(reader, "general.architecture")
    if arch != "llama":
        raise SystemExit(f"convert-weights: the architecture is {arch!r}; only llama is supported")
    heads = field(reader, "llama.attention.head_count")
    hidden = field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "rms_norm_eps": field(reader, "llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "vocab_size": len(field(reader, "tokenizer.ggml.tokens")),
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    }


def write_tensors(reader: Any, out: Path) -> bool:
    """Write model.safetensors in float32; return whether input and output embeddings are one tensor."""
    import numpy
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = field(reader, "llama.attention.head_count")
    key_value_heads = field(reader, "llama.attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if ".attn_q." in tensor.name:
            values = unpermute(values, heads)
        elif ".attn_k." in tensor.name:
            values = unpermute(values, key_value_heads)
        tensors[tensor_name(tensor.name)] = numpy.ascontiguousarray(values)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return "lm_head.weight" not in tensors


def convert(gguf: Path, out: Path) -> None:
    """Write the model folder atomically."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as unfinished:
        folder = Path(unfinished) / out.name
        folder.mkdir()
        reader = GGUFReader(gguf)
        tied = write_tensors(reader, folder)
        config = model_config(reader, tied=tied)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        template = field(reader, "tokenizer.chat_template")
        if template and not tokenizer.chat_template:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(str(folder))
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def main(words: list[str] | None = None) -> int:
    """Convert one file; return 2 if it does not exist."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(words)
    if not arguments.gguf.is_file():
        print(f"convert-weights: {arguments.gguf} is not a file", file=sys.stderr)
        return 2
    convert(arguments.gguf, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
