"""Cleaning, rule by rule, beside diffusers' own functions, and without the libraries that it needs."""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5enc.errors import ConfigError
from t5enc.recipes import RECIPES, find_recipe
from t5enc.recipes.cleaning import CLEANERS
from t5enc.recipes.cleaning.deepfloyd import clean_once
from t5enc.recipes.cleaning.repair import check_libraries
from t5enc.recipes.forms import make_texts

Clean = Callable[[str], Any]

# What the rules look for.
SIGNS = list(
    "\"'`´«»“”¨‘’&;@#-_–—‐〜・.,:!?/\\|()[]{}<>*+=%~®•©™·º½¾¿¡§×хx0123456789 \t\n\r\v\f\0\x1c\x85\u00a0\u2028\ufeff"
)
SCRIPTS = list("abzAZéßİſﬁﬃÃ©â€™ÂæμﾞＡＢ１，「」『』夏日中テスㄅ㇀㈠㍿㐀䷀鿿가🦊👩\u0301\u200d\u202e\ud7ff\ue000")
PARTS = [
    "http://", "https:/", "HTTPS:///x", "www:", "www.", "a.com", "b-c.org/path_1/", "x.ru@", "e.it?q=%20",
    "sub.gov.edu",
    "&amp;", "&amp;amp;", "&quot", "&quot;", "&lt;b&gt;", "&#39;", "&#x1F600;", "&#0;", "&nbsp;", "&Eacute", "&notit;",
    "<b>", "</b>", "<br/>", "<person>", "<PERSON>", "<!-- c -->", "<![CDATA[", "<?xml", "<a href='x'>", "<script>", "<",
    "@name", "10.0.0.1", "1.2.3.4.5", "12:45 ", "1:23\n", "\\n", "#12", "#1234", "#123456", "1234567", "12x34", "3.5×2",
    "7х9", "photo.jpg", "a b.png", ".webp", "x.pdf.mp4", "pngs", "jpeg images", "bmp image", "eps", "apk",
    "abc123", "a1b", "1a2", "a1b2c3", "12ab34cd", "Free Shipping", "worldwide free shipping", "free download free",
    "click for more", "click on it", "page 12", "...", " . ", "''\"\"", " : ", "a,b", "a.b", "a/b", "-_-_", "----",
    "naÃ¯ve", "â€œquotedâ€\u009d", "Â£5", "ï¬\x81", "%41", "%C3%A9", "%zz", "+", "</s>", "▁", "ＦＵＬＬ", "\x1b[1m",
    '"Open"', "'two words'", "“夏日”", "「茶」", "‘a’", '"a\nb"', "“a\"b”",
]  # fmt: skip
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(PARTS),
        st.text(st.sampled_from(SIGNS + SCRIPTS), max_size=6),
        st.text(max_size=4),
        st.sampled_from([" ", " ", "word", "Word "]),
    ),
    max_size=14,
).map("".join)
IS_ALL = os.environ.get("T5ENC_TEST_PROFILE") == "all"
FUZZ = settings(
    max_examples=10_000 if IS_ALL else 500,
    derandomize=not IS_ALL,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@cache
def draw_texts() -> list[str]:
    """The same texts for every routine, 500 or, under the profile `all`, 10,000: to draw takes longer than to clean."""
    drawn: list[str] = []

    @FUZZ
    @given(TEXTS)
    def draw(text: str) -> None:
        drawn.append(text)

    draw()
    return drawn


def fuzz(theirs: Sequence[Clean], ours: Clean) -> None:
    """Compare what all of them make of the texts."""
    texts = draw_texts()
    assert len(texts) >= FUZZ.max_examples
    for text in texts:
        found = ours(text)
        assert [clean(text) for clean in theirs] == [found] * len(theirs), repr(text)


def find_classes(*names: str) -> list[Any]:
    """Pipelines without any part, which their cleaning does not need."""
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    return [object.__new__(getattr(diffusers, name)) for name in names]


DEEPFLOYDS = ("PixArtAlphaPipeline", "IFPipeline", "LattePipeline")


@pytest.mark.hypothesis
@pytest.mark.filterwarnings("ignore::bs4.MarkupResemblesLocatorWarning")
def test_texts_are_cleaned_as_deepfloyds_pipelines_do() -> None:
    theirs = [
        lambda text, it=it: it._text_preprocessing(text, clean_caption=True)[0] for it in find_classes(*DEEPFLOYDS)
    ]

    fuzz(theirs, CLEANERS["if"])


@pytest.mark.hypothesis
def test_texts_are_lowered_as_deepfloyds_pipelines_do_without_cleaning() -> None:
    theirs = [lambda text, it=it: it._text_preprocessing(text)[0] for it in find_classes(*DEEPFLOYDS)]

    fuzz(theirs, CLEANERS["lower"])


@pytest.mark.hypothesis
def test_texts_are_cleaned_as_wans_pipelines_do() -> None:
    pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    from diffusers.pipelines.chronoedit import pipeline_chronoedit
    from diffusers.pipelines.wan import pipeline_wan

    # One asks whether ftfy is there, the other takes it for granted.
    fuzz([pipeline_wan.prompt_clean, pipeline_chronoedit.prompt_clean], CLEANERS["wan"])


@pytest.mark.hypothesis
def test_texts_are_cleaned_as_longcat_does() -> None:
    pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    from diffusers.pipelines.longcat_audio_dit.pipeline_longcat_audio_dit import _normalize_text

    fuzz([_normalize_text], CLEANERS["longcat"])


@pytest.mark.hypothesis
def test_quotes_are_found_as_glm_image_does() -> None:
    (pipeline,) = find_classes("GlmImagePipeline")

    fuzz([lambda text: pipeline.get_glyph_texts(text)[0] or [""]], lambda text: make_texts(RECIPES["glm_image"], text))


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", ["hunyuan_image", "hunyuan_video1_5"])
def test_quotes_are_named_as_hunyuans_pipelines_do(name: str) -> None:
    pytest.importorskip("diffusers", reason="needs diffusers: pip install 't5enc[diffusers]'")
    from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts

    extract = {"hunyuan_image": extract_glyph_text, "hunyuan_video1_5": extract_glyph_texts}[name]
    fuzz([lambda text: [named] if (named := extract(text)) else []], lambda text: make_texts(RECIPES[name], text))


@pytest.mark.hypothesis
def test_the_template_is_filled_as_visualcloze_does() -> None:
    (pipeline,) = find_classes("VisualClozeGenerationPipeline")
    reached: list[str] = []

    def keep_prompt(prompt: list[str], **_: Any) -> torch.Tensor:
        reached[:] = prompt
        return torch.zeros(1, 1, 1)

    parts = {"text_encoder": None, "text_encoder_2": None, "transformer": SimpleNamespace(dtype=torch.float32)}
    vars(pipeline).update(parts, _get_clip_prompt_embeds=keep_prompt, _get_t5_prompt_embeds=keep_prompt)

    def fill_theirs(text: str) -> str:
        layout, _, rest = text.partition(" ")
        task, _, content = rest.partition(" ")
        pipeline.encode_prompt(layout, task, content, device="cpu")
        return reached[0]

    def fill_ours(text: str) -> str:
        layout, _, rest = text.partition(" ")
        task, _, content = rest.partition(" ")
        recipe = find_recipe("visualcloze", {"layout_prompt": layout, "task_prompt": task})
        return make_texts(recipe, content)[0]

    fuzz([fill_theirs], fill_ours)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A+Red%20FOX", "a red fox", id="addresses are decoded, letters lowered"),
        pytest.param("<person> waves", "person waves", id="a person is no tag"),
        pytest.param("see https://site.org/a?b=c now", "see ?b=c now", id="an address goes, its query stays"),
        pytest.param("by @anna_b and others", "by and others", id="a name after @ goes"),
        pytest.param("a <b>bold</b> &eacute;", "a bold é", id="tags and entities are read"),
        pytest.param("夏日 テスト", "テスト", id="kanji go, kana stay"),
        pytest.param("a – b — c", "a - b - c", id="dashes are one dash"),
        pytest.param("«so» ‘it’ is", "\"so\" 'it' is", id="quotes are straight"),
        pytest.param("at 10.0.0.1 today", "at today", id="addresses of machines go"),
        pytest.param("number #12 and #12345 and 1234567", "number and and", id="numbers of articles go"),
        pytest.param("open my_dog.jpg here", "open here", id="file names go"),
        pytest.param("a *** big (sale)", "a big sale", id="runs of signs are a space"),
        pytest.param("my-cat-and-my-dog", "my cat and my dog", id="more than three joiners are spaces"),
        pytest.param("my-cat-and-dog", "my-cat-and-dog", id="three joiners are kept"),
        pytest.param("cafã© ﬁne", "cafã fine", id="ligatures are mended, broken encodings no more once lowered"),
        pytest.param("part abc123 or a1b or 1a2", "part or or", id="codes go"),
        pytest.param("a hat free shipping free download", "a hat", id="what shops say goes"),
        pytest.param("click for more of page 12", "of", id="what pages say goes"),
        pytest.param("pngs", "s", id="the name of a format goes from the front of a word"),
        pytest.param("photo 800x600", "photo", id="sizes go"),
        pytest.param("one,two.three", "one, two. three", id="a space follows a comma"),
        pytest.param('"all of it"', "all of it", id="quotes around everything go"),
        pytest.param("- a title:", "a title", id="a dash before and a colon after everything go"),
    ],
)
def test_deepfloyds_rules(text: str, expected: str) -> None:
    assert CLEANERS["if"](text) == expected


