"""Rust source text as tokens, and the ends of items in them."""

import dataclasses
import re

CLOSING = {"(": ")", "[": "]", "{": "}"}

TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<comment>/\*)
    | (?P<string>\b[bc]?r(?P<hashes>\#*)".*?"(?P=hashes) | \b[bc]?"(?:\\.|[^"\\])*" | "(?:\\.|[^"\\])*")
    | (?P<character>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])')
    | (?P<lifetime>'\w+)
    | (?P<word>(?:r\#)?[^\W\d]\w*)
    | (?P<number>\d\w*)
    | (?P<mark>::|->|=>|==|<=|>=|!=|.)
    """,
    re.DOTALL | re.VERBOSE,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")

# Items that end at a semicolon, whatever braces they hold.
ENDS_AT_SEMICOLON = {"use", "static", "const", "type", "let"}
# Items that end at their block, or at a semicolon if they have none.
ENDS_AT_BLOCK = {"fn", "struct", "enum", "union", "trait", "impl", "mod", "extern", "macro_rules"}
QUALIFIERS = {"unsafe", "async", "default", "auto"}


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A piece of source text. Comments and white space are not tokens."""

    kind: str
    text: str
    line: int

    @property
    def is_word(self):
        """Whether this is an identifier or a keyword."""
        return self.kind == "word"


def comment_end(text, start):
    """Returns the place behind the block comment that begins at `start`. Block comments nest."""
    depth = 0
    for edge in COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def tokenize(text):
    """Returns the tokens of a source text."""
    tokens, place, line = [], 0, 1
    while place < len(text):
        match = TOKEN.match(text, place)
        kind, end = match.lastgroup, match.end()
        if kind == "comment":
            end = comment_end(text, place)
        elif kind != "space":
            word = match.group()
            tokens.append(Token(kind, word.removeprefix("r#") if kind == "word" else word, line))
        line += text.count("\n", place, end)
        place = end
    return tokens


def text_at(tokens, place):
    """Returns the text of a token, or nothing behind the last one."""
    return tokens[place].text if 0 <= place < len(tokens) else ""


def closing(tokens, start):
    """Returns the place of the bracket that closes the one at `start`."""
    opened = []
    for place in range(start, len(tokens)):
        token = tokens[place]
        if token.kind != "mark":
            continue
        if token.text in CLOSING:
            opened.append(CLOSING[token.text])
        elif opened and token.text == opened[-1]:
            opened.pop()
            if not opened:
                return place
    return len(tokens) - 1


def is_attribute(tokens, place):
    """Whether an attribute begins at `place`: `#[..]` or `#![..]`."""
    inner = text_at(tokens, place + 1) == "!"
    return text_at(tokens, place) == "#" and text_at(tokens, place + 1 + inner) == "["


def attribute_end(tokens, place):
    """Returns the place behind the attribute that begins at `place`."""
    return closing(tokens, place + 1 + (text_at(tokens, place + 1) == "!")) + 1


def skip_attributes(tokens, place):
    """Returns the place of the first token at or behind `place` that belongs to no attribute."""
    while is_attribute(tokens, place):
        place = attribute_end(tokens, place)
    return place


def visibility_end(tokens, place):
    """Returns the place behind `pub` or `pub(..)`, or `place` if there is no visibility."""
    if text_at(tokens, place) != "pub":
        return place
    is_restricted = text_at(tokens, place + 1) == "(" and text_at(tokens, place + 2) in {"crate", "self", "super", "in"}
    return closing(tokens, place + 1) + 1 if is_restricted else place + 1


def keyword_place(tokens, place):
    """Returns the place of an item's keyword, behind its visibility and qualifiers such as `const` in `const fn`."""
    place = visibility_end(tokens, place)
    while True:
        following = text_at(tokens, place + 1)
        # `extern "C" fn` has the name of a calling convention.
        convention = following.startswith('"')
        if text_at(tokens, place) in QUALIFIERS and (following in ENDS_AT_BLOCK or following in QUALIFIERS):
            place += 1
        elif text_at(tokens, place) == "const" and following in {"fn", "unsafe", "async", "extern"}:
            place += 1
        elif text_at(tokens, place) == "extern" and text_at(tokens, place + 1 + convention) == "fn":
            place += 1 + convention
        else:
            return place


def item_end(tokens, start):
    """Returns the place behind the item, statement, field or match arm at `start`, which may begin with attributes."""
    place = skip_attributes(tokens, start)
    keyword = text_at(tokens, keyword_place(tokens, place))
    ends = {";"} if keyword in ENDS_AT_SEMICOLON | ENDS_AT_BLOCK else {";", ","}
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "mark":
            if token.text in ends:
                return place + 1
            if token.text in CLOSING.values():
                return place
            if token.text in CLOSING:
                is_block = token.text == "{"
                place = closing(tokens, place)
                if is_block and keyword not in ENDS_AT_SEMICOLON:
                    return place + 1
        place += 1
    return place


def is_test_attribute(words):
    """Whether an attribute of these words limits its item to tests: `test`, or a `cfg` that needs `test`."""
    if words[-1:] == ["test"] and words[0] not in {"cfg", "cfg_attr"}:
        return True
    return words[:2] == ["cfg", "test"] or words[:2] == ["cfg", "all"] and "test" in words and "not" not in words


def test_places(tokens):
    """Returns for each token whether it belongs to an item that exists in tests only."""
    marks = [False] * len(tokens)
    for place in range(len(tokens)):
        if not is_attribute(tokens, place) or marks[place]:
            continue
        end = attribute_end(tokens, place)
        words = [token.text for token in tokens[place:end] if token.is_word]
        if is_test_attribute(words):
            is_inner = text_at(tokens, place + 1) == "!"
            stop = len(tokens) if is_inner else item_end(tokens, place)
            marks[place:stop] = [True] * (stop - place)
    return marks
