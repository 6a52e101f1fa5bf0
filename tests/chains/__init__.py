"""A real EVM node with real Uniswap and PancakeSwap contracts, as an independent source of truth.

Nothing here imports the product: JSON-RPC client, ABI encoding and assembler are its own, keccak
is the node's. The node binary and the contracts' bytecode come from npm (`package.json`); the
first use runs `npm install` into `tests/chains/node_modules`, or below the folder that PSA_NODE_DIR
names. Tests that use it carry the marker `node`.

    from chains.market import Market
    from chains.process import Node

    with Node(tmp_path) as node:                    # node.http, node.ws, node.ipc
        market = Market(node, seed=1)
        market.create_pools(v2=75, v3=75, v4=75, cake=75)
        market.trade(12)                            # 12 transactions into the pool of pending ones
        block = node.mine()                         # {"number", "hash", "parentHash", ...}
        market.step(12)                             # the same two in one
        truth = market.states(block["hash"])        # {pool key: plain dict}, from getters only
        logs = node.logs(block["hash"])
        market.reorg(3, method="anvil_reorg", operations=8)  # or "evm_revert", "anvil_rollback"
        market.pool_list()                          # what a pool list file holds

A state is `{"reserve0", "reserve1"}` or `{"sqrt_price_x96", "tick", "liquidity", "ticks"}` with
ticks as ascending [tick, gross, net], V4 with `protocol_fee` and `lp_fee` besides. Keys are
lower-case 0x-hex: the address, or the pool id of V4.
"""
