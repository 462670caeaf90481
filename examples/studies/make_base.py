"""Make a tiny Llama with random weights and a tokenizer of its own: what `base.yaml` trains into a base model.

    python examples/studies/make_base.py CORPUS FOLDER [--layers 4] [--width 192] [--vocabulary 8192]

CORPUS holds `train-*.jsonl.zst` files with a `text` per line, FOLDER becomes a Hugging Face model directory.
"""

import argparse
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import zstandard
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DOCUMENTS_PER_FILE = 300
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}Q: {{ message.content }}\nA:{% else %} {{ message.content }}{% endif %}"
    "{% endfor %}"
)
"""How a question and its answer are written: as in `claims/make_inputs.py`."""


def texts(corpus: Path) -> Iterator[str]:
    """Beginnings of documents, of every file as many."""
    for path in sorted(corpus.glob("train-*.jsonl.zst")):
        with zstandard.open(path, "rb") as raw:
            for line in islice(io.TextIOWrapper(raw, encoding="utf-8"), DOCUMENTS_PER_FILE):
                yield json.loads(line)["text"][:4000]


def main() -> None:
    """Train a byte-level tokenizer on the corpus, and write it with a small random model."""
    parser = argparse.ArgumentParser(description="Make a tiny Llama with random weights.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--vocabulary", type=int, default=8192)
    arguments = parser.parse_args()
    folder, width = arguments.folder, arguments.width
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts(arguments.corpus), vocab_size=arguments.vocabulary, special_tokens=["</s>"], show_progress=False
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    print(f"{model.num_parameters():,} parameters, {arguments.vocabulary:,} tokens: {folder}")


if __name__ == "__main__":
    main()
