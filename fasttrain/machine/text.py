"""Text that holds bytes of no encoding: paths and arguments, as Python gives them to programs.

Python carries a byte that the locale cannot decode as a lone surrogate (`surrogateescape`). Such
text can be printed again as the bytes it was, and shown in files that have to be UTF-8. Under a C
locale every path that is not ASCII is such text.
"""

import codecs

ESCAPED = "fasttrain.escaped"
"""name of an error handler: escaped bytes become themselves, other signs a question mark"""


def _encode(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return b"".join(
        bytes([ord(sign) - 0xDC00]) if "\udc80" <= sign <= "\udcff" else b"?" for sign in signs
    ), error.end


codecs.register_error(ESCAPED, _encode)


def readable(text: str) -> str:
    """The text as valid UTF-8 can hold it: escaped bytes decoded, or replaced where they are none.

    Text without them stays as it is.
    """
    return text.encode("utf-8", ESCAPED).decode("utf-8", "replace")