def test_the_second_time_finds_what_the_first_has_made() -> None:
    text = "%2541pple"

    assert clean_once(text) == "%41pple"
    assert CLEANERS["if"](text) == "apple"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("  A  Fox\t\nRuns ", "A Fox Runs", id="spaces are single, case is kept"),
        pytest.param("&amp;amp; &lt;b&gt;", "& <b>", id="entities are decoded twice, tags are kept"),
        pytest.param("“cafÃ©” ﬁne ＡＢ", '"café" fine AB', id="text is mended"),
    ],
)
def test_wans_rules(text: str, expected: str) -> None:
    assert CLEANERS["wan"](text) == expected


def test_longcats_rules() -> None:
    assert CLEANERS["longcat"](' Say "HELLO"  ‘now’ ') == "say hello now"


def test_lowering_keeps_all_else() -> None:
    assert CLEANERS["lower"]("  A&amp;B  C ") == "a&amp;b  c"


@pytest.mark.parametrize(
    ("name", "caption", "expected"),
    [
        ("glm_image", "“c” 'a' \"b\" 「d」", ["a", "c", "b", "d"]),
        ("glm_image", "nothing quoted", [""]),
        ("hunyuan_image", '"b" \'a\' "b"', ['Text "a". Text "b". Text "b". ']),
        ("hunyuan_image", "nothing quoted", []),
        ("hunyuan_video1_5", '“c” "b" \'a\' "b"', ['Text "c". Text "b". ']),
        ("visualcloze", "a cat", ["The last image of the last row depicts: a cat"]),
    ],
)
def test_a_caption_becomes_the_texts_that_are_encoded(name: str, caption: str, expected: list[str]) -> None:
    assert make_texts(RECIPES[name], caption) == expected


