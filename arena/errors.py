"""Every exception of the project: one root, one class per decision a caller can take.

Exceptions carry what was found as keyword fields (also attributes); the message shows the numbers and
the remedy. Wrong arguments are ValueError or TypeError, and the classes that are both say so.
"""

from typing import Any


class ArenaError(Exception):
    """Root of every exception of this project.

    `fields` holds the facts behind the message; each is an attribute too.
    """

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), str(self), self.fields))


def _rebuild(cls: type[ArenaError], message: str, fields: dict[str, Any]) -> ArenaError:
    return cls(message, **fields)


# Attaching and owning the segment


class ArenaMissing(ArenaError):
    """No segment of that name exists."""


class ArenaPermission(ArenaError):
    """The segment exists, but this user may not open it."""


class OwnerMismatch(ArenaError):
    """The segment belongs to another user than the one expected."""


class ArenaNotReady(ArenaError):
    """The segment exists, but its writer has not finished creating it."""


class LayoutMismatch(ArenaError):
    """The segment was written by a build with another memory layout."""


class ArenaDamaged(LayoutMismatch):
    """The segment was cut short, or its content contradicts itself: no writer left it like this."""


class WriterDead(ArenaError):
    """No living writer holds the arena's lock."""


class ArenaBusy(ArenaError):
    """Another living writer owns the arena."""


class ArenaFull(ArenaError):
    """A capacity is reached: pools, ticks, tokens, or pages of the shared memory file system."""


class ArenaReplaced(ArenaError):
    """The arena was re-created or grown, and this handle was told not to follow."""


class ArenaClosed(ArenaError):
    """The handle was closed."""


# Pools and snapshots


class UnknownPool(ArenaError, KeyError):
    """The arena has no pool of that key."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class AmbiguousPool(ArenaError):
    """Several pools fit what was asked for."""


class UnknownToken(ArenaError, KeyError):
    """No pool has a token of that address or symbol, or several tokens have that symbol."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class AmbiguousToken(UnknownToken):
    """Several tokens have that symbol."""


class UnknownDecimals(ArenaError, ValueError):
    """How many decimals the token has is not known, so whole ones cannot be counted."""


class PoolRemoved(ArenaError):
    """The pool behind this handle was removed from the arena."""


class PoolStale(ArenaError):
    """The pool's numbers may be wrong, or it is still syncing."""


class SnapshotTooOld(ArenaError):
    """A pool has been overwritten twice since the snapshot was taken."""


class SnapshotContended(ArenaError):
    """The retry budget of a read is spent: the writer was faster every time."""


# Quotes


class QuoteError(ArenaError):
    """The contract would revert this swap, or it cannot be answered from the arena."""


class AmountOutOfRange(QuoteError, ValueError):
    """The amount is negative, zero where the contract refuses zero, or too large for it."""


class PriceLimitReached(QuoteError, ValueError):
    """The price limit is not between the present price and the end of the range."""


class InsufficientLiquidity(QuoteError):
    """The pool cannot pay that output."""


class PoolNotInitialized(QuoteError):
    """The pool exists but has no price yet; V2: a reserve is 0."""


class HookedPool(QuoteError):
    """The pool's hooks can alter a swap, so no quote from state alone is exact."""


class DynamicFee(QuoteError):
    """The LP fee may change without an event: pass it, or allow the stored one."""


class FeeTooHigh(QuoteError):
    """V4 refuses exact output at a total fee of 100 %."""


class SwapReverts(QuoteError):
    """The contract would revert for another reason: an intermediate value overflows, or a swap that is to be
    made, FrozenPool.after, is one that a pair refuses."""


class TickDataCorrupt(QuoteError):
    """The pool's ticks contradict its liquidity."""


# Feed


class FeedError(ArenaError):
    """Root of what can go wrong on the event stream."""


class Connection(FeedError):
    """The socket refused, ended (also in mid-frame) or failed."""


class PeerRefused(FeedError):
    """Another user's process than the one named answers on the socket; nothing of it is read."""


class Deserialization(FeedError):
    """A frame is not what the wire format allows; the connection cannot be trusted further."""


class UnsupportedGeneration(Deserialization):
    """The stream speaks a generation this reader refuses."""


class InvalidMessage(FeedError):
    """A well-formed message in the wrong place; its block is skipped."""


class BufferOverflow(FeedError):
    """More events arrived while buffering than the buffer may hold."""


# Processor


class ProcessorError(ArenaError):
    """Root of what can be wrong with one event."""


