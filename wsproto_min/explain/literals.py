"""Bytes as programs print them: Python, JavaScript and C.

A text of another form is left to the parser of hex. A text of one of these forms is refused if it
leaves out bytes, or if there is other text beside them.
"""

from __future__ import annotations

import ast
import re
import warnings

_BUFFER = re.compile(r"<Buffer((?:\s+[0-9a-fA-F]{2})*)\s*>")
_PYTHON = re.compile(r"""[bB]'(?:[^'\\\n]|\\.)*'|[bB]"(?:[^"\\\n]|\\.)*\"""")
_BETWEEN_PYTHON = re.compile(r"(?:\s|[,+()\[\]]|bytearray)*")
_ARRAY = re.compile(
    r"""(?:(?:(?:static|const|unsigned|char|u?int8_t|guint8)\s+)*\w+\[\w*\]\s*=\s*  # C
    |(?:new\s+)?(?:Uint8Array|Buffer|bytes|bytearray)(?:\(\d+\))?\s*\(?\s*  # JavaScript, Python
    |\{\s*"type":\s*"Buffer",\s*"data":\s*)?  # JSON of Node.js
    [\[{](?=[\s\d])([^\[\]{}]*)[\]}]\s*[)};]?""",
    re.VERBOSE,
)
_LENGTH = re.compile(r"unsigned int \w+_len = (\d+);")  # of `xxd -i`
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,2}|0|[1-9]\d{0,2}")


def parse_literals(text: str) -> bytes | None:
    r"""Return the bytes of one or more literals in their order, or None for another text.

        >>> parse_literals(r"b'\x81\x02' b'hi'"), parse_literals("{ 0x81, 0x02, 0x68, 0x69 }")
        (b'\x81\x02hi', b'\x81\x02hi')
        >>> parse_literals("Uint8Array(4) [ 129, 2, 104, 105 ]"), parse_literals("81 02 68 69")
        (b'\x81\x02hi', None)

    Raises:
        ValueError: The literals leave out bytes, or have an element that is no byte.

    """
    if "<Buffer" in text:
        return _parse_buffers(text)
    if _PYTHON.match(text.lstrip(" \t\n([").removeprefix("bytearray(")):
        return _parse_python(text)
    return _parse_arrays(text)


def _parse_buffers(text: str) -> bytes:
    """Return the bytes of each `<Buffer 81 05>` of Node.js."""
    if re.search(r"<Buffer.*more byte", text, re.DOTALL):
        raise ValueError("<Buffer: bytes are left out; print buffer.toString('hex')")
    if _BUFFER.sub("", text).strip(" \t\n,[]"):
        raise ValueError("<Buffer: there is other text beside the bytes; remove that text")
    return b"".join(bytes.fromhex(found) for found in _BUFFER.findall(text))


def _parse_python(text: str) -> bytes:
    """Return the bytes of each `b'...'` of Python."""
    if not _BETWEEN_PYTHON.fullmatch(_PYTHON.sub("", text)):
        raise ValueError("b'...': there is other text beside the bytes; remove that text")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape is only a warning
            return b"".join(ast.literal_eval(literal) for literal in _PYTHON.findall(text))
    except (SyntaxError, ValueError):
        raise ValueError("b'...': an escape or a character is invalid; print repr(data)") from None


def _parse_arrays(text: str) -> bytes | None:
    """Return the bytes of arrays of numbers in C, JavaScript, Python or JSON."""
    if "[" not in text and "{" not in text:  # the search takes long in a long line of hex
        return None
    text = _COMMENT.sub("", text)
    arrays = [found[1] for found in _ARRAY.finditer(text)]
    if not arrays:
        return None
    if "more item" in text:
        raise ValueError("array: items are left out; print buffer.toString('hex')")
    lengths = _LENGTH.findall(text)
    rest = _LENGTH.sub("", _ARRAY.sub("", text)).strip(" \t\n,;")
    if rest:
        raise ValueError(f"array: there is other text beside it, {rest[:20]!a}; remove that text")
    elements = [element.strip() for array in arrays for element in array.split(",")]
    elements = [element for element in elements if element]  # a comma may follow the last one
    for element in elements:
        if not _NUMBER.fullmatch(element) or int(element, 0) > 0xFF:
            raise ValueError(f"array: {element[:20]!a} is not a byte; write 0x81 or 129")
    if elements and all(len(element) == 2 for element in elements):
        raise ValueError("array: elements may be hex or decimal; write each byte as 0x81")
    if lengths and sum(map(int, lengths)) != len(elements):
        raise ValueError(
            f"array: it has {len(elements)} bytes, but its length is {' + '.join(lengths)}; "
            "copy the array whole"
        )
    return bytes(int(element, 0) for element in elements)
