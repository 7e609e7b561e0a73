"""How tiny.model was made: sentencepiece trained once on captions.txt, ids laid out as in T5.

Run `python train_tokenizer.py` in this folder. The shipped file is the truth: another sentencepiece may train
other pieces, and then every built-in model has other ids.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

VOCAB_SIZE = 1000


def train_tokenizer(captions: list[str]) -> bytes:
    """A sentencepiece unigram model: padding 0, end 1, unknown 2, no byte fallback."""
    import sentencepiece

    trainer: Any = sentencepiece.SentencePieceTrainer
    model = BytesIO()
    trainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCAB_SIZE,
        character_coverage=0.9995,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


if __name__ == "__main__":
    folder = Path(__file__).parent
    captions = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")
    (folder / "tiny.model").write_bytes(train_tokenizer([caption for caption in captions if caption]))
