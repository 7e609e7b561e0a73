"""Drop-ins for transformers' encoder models: the same interface, checkpoints and numbers, fused weights inside.

    from t5enc.hf import T5EncoderModel          # instead of: from transformers import T5EncoderModel

Each is a subclass of transformers' class of its family. Checkpoints keep transformers' layout: `from_pretrained` and
`save_pretrained` go through transformers' own weight converters, registered here for these classes alone.
"""

# diffusers takes a component from a library that has, under its own name, the class that the component descends from.
from transformers import PreTrainedModel

from t5enc.hf.auto import AutoT5EncoderModel
from t5enc.hf.families import (
    FusedMT5EncoderModel,
    FusedT5EncoderModel,
    FusedUMT5EncoderModel,
    MT5EncoderModel,
    T5EncoderModel,
    UMT5EncoderModel,
)
from t5enc.hf.fused_encoder import FusedEncoder

__all__ = [
    "AutoT5EncoderModel",
    "FusedEncoder",
    "FusedMT5EncoderModel",
    "FusedT5EncoderModel",
    "FusedUMT5EncoderModel",
    "MT5EncoderModel",
    "PreTrainedModel",
    "T5EncoderModel",
    "UMT5EncoderModel",
]
