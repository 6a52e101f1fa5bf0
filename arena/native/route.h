/* route.h: an index of pools by token, private to a process, that answers what a trade is worth.
 *
 * Doubles search, integers decide. The index keeps exact copies of lines, rows and ticks at one commit beside what
 * the search needs of them as doubles; every amount handed out was asked of psa_quote_copy on those copies.
 *
 * Prices. One price per token, in units of the numeraire; any prices will do. Against them a pool alone can give at
 * most its bound, and a cycle at most the sum of the bounds of its pools (weak duality), so a pool whose bound is
 * below the floor cannot carry a cycle that is worth more than the floor a pool: its weight, the log of its rate
 * against the prices, counts as 0 then. On a cycle the prices cancel, so weights sum to the log of what it returns.
 *
 * Unlike the functions of arena.h these allocate; PSA_NO_MEMORY leaves nothing but psa_route_free to be called.
 */
#ifndef PSA_ROUTE_H
#define PSA_ROUTE_H

#include "arena.h"

/* cffi: begin */

#define PSA_ROUTE_HOPS 4
#define PSA_ROUTE_NONE 4294967295 /* no pool, no token */

typedef struct psa_route psa_route;

typedef struct {
    uint64_t commit;
    uint64_t topology;       /* of the commit it was built or brought up to */
    uint32_t pools;
    uint32_t usable;         /* of them those that can be asked and whose tokens have a price */
    uint32_t tokens;
    uint32_t pairs;
    uint32_t hot;            /* pairs, by direction, of which some pool's bound is above the floor */
    uint32_t unpriced;       /* tokens that no path joins to the numeraire */
    double floor;            /* units of the numeraire */
} psa_route_facts;

/* Costs in units of the numeraire. */
typedef struct {
    double fixed;            /* of a transaction */
    double swaps[24];        /* of a swap, by protocol */
    double tick;             /* of each tick that is crossed */
} psa_route_gas;

/* Swaps one after another, each with all that the one before gave. */
typedef struct {
    double profit;           /* cycles: what is left of it after gas, units of the numeraire */
    double gas;              /* units of the numeraire */
    uint32_t hops;
    uint32_t token;          /* that goes in, index in the token table */
    uint32_t ticks_crossed;
    uint32_t reserved;
    uint32_t pools[4];       /* index in the arrays it was built from */
    uint8_t zero_for_one[4];
    uint64_t amounts[5][4];  /* into the first pool, then out of each; wei */
} psa_route_answer;

/* One swap of a split. */
typedef struct {
    uint32_t pool;           /* as in an answer */
    uint8_t zero_for_one;
    uint8_t reserved[3];
    uint64_t amount_in[4];   /* wei */
    uint64_t amount_out[4];
} psa_route_part;

#define PSA_ROUTE_TOKENS 32  /* of a split at most */

typedef struct {
    uint64_t amount_in[4];   /* wei */
    uint64_t amount_out[4];
    double bound;            /* of what comes out: no routing through the pools between these tokens gives more; wei */
    double order_bound;      /* none does that passes the tokens on in the order that was found; wei */
    double gas;              /* units of the numeraire */
    uint32_t ticks_crossed;
    uint32_t token_count;
    uint32_t tokens[32];     /* indices in the token table */
} psa_route_split_sum;

/* What all pools together would give away; units of the numeraire, gas aside. */
typedef struct {
    double bound;            /* no trades at all that leave no token short leave more than this */
    double profit;           /* what the parts leave of the numeraire, less what they leave short of other tokens */
    double uncovered;        /* the latter */
    uint32_t parts;
    uint32_t turns;          /* of the search */
    uint32_t is_settled;     /* nothing is left at the prices; else they may be off, and the bound high */
    uint32_t reserved;
} psa_route_market_sum;

#define PSA_ROUTE_PARTS 512  /* pools of a split at most */

int psa_route_new(psa_route **route);
void psa_route_free(psa_route *route);

