"""The drop-in of each T5 family, registered with transformers' loader.

Each has a name of its own, of which the public one is an alias: transformers registers converters by class name.
"""

from __future__ import annotations

import transformers
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from t5enc.hf.conversion import make_conversions
from t5enc.hf.fused_encoder import FusedEncoder

# Where the classes are found by the pipelines that diffusers saved with them.
PUBLIC_MODULE = "t5enc.hf"


class FusedT5EncoderModel(FusedEncoder, transformers.T5EncoderModel):  # type: ignore[misc]
    """T5 v1.0, v1.1, flan, UL2, ByT5 with fused weights; in all else transformers' T5EncoderModel."""

    __module__ = PUBLIC_MODULE
    base_class = transformers.T5EncoderModel


class FusedMT5EncoderModel(FusedEncoder, transformers.MT5EncoderModel):  # type: ignore[misc]
    """MT5 with fused weights; in all else transformers' MT5EncoderModel."""

    __module__ = PUBLIC_MODULE
    base_class = transformers.MT5EncoderModel


class FusedUMT5EncoderModel(FusedEncoder, transformers.UMT5EncoderModel):  # type: ignore[misc]
    """UMT5 and pile-T5 with fused weights; in all else transformers' UMT5EncoderModel."""

    __module__ = PUBLIC_MODULE
    base_class = transformers.UMT5EncoderModel
    marks_config = False


T5EncoderModel = FusedT5EncoderModel
MT5EncoderModel = FusedMT5EncoderModel
UMT5EncoderModel = FusedUMT5EncoderModel
FAMILIES: dict[str, type[FusedEncoder]] = {
    "t5": FusedT5EncoderModel,
    "mt5": FusedMT5EncoderModel,
    "umt5": FusedUMT5EncoderModel,
}


for _model_class in FAMILIES.values():
    register_checkpoint_conversion_mapping(_model_class.__name__, make_conversions(), overwrite=True)
