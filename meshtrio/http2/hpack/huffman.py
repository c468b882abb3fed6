"""The Huffman code of header compression, RFC 7541 §5.2 and Appendix B.

The decoder is a state machine that reads four bits at a time. Its states are the inner nodes of the
code's tree, and its table is made when a peer first sends such a string.
"""

from __future__ import annotations

from functools import cache

from meshtrio.http2.errors import HpackDecodingError

# fmt: off
_CODE_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30,
    28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5,
    7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22,
    22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22,
    21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26,
    26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20,
    24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27,
    27, 28, 27, 27, 27, 27, 27, 26, 30,
)
# fmt: on
"""Bits of the code of each byte, and of the end of the string (EOS) at index 256. The code is
canonical: codes of a length are consecutive numbers in the order of their symbols."""
_EOS = 256
_MAX_PADDING_BITS = 7

_Transition = tuple[int, int]
"""The next state, and the byte that is decoded; -1 for none."""


def decode_huffman(data: bytes) -> bytes:
    """Decode a Huffman-coded string. Raises HpackDecodingError."""
    transitions, final_states = _decoding_table()
    state = 0
    out = bytearray()
    for byte in data:
        state, symbol = transitions[state][byte >> 4]
        if symbol >= 0:
            out.append(symbol)
        state, symbol = transitions[state][byte & 0x0F]
        if symbol >= 0:
            out.append(symbol)
    if state not in final_states:
        raise HpackDecodingError("a Huffman-coded string is invalid")
    return bytes(out)


@cache
def _decoding_table() -> tuple[list[list[_Transition]], frozenset[int]]:
    """Return the transitions of each state by the next four bits, and the final states."""
    children, invalid_state = _code_tree()
    transitions: list[list[_Transition]] = []
    for start in range(len(children)):
        row = []
        for bits in range(16):
            state, symbol = start, -1
            for shift in (3, 2, 1, 0):
                state = children[state][bits >> shift & 1]
                if state < 0:
                    # A leaf is -1 - symbol. Codes have at least five bits, so four end one at most.
                    state, symbol = 0, -1 - state
                    if symbol == _EOS:
                        state, symbol = invalid_state, -1
            row.append((state, symbol))
        transitions.append(row)
    final_states = [0]
    for _ in range(_MAX_PADDING_BITS):
        final_states.append(children[final_states[-1]][1])
    return transitions, frozenset(final_states)


def _code_tree() -> tuple[list[list[int]], int]:
    """Make the tree of the code.

    Returns:
        The children of each inner node, for a 0 bit and a 1 bit: the index of an inner node, or
        -1 - symbol for a leaf; and the index of a node that is its own child, for invalid strings.
    """
    children = [[0, 0]]
    code = length = 0
    for symbol in sorted(range(_EOS + 1), key=lambda s: (_CODE_LENGTHS[s], s)):
        code <<= _CODE_LENGTHS[symbol] - length
        length = _CODE_LENGTHS[symbol]
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not children[node][bit]:
                children[node][bit] = len(children)
                children.append([0, 0])
            node = children[node][bit]
        children[node][code & 1] = -1 - symbol
        code += 1
    invalid_state = len(children)
    children.append([invalid_state, invalid_state])
    return children, invalid_state
