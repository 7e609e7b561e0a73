"""Which recipe a diffusers repository is made for: the class that its model_index.json names, and what it sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from t5enc.recipes.families import RECIPES

# Classes that encode captions as their family's first one does, which is the `source` of its recipe.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "wan": ("WanImageToVideo", "WanVideoToVideo", "WanVACE", "WanAnimate"),
    "skyreels_v2": (
        "SkyReelsV2DiffusionForcing",
        "SkyReelsV2DiffusionForcingImageToVideo",
        "SkyReelsV2DiffusionForcingVideoToVideo",
        "SkyReelsV2ImageToVideo",
    ),
    "anyflow": ("AnyFlowFAR",),
    "helios": ("HeliosPyramid",),
    "flux": (
        "FluxControl",
        "FluxControlImg2Img",
        "FluxControlInpaint",
        "FluxControlNet",
        "FluxControlNetImg2Img",
        "FluxControlNetInpaint",
        "FluxFill",
        "FluxImg2Img",
        "FluxInpaint",
        "FluxKontext",
        "FluxKontextInpaint",
        "FluxPriorRedux",
    ),
    "visualcloze": ("VisualCloze",),
    "stable_diffusion_3": (
        "StableDiffusion3ControlNet",
        "StableDiffusion3ControlNetInpainting",
        "StableDiffusion3Img2Img",
        "StableDiffusion3Inpaint",
        "StableDiffusion3PAG",
        "StableDiffusion3PAGImg2Img",
    ),
    "chroma": ("ChromaImg2Img", "ChromaInpaint"),
    "pixart_sigma": ("PixArtSigmaPAG",),
    "deepfloyd_if": (
        "IFImg2Img",
        "IFImg2ImgSuperResolution",
        "IFInpainting",
        "IFInpaintingSuperResolution",
        "IFSuperResolution",
    ),
    "hunyuandit": ("HunyuanDiTControlNet", "HunyuanDiTPAG"),
    "kandinsky3": ("Kandinsky3Img2Img",),
    "ltx": ("LTXImageToVideo", "LTXI2VLongMultiPrompt"),
    "cogvideox": ("CogVideoXImageToVideo", "CogVideoXVideoToVideo", "CogVideoXFunControl"),
    "cosmos": ("CosmosVideoToWorld", "Cosmos2TextToImage", "Cosmos2VideoToWorld"),
    "hunyuan_video1_5": ("HunyuanVideo15ImageToVideo",),
}
# Where the call of a variant has another default than that of its family.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"ChromaInpaintPipeline": {"max_sequence_length": 256}}
# Options of a recipe that are set by a repository, not by a call.
SETTINGS = ("force_zeros_for_empty_prompt",)


class InferredRecipe(NamedTuple):
    """A recipe's name, the options that the repository stands for, and the class that said so."""

    name: str
    options: dict[str, Any]
    pipeline: str


def infer_recipe(index: Mapping[str, Any]) -> InferredRecipe | None:
    """The recipe of a repository with this model_index.json; None where its pipeline is none that is known."""
    pipeline = index.get("_class_name")
    name = PIPELINES.get(pipeline) if isinstance(pipeline, str) else None
    if name is None or not isinstance(pipeline, str):
        return None
    settings = {key: index[key] for key in SETTINGS if key in index and key in RECIPES[name].options}
    return InferredRecipe(name, {**DEFAULTS.get(pipeline, {}), **settings}, pipeline)


def _list_pipelines() -> dict[str, str]:
    """Class -> recipe."""
    found = {recipe.source: name for name, recipe in RECIPES.items()}
    return found | {f"{variant}Pipeline": name for name, variants in VARIANTS.items() for variant in variants}


PIPELINES: Mapping[str, str] = _list_pipelines()
