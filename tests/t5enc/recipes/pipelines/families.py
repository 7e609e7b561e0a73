"""Every family: which class of diffusers it is, which encoder it has, and how it encodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.t5enc.recipes.pipelines.encoding import (
    MASKED,
    PLAIN,
    Encode,
    encode_audioldm2,
    encode_flux,
    encode_glyphs,
    encode_hidream,
    encode_hunyuandit,
    encode_kandinsky3,
    encode_longcat,
    encode_returned,
    encode_sd3,
    encode_stable_audio,
    encode_visualcloze,
)


@dataclass(frozen=True, slots=True)
class Family:
    """A class of diffusers, the kind of its T5 encoder, its places in the pipeline, and how it encodes."""

    class_name: str
    encode: Encode
    kind: str = "t5"
    limit: int | None = None
    place: str = "text_encoder"
    tokenizer_place: str = "tokenizer"


T5_2 = {"place": "text_encoder_2", "tokenizer_place": "tokenizer_2"}
T5_3 = {"place": "text_encoder_3", "tokenizer_place": "tokenizer_3"}
FAMILIES: Mapping[str, Family] = {
    "wan": Family("WanPipeline", PLAIN, "umt5"),
    "skyreels_v2": Family("SkyReelsV2Pipeline", PLAIN, "umt5"),
    "anyflow": Family("AnyFlowPipeline", PLAIN, "umt5"),
    "chronoedit": Family("ChronoEditPipeline", PLAIN, "umt5"),
    "lucy": Family("LucyEditPipeline", PLAIN, "umt5"),
    "helios": Family("HeliosPipeline", PLAIN, "umt5"),
    "longcat_audio_dit": Family("LongCatAudioDiTPipeline", encode_longcat, "umt5"),
    "aura_flow": Family("AuraFlowPipeline", MASKED, "llama"),
    "flux": Family("FluxPipeline", encode_flux, **T5_2),
    "visualcloze": Family("VisualClozeGenerationPipeline", encode_visualcloze, **T5_2),
    "stable_diffusion_3": Family("StableDiffusion3Pipeline", encode_sd3, **T5_3),
    "hidream_image": Family("HiDreamImagePipeline", encode_hidream, limit=100, **T5_3),
    "chroma": Family("ChromaPipeline", encode_returned(0, 2, 3, 5)),
    "bria": Family("BriaPipeline", PLAIN),
    "pixart_alpha": Family("PixArtAlphaPipeline", MASKED),
    "pixart_sigma": Family("PixArtSigmaPipeline", MASKED),
    "allegro": Family("AllegroPipeline", MASKED),
    "latte": Family("LattePipeline", PLAIN),
    "deepfloyd_if": Family("IFPipeline", PLAIN),
    "hunyuandit": Family("HunyuanDiTPipeline", encode_hunyuandit, "mt5", **T5_2),
    "kandinsky3": Family("Kandinsky3Pipeline", encode_kandinsky3, "silu"),
    "ltx": Family("LTXPipeline", MASKED),
    "ltx_condition": Family("LTXConditionPipeline", MASKED),
    "mochi": Family("MochiPipeline", MASKED),
    "cogvideox": Family("CogVideoXPipeline", PLAIN),
    "consisid": Family("ConsisIDPipeline", PLAIN),
    "cogview3": Family("CogView3PlusPipeline", PLAIN),
    "cosmos": Family("CosmosTextToWorldPipeline", PLAIN, "relu"),
    "stable_audio": Family("StableAudioPipeline", encode_stable_audio, "relu", limit=128),
    "audioldm2": Family("AudioLDM2Pipeline", encode_audioldm2, limit=512, **T5_2),
    "glm_image": Family("GlmImagePipeline", PLAIN, "byt5"),
    "hunyuan_image": Family("HunyuanImagePipeline", encode_glyphs, "byt5", **T5_2),
    "hunyuan_video1_5": Family("HunyuanVideo15Pipeline", encode_glyphs, "byt5", **T5_2),
}
