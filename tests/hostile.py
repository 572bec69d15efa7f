"Forty texts that a model or a data set could hold, and what no page may contain because of them."
from html.parser import HTMLParser

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)//",
    "<img src=x onerror=alert(3)>",
    '"><img src=x onerror="alert(4)">',
    "'><svg/onload=alert(5)>",
    '" onmouseover="alert(6)" x="',
    "' onfocus='alert(7)' autofocus='",
    "<a href=javascript:alert(8)>x</a>",
    "<a href='JaVaScRiPt:alert(9)'>x</a>",
    "<iframe src=//example.org></iframe>",
    "<iframe srcdoc='<script>alert(11)</script>'>",
    "<object data=data:text/html,<script>alert(12)</script>>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//example.org/x.css>",
    "<meta http-equiv=refresh content='0;url=//example.org'>",
    "<base href=//example.org/>",
    "<form action=//example.org><input name=q autofocus>",
    "</td></tr></table></div></body></html>",
    "<!-- a comment that never ends",
    "--><b>out</b><!--",
    "<![CDATA[<script>alert(21)</script>]]>",
    "<plaintext>",
    "<textarea><title><noscript><xmp>",
    "<details open ontoggle=alert(24)>",
    "<math><mtext><mglyph><style><img src=x onerror=alert(25)>",
    "&lt;script&gt;alert(26)&lt;/script&gt; &amp; &#x3C;b&#x3E;",
    "{{constructor.constructor('alert(27)')()}} ${alert(27)} <%= 7*7 %>",
    "%s %d {0} {} {score} \\u003cscript\\u003e",
    "$$\\href{javascript:alert(29)}{x}$$ \\(\\unicode{x3c}\\) $\\frac{$",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\ \x9b2J",
    "nul\x00 bell\x07 back\x08 del\x7f next\x85 \x1b",
    "user\u202egnp.exe \u2066isolate \u200f\u061c mark",
    "שלום עולם <b>مرحبا</b> 123 (abc)",
    "in\u200bvisi\u2060ble \ufeff\U000e0041\U000e0042 \u2028\u2029",
    "Z" + "\u0334\u0317\u0353\u0349" * 300 + "algo",
    "lone \ud800 surrogate \udfff \ufffe",
    "x" * 1_000_000,
    "<b>" * 5_000,
    "line\r\nline\rline\n" * 200,
    "```\n<script>alert(40)</script>\n``` [x](javascript:alert(40)) ![x](x\"onerror=alert(40))",
]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
ALLOWED = set("a b bdi br caption code del details div em figcaption figure h1 h2 h3 h4 hr i img ins li meta ol p pre small span strong sub summary sup table tbody td th thead title tr ul html head body".split())
ATTRIBUTES = set("style src alt title width height colspan rowspan scope role lang charset name content open dir href id aria-label aria-level aria-current aria-live aria-valuenow aria-valuemin aria-valuemax".split())


class Page(HTMLParser):
    "Notes in `faults` what a page made of such texts must not have."

    def __init__(self, page: str):
        super().__init__()
        self.faults, self.open, self.text = [], [], []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        if tag not in ALLOWED:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES | {"http-equiv"} or (name == "http-equiv" and value != "Content-Security-Policy"):
                self.faults.append(f"<{tag} {name}=…>")
            if name in ("src", "href") and not (value or "").startswith(("data:image/", "#")):
                self.faults.append(f"<{tag} {name}={value!r:.60}>")
            if name == "style" and ("url(" in value or "expression" in value):
                self.faults.append(f"style {value!r:.60}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_comment(self, data):
        self.faults.append(f"comment {data!r:.40}")

    def unknown_decl(self, data):
        self.faults.append(f"declaration {data!r:.40}")

    def handle_pi(self, data):
        self.faults.append(f"instruction {data!r:.40}")

    def handle_data(self, data):
        self.text.append(data)


def faults(page: str) -> list[str]:
    "Everything in the HTML `page` that could run, load, hide or break something."
    found = Page(page).faults
    found += [f"raw control character {c!r}" for c in sorted({c for c in page if ord(c) < 32 and c not in "\n\t"} | ({*page} & {*"\x7f\x85\x9b\u061c\u200b\u200f\u202e\u2028\u2029\u2060\u2066\ufeff\ud800\udfff\U000e0041"}))]
    return found
