"""Read a published model with transformers alone: run as a script in a process of its own, never imported.

It gets the model's folder and a request as JSON on its standard input, and answers with JSON in the file named last.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, answer: str) -> None:
    """Ids of the request's texts, and logits of its token ids."""
    request = json.load(sys.stdin)
    options = {"trust_remote_code": request["trust_remote_code"]}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    ids = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in request["texts"]
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request["input_ids"]])).logits[0].float()
    written = {
        "ids": ids,
        "eos_id": tokenizer.eos_token_id,
        "logits": logits.tolist(),
        "quantized": hasattr(model.config, "quantization_config"),
    }
    Path(answer).write_text(json.dumps(written), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