class PoolNotFound(ProcessorError):
    """The event's pool is not in the arena."""


class InvalidEventData(ProcessorError):
    """A required field is missing or out of range, or state contradicts itself."""


class ArithmeticOverflow(ProcessorError):
    """Applying the event would overflow or underflow a field."""


class UnsupportedProtocol(ProcessorError):
    """The event belongs to a protocol this arena does not hold."""


class UnsupportedEventType(ProcessorError):
    """The event's type is not known for its protocol."""


class ReorgTooDeep(ProcessorError):
    """A reverted block is older than what was kept to undo it: the undo ring, a bridge's history."""


class ReorgMismatch(ProcessorError):
    """A reverted block's payload does not match what was applied."""


# Coordinator and scrapers


class CoordinatorError(ArenaError):
    """Root of what can go wrong while starting and staying live."""


class AlreadyLive(CoordinatorError):
    """A cold start was asked of a coordinator that is live."""


class NotLive(CoordinatorError):
    """An operation that needs a live arena was asked before it is live."""


class Scraper(CoordinatorError):
    """Pool state could not be read from its source."""


class ArenaRegistry(CoordinatorError):
    """A scraped pool could not be installed in the arena."""


class CoverageError(CoordinatorError):
    """Scraped blocks and received blocks do not join without a hole."""


class StateFileError(Scraper):
    """A state file line is not valid."""


class PoolInvalid(Scraper):
    """A pool's scraped values contradict each other."""


# A node's blocks and logs


class NodeBehind(Scraper):
    """The node does not have a block the stream has already sent."""


class ChainMoved(Scraper):
    """What the node answered belongs to two branches, or to another one than the stream's."""


class LogsRefused(Scraper):
    """The node does not give the logs of this range: too many blocks or too large an answer."""


class LogInvalid(Scraper):
    """A block or log of the node is not encoded as it has to be."""


class GapNotClosed(Scraper):
    """Missing blocks could not be fetched from the node; the pools are read anew."""


class AccountMissing(PoolInvalid):
    """The account that should hold the pool's storage does not exist at that block."""


class DatabaseRefused(Scraper):
    """Root of why a node's database cannot be read, or its content not be trusted now."""


class DatabaseMissing(DatabaseRefused):
    """There is no database file at that path."""


class DatabasePermission(DatabaseRefused):
    """This user may not open the database's files as reading needs it."""


class DatabaseLocked(DatabaseRefused):
    """The database's lock cannot be taken: held exclusively, or not shareable from here."""


class DatabaseVersion(DatabaseRefused):
    """The database was written by an incompatible version."""


class DatabaseDamaged(DatabaseRefused):
    """The files are truncated, corrupt, or not a node's database."""


class DatabaseUnreadable(DatabaseRefused):
    """The operating system or the library refused for another reason."""


class NotAtRest(DatabaseRefused):
    """The node's stages stand at different blocks: its hashed state belongs to none of them."""


class PartialPersistence(DatabaseRefused):
    """The node has written only a part of its newest block."""


class OtherFork(DatabaseRefused):
    """The block the database stands at is not on the chain the node follows now."""


class RpcError(Scraper):
    """Root of why a node's JSON-RPC interface gave no usable answer."""


class RpcUnavailable(RpcError):
    """The node could not be reached, or gave no whole answer, in any of the tries."""


class RpcRefused(RpcError):
    """The node answered with an error; `code` and `reason` are its own."""


class RpcAnswerInvalid(RpcError):
    """The node's answer is not what the method promises."""


class ChainMismatch(RpcError):
    """The node follows another chain than the one asked for."""


class BlockUnavailable(RpcError):
    """The node does not have that block, or no longer its state."""


class NodeSyncing(BlockUnavailable):
    """The node is still fetching its chain: what it has is not the chain's state yet."""


class PoolListError(Scraper):
    """A list of pools cannot be read, or names no usable pool."""


class CheckpointRefused(ArenaError):
    """A checkpoint is damaged, or of another chain, branch or layout."""


class PoolEntryInvalid(PoolInvalid):
    """One entry of a list of pools does not describe a pool this arena can hold."""


class PoolMessageInvalid(Scraper):
    """A message about a list of pools is not what its publishers send; nothing of it is applied."""


# Running the writer


class SettingsError(ArenaError):
    """A setting cannot be used: an unknown key, a wrong type, a value out of range, an unreadable file."""


class PortRefused(ArenaError):
    """The port of the metrics cannot be listened on: it is in use, or not this user's to take."""