/* Build the index anew. lines, rows (count,) and references (count,) of pools at one commit; starts (count + 1,),
 * ticks and net as psa_snapshot_ticks gives them; fees (count,): an LP fee the caller vouches for, in pips, else
 * PSA_ROUTE_NONE; `numeraire` is an index in the token table. `record` is that commit's. `whole`: they are all
 * pools of the arena. psa_route_reprice must follow before it is searched. PSA_BAD_ARGUMENT when no pool has the
 * numeraire, or for a pool that comes twice. */
int psa_route_build(psa_route *route, const psa_commit_record *record, const psa_line *lines,
                    const psa_static *rows, const uint64_t *references, const uint64_t *starts,
                    const int32_t *ticks, const uint64_t *net, const uint32_t *fees, uint32_t count,
                    uint32_t numeraire, int whole);

/* Bring it up to the newest commit; `record` becomes that commit's, if it is another. touched (pools,): which changed, in the order of slots.
 * PSA_POOL_REMOVED when pools were added or removed since, or slots given out again: build it anew.
 * PSA_CONTENDED when every try was overtaken; the index is at the commit it was at before. */
int psa_route_update(psa_route *route, const psa_arena *arena, psa_commit_record *record,
                     uint32_t *touched, uint32_t *count);

/* Take other prices, units of the numeraire a unit of each token (tokens,), and another floor; null: those of the
 * widest paths now. Answers stay the same, the time they take does not. */
int psa_route_reprice(psa_route *route, const double *log_prices, double floor);

void psa_route_read_facts(const psa_route *route, psa_route_facts *facts);

/* By token (tokens,): index in the token table; log of the price by the widest path now, in units of the
 * numeraire; the pool it came by, PSA_ROUTE_NONE for the numeraire and where there is none (price -inf). */
int psa_route_prices(psa_route *route, uint32_t *tokens, double *log_prices, uint32_t *by);

/* By pool and direction (pools, 2), zero for one first: log of the marginal rate after the fee, in units; -inf where
 * it cannot be asked. */
void psa_route_rates(const psa_route *route, double *log_rates);

/* All cycles of two to max_hops pools through at least one of `seeds` that leave more than min_profit after gas,
 * the best first: the first `capacity` of them; *count is how many there are. No pool and no token comes twice in
 * one. With `each` 0 only the best of those that differ in nothing but pools of the same pairs. */
int psa_route_cycles(psa_route *route, const uint32_t *seeds, uint32_t seed_count, uint32_t max_hops,
                     int each, const psa_route_gas *gas, double min_profit, psa_route_answer *answers,
                     uint32_t capacity, uint32_t *count);

/* The path of at most max_hops pools that gives most for `amount`, or takes least for it with exact_out. Tokens
 * are indices in the token table. PSA_INSUFFICIENT_LIQUIDITY when there is none, PSA_BAD_ARGUMENT for a token no
 * pool has. */
int psa_route_best(psa_route *route, uint32_t sell, uint32_t buy, const uint64_t *amount, int exact_out,
                   uint32_t max_hops, const psa_route_gas *gas, psa_route_answer *answer);

/* The most that `amount` gives over all pools between the tokens of the best paths, each swapped once, in an order in
 * which each swap finds what goes in: parts has room for PSA_ROUTE_PARTS. Pools that give less than their swap costs
 * are left out while that leaves more. `amount` is below 2^127. As psa_route_best; with PSA_INSUFFICIENT_LIQUIDITY
 * the sum has its bound, where there are paths at all. */
int psa_route_split(psa_route *route, uint32_t sell, uint32_t buy, const uint64_t *amount,
                    uint32_t max_hops, const psa_route_gas *gas, psa_route_part *parts, uint32_t *count,
                    psa_route_split_sum *sum);

/* The trades, one a pool at most, that together leave most of the numeraire, and the prices at which nothing is left
 * to anybody. log_prices (tokens,): of these, in units of the numeraire; the search begins where the last one ended.
 * parts has room for all pools. */
int psa_route_market(psa_route *route, double *log_prices, psa_route_part *parts, psa_route_market_sum *sum);

/* Whether both were built of the same pools and hold the same, bit for bit. */
int psa_route_same(const psa_route *one, const psa_route *other);

/* cffi: end */

#endif
