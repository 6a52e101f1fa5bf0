// SPDX-License-Identifier: MIT
pragma solidity 0.8.26;

interface Token {
    function transfer(address to, uint256 amount) external returns (bool);
}

interface Pair {
    function getReserves() external view returns (uint112, uint112, uint32);
    function swap(uint256 amount0Out, uint256 amount1Out, address to, bytes calldata data) external;
}

interface Pool {
    function swap(address to, bool zeroForOne, int256 amountSpecified, uint160 limit, bytes calldata data)
        external
        returns (int256, int256);
}

struct PoolKey {
    address currency0;
    address currency1;
    uint24 fee;
    int24 tickSpacing;
    address hooks;
}

struct SwapParams {
    bool zeroForOne;
    int256 amountSpecified;
    uint160 limit;
}

interface Manager {
    function unlock(bytes calldata data) external returns (bytes memory);
    function swap(PoolKey calldata key, SwapParams calldata params, bytes calldata data) external returns (int256);
    function sync(address currency) external;
    function settle() external payable returns (uint256);
    function take(address currency, address to, uint256 amount) external;
}

/// Swaps one after another with what it holds, each in a call to its pool. For tests: anybody may call it.
/// Compiled by the command in swapper.py.
contract Swapper {
    uint160 constant LOWEST = 4295128739 + 1;
    uint160 constant HIGHEST = 1461446703485210103287273052203988822378723970342 - 1;

    struct Swap {
        uint256 kind; // 2, 3 or 4
        address pool; // of V4 the manager
        address tokenIn;
        address tokenOut;
        uint24 fee; // of V4
        int24 tickSpacing; // of V4
        bool zeroForOne;
        int256 amount; // above 0 what goes in, below 0 what comes out
    }

    receive() external payable {}

    function run(Swap[] calldata swaps) external {
        for (uint256 i = 0; i < swaps.length; i++) {
            Swap calldata each = swaps[i];
            if (each.kind == 2) {
                swapPair(each);
            } else if (each.kind == 3) {
                uint160 limit = each.zeroForOne ? LOWEST : HIGHEST;
                Pool(each.pool).swap(
                    address(this), each.zeroForOne, each.amount, limit, abi.encode(each.tokenIn)
                );
            } else {
                Manager(each.pool).unlock(abi.encode(each));
            }
        }
    }

    /// The pair only checks its product: UniswapV2Library's formulas give the other amount.
    function swapPair(Swap calldata each) private {
        (uint256 reserveIn, uint256 reserveOut,) = Pair(each.pool).getReserves();
        if (!each.zeroForOne) (reserveIn, reserveOut) = (reserveOut, reserveIn);
        uint256 paid;
        uint256 given;
        if (each.amount > 0) {
            paid = uint256(each.amount);
            given = paid * 997 * reserveOut / (reserveIn * 1000 + paid * 997);
        } else {
            given = uint256(-each.amount);
            paid = reserveIn * given * 1000 / ((reserveOut - given) * 997) + 1;
        }
        Token(each.tokenIn).transfer(each.pool, paid);
        (uint256 out0, uint256 out1) = each.zeroForOne ? (uint256(0), given) : (given, uint256(0));
        Pair(each.pool).swap(out0, out1, address(this), "");
    }

    function uniswapV3SwapCallback(int256 amount0, int256 amount1, bytes calldata data) external {
        Token(abi.decode(data, (address))).transfer(msg.sender, uint256(amount0 > 0 ? amount0 : amount1));
    }

    function pancakeV3SwapCallback(int256 amount0, int256 amount1, bytes calldata data) external {
        Token(abi.decode(data, (address))).transfer(msg.sender, uint256(amount0 > 0 ? amount0 : amount1));
    }

    function unlockCallback(bytes calldata data) external returns (bytes memory) {
        Swap memory each = abi.decode(data, (Swap));
        (address low, address high) =
            each.zeroForOne ? (each.tokenIn, each.tokenOut) : (each.tokenOut, each.tokenIn);
        int256 delta = Manager(msg.sender).swap(
            PoolKey(low, high, each.fee, each.tickSpacing, address(0)),
            SwapParams(each.zeroForOne, -each.amount, each.zeroForOne ? LOWEST : HIGHEST),
            ""
        );
        int256 first = delta >> 128;
        int256 second = int128(delta);
        (int256 paid, int256 given) = each.zeroForOne ? (-first, second) : (-second, first);
        if (each.tokenIn == address(0)) {
            Manager(msg.sender).settle{value: uint256(paid)}();
        } else {
            Manager(msg.sender).sync(each.tokenIn);
            Token(each.tokenIn).transfer(msg.sender, uint256(paid));
            Manager(msg.sender).settle();
        }
        Manager(msg.sender).take(each.tokenOut, address(this), uint256(given));
        return "";
    }
}