def test_a_layout_without_a_task_leaves_the_tasks_space() -> None:
    recipe = find_recipe("visualcloze", {"layout_prompt": "Two images."})

    assert make_texts(recipe, "a cat") == ["Two images.  The last image of the last row depicts: a cat"]


@pytest.fixture
def _without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that a test names cannot be imported."""
    from t5enc.recipes.cleaning import repair

    def import_module(name: str) -> Any:
        if name == request.param:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return builtins.__import__(name)

    monkeypatch.setattr(repair, "import_module", import_module)


@pytest.mark.parametrize(
    ("_without", "clean", "text", "package"),
    [
        ("ftfy", "wan", "cafÃ©", "ftfy"),
        ("ftfy", "if", "cafÃ©", "ftfy"),
        ("bs4", "if", "<b>bold</b>", "beautifulsoup4"),
    ],
    indirect=["_without"],
)
@pytest.mark.usefixtures("_without")
def test_a_missing_library_is_refused_before_and_while_text_is_cleaned(clean: Any, text: str, package: str) -> None:
    with pytest.raises(ConfigError, match=rf"needs {package}, .* pip install"):
        check_libraries(clean)
    with pytest.raises(ConfigError, match=rf"needs {package}, .* pip install"):
        CLEANERS[clean](text)


@pytest.mark.parametrize("_without", ["ftfy", "bs4"], indirect=True)
@pytest.mark.usefixtures("_without")
def test_recipes_that_need_no_library_go_without() -> None:
    for clean in ("none", "lower", "longcat"):
        check_libraries(clean)
