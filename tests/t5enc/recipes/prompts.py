"""Nine captions of the kinds that tell recipes apart."""

from __future__ import annotations

WORDS = ["lantern", "harbour", "copper", "willow", "quiet", "ladder", "orchard", "violet", "kettle", "meadow"]
LONG = " ".join(WORDS[place * place % len(WORDS)] + ("," if place % 9 == 8 else "") for place in range(700))
PROMPTS = [
    "",
    "An owl at dusk.",
    " Two\u00a0&amp;amp; Three &lt;i&gt;GREEN&lt;/i&gt;&nbsp;boats \t\n by  the\r\n Pier &quot;now&quot; &#8217;tis  ",
    "MÃ¼nchen crÃ¨me brÃ»lÃ©e — “déjà vu” ﬂoat 東京 カメラ 🦊 Â£9 ¼ pint ＸＹ",
    "PICTURE by @anna_b: https://www.sample.org/p?q=r, www.things.net!!! 'Big <b>Sale</b>' dsc_0042.jpg 800x600 "
    "#42 #1234567 9876543 10.0.0.1 abc123 a1b2c3 Free Shipping -- ___ click here for more · page 12 : end...",
    LONG,
    'The menu reads "Soup of the day" and \'two for one\', below it “Été”, 「茶」 and again "Soup of the day"',
    f'A poster: "{LONG[:400]}" above the door',
    "a pot of basil",
]
NEGATIVE = 'blurred, "cropped", low resolution'
