"""SVG files as matplotlib writes them, made a fifth of the size: a page holds all of a grid's."""

import re
from collections import Counter
from itertools import count

# The attributes that hold places on the page, to a millionth of a point each.
_PLACES = re.compile(r' (?:d|x|y|points)="[^"]*"')
_TRANSFORMS = re.compile(r"(?:translate|rotate)\([^)]*\)")
# One is enough beyond 10 pt; the outlines of marks are smaller.
_DIGITS = re.compile(r"(\d\d\.\d|\.\d\d)\d+")
_COMMANDS = re.compile(r"\s*([MLQCzZ])\s*")
_UNTURNED = re.compile(r' transform="rotate\(-?0 [^)]*\)"')
_FONTS = re.compile(r" font-family: [^;\"]*;?")
_STYLES = re.compile(r'style="([^"]*)"')
_NAMES = re.compile(r'(?<=id=")[^"]+(?=")')
_GROUPS = re.compile(r"(<g\b[^>]*>|</g>)")
_AROUND = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<g [^>]*/>"
# matplotlib's own rule for all, and the font: Verdana is as wide as the one it measured.
_RULES = "*{stroke-linejoin:round;stroke-linecap:butt}"
_RULES += "text{font-family:DejaVu Sans,Verdana,sans-serif}"


def compact(svg: str) -> str:
    """The same picture: places cut to 0.1 pt, each style written once, short names, flat groups.

    Texts must be written as such (`svg.fonttype` "none"): they are set in one font, by a rule.
    """
    _, root, body = re.split(r"(<svg[^>]*>)", svg, maxsplit=1)
    body = re.sub(_AROUND, "", body, flags=re.DOTALL)
    body = re.sub(r">\s+<", "><", body)
    body = _PLACES.sub(lambda found: _COMMANDS.sub(r"\1", _DIGITS.sub(r"\1", found[0])), body)
    body = _TRANSFORMS.sub(lambda found: _DIGITS.sub(r"\1", found[0]), body)
    body = _FONTS.sub("", _UNTURNED.sub("", body))
    body = _flat(_short_names(body))
    body = re.sub(r"<(\w+)([^<>]*)></\1>", r"<\1\2/>", body)
    return root + _style_once(body.strip()) + "\n"


def _short_names(body: str) -> str:
    """Without the names that nothing refers to, and with short ones for the rest."""
    referred = set(re.findall(r"#([\w.-]+)", body))
    names = [name for name in dict.fromkeys(_NAMES.findall(body)) if name in referred]
    short = dict(zip(names, (f"i{number}" for number in count()), strict=False))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", body)
    return re.sub(r"(?<=#)[\w.-]+(?=[\")])", lambda m: short.get(m[0], m[0]), body)


def _flat(body: str) -> str:
    """Without groups that say nothing, and with neighbours of one clipping as one group."""
    opened, kept = [], [""]
    for part in filter(None, _GROUPS.split(body)):
        if part == "<g>":
            opened.append("")
        elif part.startswith("<g"):
            opened.append(f"</g>{part}")
            # What it closes stands behind a closing tag: this one goes on with the same.
            if part.startswith("<g clip-path") and kept[-1] == opened[-1]:
                kept.pop()
            else:
                kept.append(part)
        elif part != "</g>":
            kept.append(part)
        elif closing := opened.pop():
            kept.append(closing)
    return "".join("</g>" if part.startswith("</g>") else part for part in kept)


def _style_once(body: str) -> str:
    repeated = [style for style, times in Counter(_STYLES.findall(body)).items() if times > 2]
    names = {style: f"c{place}" for place, style in enumerate(repeated)}
    rules = _RULES + "".join(f".{name}{{{style}}}" for style, name in names.items())

    def named(found: re.Match[str]) -> str:
        return f'class="{names[found[1]]}"' if found[1] in names else found[0]

    return f"<style>{rules}</style>" + _STYLES.sub(named, body)
