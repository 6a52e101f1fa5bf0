"""How a node shows the pools of a protocol, and how lists describe them: one file a protocol.

contract.py says what each must tell, concentrated.py has what V3, V4 and their forks share, held.py
names those held and is what the rest of the writer asks. A protocol more is a row in
layouts/protocols.py, a file here and its name in held.py; a fork whose contracts are the same is a name
in LISTED_NAMES, one that differs in storage alone a layout besides.
"""
