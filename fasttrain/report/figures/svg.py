"""SVG files as matplotlib writes them, made a third of the size: a page holds all of a grid's."""

import re
from collections import Counter
from itertools import count

# The attributes that hold places on the page, to a millionth of a point each.
_PLACES = re.compile(r' (?:d|x|y|points)="[^"]*"')
_TRANSFORMS = re.compile(r"translate\([^)]*\)")
_DIGITS = re.compile(r"(\.\d\d)\d+")
_COMMANDS = re.compile(r"\s*([MLQCzZ])\s*")
_STYLES = re.compile(r'style="([^"]*)"')
_NAMES = re.compile(r'(?<=id=")[^"]+(?=")')


def compact(svg: str) -> str:
    """The same picture: places to 0.01 pt, each style written once, short names, no indentation."""
    head, _, body = svg.partition("<defs>")
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r">\s+<", "><", body)
    body = _PLACES.sub(lambda found: _COMMANDS.sub(r"\1", _DIGITS.sub(r"\1", found[0])), body)
    body = _TRANSFORMS.sub(lambda found: _DIGITS.sub(r"\1", found[0]), body)
    body = _short_names(body)
    body = re.sub(r"<(\w+)([^<>]*)></\1>", r"<\1\2/>", body)
    return f"{head}<defs>{_style_once(body)}"


def _short_names(body: str) -> str:
    """Without the names that nothing refers to, and with short ones for the rest."""
    referred = set(re.findall(r"#([\w.-]+)", body))
    names = [name for name in dict.fromkeys(_NAMES.findall(body)) if name in referred]
    short = dict(zip(names, (f"i{number}" for number in count()), strict=False))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", body)
    return re.sub(r"(?<=#)[\w.-]+(?=[\")])", lambda m: short.get(m[0], m[0]), body)


def _style_once(body: str) -> str:
    repeated = [style for style, times in Counter(_STYLES.findall(body)).items() if times > 2]
    names = {style: f"c{place}" for place, style in enumerate(repeated)}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())

    def named(found: re.Match[str]) -> str:
        return f'class="{names[found[1]]}"' if found[1] in names else found[0]

    return f'<style type="text/css">{rules}</style>' + _STYLES.sub(named, body)
