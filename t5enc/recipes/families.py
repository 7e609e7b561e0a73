"""The families: one Recipe each, as read from diffusers 0.42.1 and compared with its pipelines.

A family is added as one entry here, its cleaning in a module of its own if it has one, and its row in the tests that
run diffusers' pipeline beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from t5enc.recipes.recipe import Recipe

# Cosmos' own negative prompt: what its pipelines encode where they are given none.
COSMOS_NEGATIVE = (
    "The video captures a series of frames showing ugly scenes, static with no motion, motion blur, over-saturation, "
    "shaky footage, low resolution, grainy texture, pixelated images, poorly lit areas, underexposed and overexposed "
    "scenes, poor color balance, washed out colors, choppy sequences, jerky movements, low frame rate, artifacting, "
    "color banding, unnatural transitions, outdated special effects, fake elements, unconvincing visuals, poorly "
    "edited content, jump cuts, visual noise, and flickering. Overall, the video is of poor quality."
)
LENGTH, CLEANS, NEGATIVE = "max_sequence_length", "clean_caption", "negative_prompt"

WAN = Recipe(
    name="wan",
    source="WanPipeline",
    encoder="umt5",
    clean="wan",
    max_length=512,
    options=(LENGTH, NEGATIVE),
    notes="No mask is passed on: the transformer sees the zeros. encode_prompt's own default length is 226.",
)
FLUX = Recipe(
    name="flux",
    source="FluxPipeline",
    max_length=512,
    longest=512,
    attends_pads=True,
    rows="all",
    null="none",
    options=(LENGTH, NEGATIVE, "negative_prompt_2"),
    notes="The caption is prompt_2, or prompt without one. Schnell is used with max_sequence_length 256.",
)
PIXART_ALPHA = Recipe(
    name="pixart_alpha",
    source="PixArtAlphaPipeline",
    clean="if",
    max_length=120,
    mask="int64",
    options=(LENGTH, CLEANS, NEGATIVE),
    notes="encode_prompt does not clean unless it is told to; the pipeline's call does.",
)
COGVIDEOX = Recipe(
    name="cogvideox",
    source="CogVideoXPipeline",
    max_length=226,
    attends_pads=True,
    rows="all",
    options=(LENGTH, NEGATIVE),
)
LTX = Recipe(
    name="ltx",
    source="LTXPipeline",
    max_length=128,
    attends_pads=True,
    mask="bool",
    options=(LENGTH, NEGATIVE),
    notes="Pads change the rows of the text, although a mask is passed on.",
)
HUNYUAN_IMAGE = Recipe(
    name="hunyuan_image",
    source="HunyuanImagePipeline",
    encoder="byt5",
    form="hunyuan_image_spans",
    max_length=128,
    mask="int64",
    options=(NEGATIVE,),
    notes="Quoted spans only, for the glyph encoder; a caption without any has no rows.",
)
FAMILIES = (
    WAN,
    replace(WAN, name="skyreels_v2", source="SkyReelsV2Pipeline"),
    replace(WAN, name="anyflow", source="AnyFlowPipeline"),
    replace(WAN, name="chronoedit", source="ChronoEditPipeline"),
    replace(WAN, name="lucy", source="LucyEditPipeline"),
    replace(WAN, name="helios", source="HeliosPipeline"),
    Recipe(
        name="longcat_audio_dit",
        source="LongCatAudioDiTPipeline",
        encoder="umt5",
        clean="longcat",
        max_length=0,
        width="longest",
        mask="bool",
        finish="add_norms",
        null="zeros",
        cleans_null=False,
        null_mask="positive",
        null_width="own",
        options=(NEGATIVE,),
        notes="The last hidden states and the token embeddings are normed and summed. A negative has its own width.",
    ),
    Recipe(
        name="aura_flow",
        source="AuraFlowPipeline",
        encoder="umt5",
        max_length=256,
        mask="repeated",
        options=(LENGTH, NEGATIVE),
        notes="Pad and end ids are those of pile-t5's tokenizer. The mask repeats each value once a dimension.",
    ),
    FLUX,
    replace(
        FLUX,
        name="visualcloze",
        source="VisualClozeGenerationPipeline",
        form="visualcloze",
        options=(LENGTH, "layout_prompt", "grid", "task_prompt"),
        notes="The caption is the content prompt; grid, ROWSxCOLUMNS, writes the layout prompt that the call makes.",
    ),
    Recipe(
        name="stable_diffusion_3",
        source="StableDiffusion3Pipeline",
        max_length=256,
        longest=512,
        attends_pads=True,
        rows="all",
        options=(LENGTH, NEGATIVE, "negative_prompt_3"),
        notes="The T5 part of the conditioning (prompt_3, or prompt without one); CLIP's rows come before it.",
    ),
    Recipe(
        name="hidream_image",
        source="HiDreamImagePipeline",
        max_length=128,
        within_limit=True,
        rows="all",
        options=(LENGTH, NEGATIVE, "negative_prompt_3"),
        notes="The transformer reads the pads' rows, which are computed under the mask; prompt_3, or prompt.",
    ),
    Recipe(
        name="chroma",
        source="ChromaPipeline",
        max_length=512,
        longest=512,
        rows="real_plus_one",
        mask="float",
        options=(LENGTH, NEGATIVE),
        notes="One pad is attended by the transformer, and its row is kept. The inpainting pipeline uses 256.",
    ),
    Recipe(
        name="bria",
        source="BriaPipeline",
        max_length=128,
        longest=512,
        null="zeros",
        zeroes_empty_null=True,
        options=(LENGTH, NEGATIVE),
        notes="Each prompt is encoded without pads; an empty negative prompt is zeros.",
    ),
    PIXART_ALPHA,
    replace(PIXART_ALPHA, name="pixart_sigma", source="PixArtSigmaPipeline", max_length=300),
    replace(
        PIXART_ALPHA,
        name="allegro",
        source="AllegroPipeline",
        max_length=512,
        notes="The call adds a dimension of one before the rows.",
    ),
    Recipe(
        name="latte",
        source="LattePipeline",
        clean="if",
        max_length=120,
        width="longest_of_one",
        null_rows="all",
        options=(CLEANS, "mask_feature", NEGATIVE),
        notes="One caption alone is cut to its tokens, several are padded with zeros. The null keeps its pads' rows.",
    ),
    Recipe(
        name="deepfloyd_if",
        source="IFPipeline",
        clean="if",
        max_length=77,
        rows="all",
        options=(CLEANS, NEGATIVE),
        notes="The U-Net attends to the pads' rows, which are computed under the mask.",
    ),
    Recipe(
        name="hunyuandit",
        source="HunyuanDiTPipeline",
        encoder="mt5",
        max_length=256,
        mask="int64",
        options=(LENGTH, NEGATIVE),
        notes="The transformer puts a learned vector where the mask is 0.",
    ),
    Recipe(
        name="kandinsky3",
        source="Kandinsky3Pipeline",
        max_length=128,
        width="longest_plus_one",
        mask="int64",
        null="zeros",
        null_mask="zeros",
        options=(NEGATIVE,),
        notes="As wide as the longest caption of the batch and one more, at most 128; so is the null.",
    ),
    LTX,
    replace(
        LTX,
        name="ltx_condition",
        source="LTXConditionPipeline",
        max_length=256,
        attends_pads=False,
        notes="Unlike ltx the mask reaches the encoder.",
    ),
    Recipe(
        name="mochi",
        source="MochiPipeline",
        max_length=256,
        mask="bool",
        options=(LENGTH, "force_zeros_for_empty_prompt", NEGATIVE),
        notes="force_zeros_for_empty_prompt is the checkpoint's: an empty caption then has no row.",
    ),
    COGVIDEOX,
    replace(COGVIDEOX, name="consisid", source="ConsisIDPipeline"),
    replace(COGVIDEOX, name="cogview3", source="CogView3PlusPipeline", max_length=224, null="zeros"),
    Recipe(
        name="cosmos",
        source="CosmosTextToWorldPipeline",
        max_length=512,
        null_text=COSMOS_NEGATIVE,
        options=(LENGTH, NEGATIVE),
        notes="The null is a fixed paragraph. Cosmos 2.5 and later use no T5.",
    ),
    Recipe(
        name="stable_audio",
        source="StableAudioPipeline",
        max_length=0,
        fallback_length=128,
        finish="project",
        null="zeros",
        options=(NEGATIVE,),
        notes="The rows of text; the call adds two of duration after them.",
    ),
    Recipe(
        name="audioldm2",
        source="AudioLDM2Pipeline",
        max_length=0,
        width="longest",
        mask="int64",
        options=(NEGATIVE,),
        notes="The rows of T5; those that GPT-2 makes of them and of CLAP are another stream.",
    ),
    Recipe(
        name="glm_image",
        source="GlmImagePipeline",
        encoder="byt5",
        form="glm_spans",
        max_length=2048,
        width="longest",
        pads_left=True,
        null_width="own",
        options=(LENGTH,),
        notes="Quoted spans only, each encoded alone; their rows end to end, with zeros before them.",
    ),
    HUNYUAN_IMAGE,
    replace(
        HUNYUAN_IMAGE,
        name="hunyuan_video1_5",
        source="HunyuanVideo15Pipeline",
        form="hunyuan_video_spans",
        max_length=256,
        mask="float",
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in FAMILIES}
