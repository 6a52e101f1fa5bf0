"""ABI words and a small assembler: what the contracts of the harness are written with."""

import re

WORD = 32


def word(value: int | str) -> bytes:
    """One ABI word of an integer (two's complement) or 0x-hex."""
    number = int(value, 16) if isinstance(value, str) else value
    return (number % (1 << 256)).to_bytes(WORD, "big")


def words(*values: int | str) -> bytes:
    return b"".join(word(value) for value in values)


def tail(data: bytes) -> bytes:
    """A `bytes` argument's tail: length and padded content."""
    return word(len(data)) + data + bytes(-len(data) % WORD)


def split(data: bytes) -> list[int]:
    """Unsigned integers of consecutive words."""
    return [int.from_bytes(data[at : at + WORD], "big") for at in range(0, len(data), WORD)]


def signed(value: int, bits: int = 256) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def address(value: int) -> str:
    return "0x" + (value & ((1 << 160) - 1)).to_bytes(20, "big").hex()


_OPS = {
    "STOP": 0x00, "ADD": 0x01, "SUB": 0x03, "LT": 0x10, "GT": 0x11, "SLT": 0x12, "EQ": 0x14,
    "ISZERO": 0x15, "SHL": 0x1B, "SHR": 0x1C, "ORIGIN": 0x32, "CALLER": 0x33,
    "CALLDATALOAD": 0x35, "CALLDATASIZE": 0x36, "CALLDATACOPY": 0x37, "CODESIZE": 0x38,
    "CODECOPY": 0x39, "RETURNDATASIZE": 0x3D, "RETURNDATACOPY": 0x3E, "POP": 0x50,
    "MLOAD": 0x51, "MSTORE": 0x52, "SLOAD": 0x54, "SSTORE": 0x55, "JUMP": 0x56, "JUMPI": 0x57,
    "GAS": 0x5A, "CREATE": 0xF0, "CALL": 0xF1, "RETURN": 0xF3, "STATICCALL": 0xFA, "REVERT": 0xFD,
}  # fmt: skip


def assemble(source: str) -> bytes:
    """Bytecode of one instruction a word: names, DUPn, SWAPn, 0x-hex or decimals (pushed by the
    shortest PUSH), `@label` (pushed as two bytes), `label:` (a JUMPDEST). `;` starts a comment."""
    code = bytearray()
    labels: dict[str, int] = {}
    uses: list[tuple[int, str]] = []
    for item in re.sub(r";.*", "", source).split():
        if item.endswith(":"):
            labels[item[:-1]] = len(code)
            code.append(0x5B)
        elif item.startswith("@"):
            code += b"\x61\0\0"
            uses.append((len(code) - 2, item[1:]))
        elif match := re.fullmatch(r"(DUP|SWAP)(\d+)", item):
            code.append((0x7F if match[1] == "DUP" else 0x8F) + int(match[2]))
        elif item in _OPS:
            code.append(_OPS[item])
        else:
            number = int(item, 0)
            size = (number.bit_length() + 7) // 8
            code.append(0x5F + size)
            code += number.to_bytes(size, "big")
    for at, label in uses:
        code[at : at + 2] = labels[label].to_bytes(2, "big")
    return bytes(code)


def _pay(index: int) -> str:
    """Pay amount `index` of a callback, when positive, in the token its data names."""
    return f"""
        {4 + 32 * index} CALLDATALOAD DUP1 0 SLT ISZERO @skip{index} JUMPI
        DUP1 0x24 MSTORE
        0 0 0x44 0 0 {0x84 + 32 * index} CALLDATALOAD GAS CALL POP
        skip{index}: POP
    """


# Holds the tokens and the positions. Called by an account it makes the calls listed in the
# calldata, each as target, length, data, and reverts when one fails. Called by a contract it pays
# what a V3 or PancakeSwap callback asks: both amounts are the first words, and the bytes argument
# holds the two token addresses.
ACTOR = assemble(
    f"""
    CALLER ORIGIN EQ @execute JUMPI
    0xa9059cbb 0xe0 SHL 0 MSTORE  CALLER 4 MSTORE     ; transfer(caller, ...)
    {_pay(0)} {_pay(1)}
    STOP
    execute: 0                                        ; [offset]
    loop: DUP1 CALLDATASIZE GT ISZERO @done JUMPI
    DUP1 32 ADD CALLDATALOAD                          ; [offset, length]
    DUP1 DUP3 64 ADD 0 CALLDATACOPY
    0 0 DUP3 0 0 DUP7 CALLDATALOAD GAS CALL
    ISZERO @fail JUMPI
    ADD 64 ADD @loop JUMP
    fail: RETURNDATASIZE 0 0 RETURNDATACOPY RETURNDATASIZE 0 REVERT
    done: STOP
    """
)

# Asks one contract many questions of equal size in one call. Calldata: target, size of a question,
# size of an answer, questions; returns the answers one after the other.
ASKER = assemble(
    """
    0x400 96                                          ; [to, from]
    loop: DUP1 CALLDATASIZE GT ISZERO @done JUMPI
    32 CALLDATALOAD DUP2 0 CALLDATACOPY
    64 CALLDATALOAD DUP3 32 CALLDATALOAD 0 0 CALLDATALOAD GAS STATICCALL ISZERO @fail JUMPI
    32 CALLDATALOAD ADD
    SWAP1 64 CALLDATALOAD ADD SWAP1 @loop JUMP
    done: POP 0x400 SWAP1 SUB 0x400 RETURN
    fail: 0 0 REVERT
    """
)


def cake_deployer(creation_code: bytes) -> bytes:
    """What the PancakeSwap factory asks to deploy(factory, token0, token1, fee, tickSpacing); the
    pool's constructor reads those five from its parameters()."""
    parameters = int.from_bytes(bytes.fromhex("89035730"), "big")
    size = len(creation_code)
    store = " ".join(f"{4 + 32 * index} CALLDATALOAD {index} SSTORE" for index in range(5))
    load = " ".join(f"{index} SLOAD {32 * index} MSTORE" for index in range(5))
    code = assemble(
        f"""
        0 CALLDATALOAD 0xe0 SHR {parameters} EQ @parameters JUMPI
        {store}
        {size} DUP1 CODESIZE SUB 0 CODECOPY
        {size} 0 0 CREATE 0 MSTORE 32 0 RETURN
        parameters: {load} {5 * 32} 0 RETURN
        """
    )
    # The creation code stands at the end: CODECOPY(0, codesize - size, size).
    return code + creation_code
