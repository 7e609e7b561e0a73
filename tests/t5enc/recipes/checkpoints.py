"""Tiny encoders of every kind that pipelines have, each with a tokenizer, as folders that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t5enc.checkpoint.builtin import open_builtin, sample_captions, write_tokenizer
from tests.families import make_checkpoint

SIZES: dict[str, Any] = {"d_model": 32, "num_heads": 2, "d_ff": 48, "num_layers": 2}
VOCABULARY = 1000
# kind -> the family of the weights; "llama" is UMT5 with a tokenizer like AuraFlow's.
KINDS = {
    "t5": "t5_v1_1",
    "relu": "t5_v1_0",
    "silu": "ul2",
    "umt5": "umt5",
    "mt5": "mt5",
    "byt5": "byt5",
    "llama": "umt5",
}


def write_checkpoint(kind: str, folder: Path, limit: int | None) -> None:
    """An encoder with its tokenizer, whose files name `limit` as the longest text, if any."""
    sizes = SIZES if kind == "byt5" else SIZES | {"vocab_size": VOCABULARY}
    make_checkpoint(KINDS[kind], folder, **sizes)
    if kind == "llama":
        write_unlike_t5(folder)
    else:
        write_tokenizer(folder, None if kind == "byt5" else open_builtin("builtin:tiny").tokenizer_source)
    if limit is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": limit}))


def write_unlike_t5(folder: Path) -> None:
    """A tokenizer whose pad is 1 and end 2, as pile-t5's are, trained on the project's own captions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<pad>", "</s>"]
    tokenizer.train_from_iterator(sample_captions(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    config = names | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
