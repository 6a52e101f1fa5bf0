/* route_carry.c: the trades of a split in integers, each pool once, in an order in which each finds what goes in.
 *
 * A token is shared out when all that leads into it is done: what is there goes to its pools by their trades, and
 * the largest takes the rest. A pool whose ranges are used up takes what they hold; the others share what is over.
 * Where tokens flow in a circle, a pool of it goes first, with what is there already.
 *
 * What no pool takes of a token in the middle must not come there: what leads into it is cut by a little more than
 * that share, back to the token sold, and all is carried out again.
 */
#include "route_split.h"

#define MOST_CUTS 24

typedef struct {
    split *s;
    psa_route_part *made;
    uint32_t count, ticks;
    u128 held[MOST_TOKENS];
} carrier;

static int is_due(const split_part *part) {
    return part->direction >= 0 && part->plan >= 1 && !part->is_done;
}

int route_ask_part(const psa_route *route, uint32_t pool, int direction, split_ask *ask) {
    u128 wanted = ask->in;
    ask->out = 0, ask->ticks = 0, ask->is_full = 0;
    while (ask->in > 0) {
        uint64_t words[4] = {(uint64_t)ask->in, (uint64_t)(ask->in >> 64), 0, 0};
        psa_quote_result result = {0};
        int status = route_ask(route, pool, direction, 0, words, &result);
        ask->is_full = ask->in < wanted || status != PSA_OK;
        if (status == PSA_OK && !(result.amount_out[2] | result.amount_out[3])) {
            ask->out = (u128)result.amount_out[1] << 64 | result.amount_out[0];
            ask->ticks = result.ticks_crossed;
            return 1;
        }
        u128 taken = (u128)result.amount_in[1] << 64 | result.amount_in[0];
        ask->in = status == PSA_INSUFFICIENT_LIQUIDITY && taken < ask->in ? taken : 0;
    }
    return 0;
}

static void take(carrier *c, uint32_t i) {
    split_part *part = &c->s->parts[i];
    const split_ask *ask = &c->s->asks[i];
    part->is_done = 1;
    if (ask->in == 0) return;
    c->held[split_from(part)] -= ask->in, c->held[split_to(part)] += ask->out;
    c->ticks += ask->ticks;
    c->made[c->count++] = split_made(part->pool, part->direction, ask->in, ask->out);
}

/* Ask the pools of one token that are not full for their shares; whether another one is full now. */
static int ask_shares(const carrier *c, uint32_t token, double plans, u128 rest, uint32_t largest) {
    split *s = c->s;
    u128 left = rest;
    double whole = (double)rest;
    int has_filled = 0;
    for (uint32_t n = 0; n <= s->count; n++) { /* the largest comes last */
        uint32_t i = n < s->count ? n : largest;
        const split_part *part = &s->parts[i];
        split_ask *ask = &s->asks[i];
        if ((n < s->count && i == largest) || !is_due(part) || split_from(part) != token || ask->is_full)
            continue;
        u128 amount = n < s->count ? (u128)(whole * (part->plan / plans)) : left;
        ask->in = amount < left ? amount : left;
        left -= ask->in;
        route_ask_part(s->route, part->pool, part->direction, ask);
        has_filled |= ask->is_full;
    }
    return has_filled;
}

/* All that is there of a token; what nobody takes. */
static u128 share_out(carrier *c, uint32_t token) {
    split *s = c->s;
    for (uint32_t i = 0; i < s->count; i++) s->asks[i].is_full = 0;
    u128 rest;
    for (;;) {
        double plans = 0, most = 0;
        uint32_t largest = NONE;
        rest = c->held[token];
        for (uint32_t i = 0; i < s->count; i++) {
            const split_part *part = &s->parts[i];
            if (!is_due(part) || split_from(part) != token) continue;
            if (s->asks[i].is_full) {
                rest -= s->asks[i].in;
                continue;
            }
            plans += part->plan;
            if (part->plan > most) most = part->plan, largest = i;
        }
        if (largest == NONE) break;
        if (ask_shares(c, token, plans, rest, largest)) continue;
        rest = 0;
        break;
    }
    for (uint32_t i = 0; i < s->count; i++)
        if (is_due(&s->parts[i]) && split_from(&s->parts[i]) == token) take(c, i);
    return rest;
}

/* A token that something leaves and nothing comes to any more. */
static uint32_t ready_token(const carrier *c) {
    uint32_t leaves = 0, comes = 0;
    for (uint32_t i = 0; i < c->s->count; i++) {
        const split_part *part = &c->s->parts[i];
        if (!is_due(part)) continue;
        leaves |= 1u << split_from(part), comes |= 1u << split_to(part);
    }
    leaves &= ~comes;
    return leaves ? (uint32_t)__builtin_ctz(leaves) : NONE;
}

/* Swap one pool of a circle out of a token that others leave, too: the smallest for which all is there, else the one
 * for which most is. 0: there is none. */
static int break_circle(carrier *c) {
    split *s = c->s;
    uint32_t reach[MOST_TOKENS] = {0}, leaving[MOST_TOKENS] = {0}, best = NONE;
    for (uint32_t i = 0; i < s->count; i++) {
        const split_part *part = &s->parts[i];
        if (is_due(part)) reach[split_from(part)] |= 1u << split_to(part), leaving[split_from(part)]++;
    }
    for (uint32_t k = 0; k < s->tokens; k++)
        for (uint32_t t = 0; t < s->tokens; t++)
            if (reach[t] >> k & 1) reach[t] |= reach[k];
    double least = INFINITY, most = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const split_part *part = &s->parts[i];
        if (!is_due(part)) continue;
        uint32_t from = split_from(part);
        if (!(reach[split_to(part)] >> from & 1) || leaving[from] < 2 || c->held[from] == 0) continue;
        double there = (double)c->held[from] / part->plan, value = part->plan * exp(s->price[from]);
        if (there >= 1 ? value < least : least == INFINITY && there > most) {
            if (there >= 1) least = value;
            else most = there;
            best = i;
        }
    }
    if (best == NONE) return 0;
    const split_part *part = &s->parts[best];
    u128 held = c->held[split_from(part)];
    s->asks[best].in = part->plan < (double)held ? (u128)part->plan : held;
    route_ask_part(s->route, part->pool, part->direction, &s->asks[best]);
    take(c, best);
    return 1;
}

/* The swaps; else 0, and the token of which something is over: NONE where a circle cannot be begun. */
static int carry(carrier *c, uint32_t *over, double *share) {
    split *s = c->s;
    for (;;) {
        uint32_t token = ready_token(c);
        if (token == NONE) {
            if (!break_circle(c)) break;
            continue;
        }
        u128 held = c->held[token], left = share_out(c, token);
        if (left == 0) continue;
        *over = token, *share = ((double)left + 1) / (double)held;
        return 0;
    }
    *over = NONE;
    for (uint32_t i = 0; i < s->count; i++)
        if (is_due(&s->parts[i])) return 0;
    for (uint32_t t = 0; t < s->tokens; t++) {
        if (t == 1 || c->held[t] == 0) continue;
        *over = t, *share = 1; /* a dead end */
        return 0;
    }
    return 1;
}

/* Plan for less of a token, and for less of what it would be got for. */
static void cut(split *s, uint32_t token, double kept) {
    double pending[MOST_TOKENS];
    for (uint32_t t = 0; t < s->tokens; t++) pending[t] = 1;
    pending[token] = kept;
    for (uint32_t turn = 0; turn < 2 * s->tokens; turn++) {
        uint32_t t = 2;
        while (t < s->tokens && pending[t] == 1) t++;
        if (t == s->tokens) return;
        double before[MOST_TOKENS] = {0}, after[MOST_TOKENS] = {0};
        for (uint32_t i = 0; i < s->count; i++) {
            split_part *part = &s->parts[i];
            if (part->direction < 0) continue;
            before[split_from(part)] += part->plan;
            if (split_to(part) == t) part->plan *= pending[t];
            after[split_from(part)] += part->plan;
        }
        pending[t] = 1;
        for (uint32_t from = 2; from < s->tokens; from++)
            if (after[from] < before[from]) pending[from] *= after[from] / before[from];
    }
}

/* Nothing into a token that nothing leaves: what the last step of the search did not balance. */
static void close_dead_ends(split *s) {
    for (uint32_t turn = 0; turn < s->tokens; turn++) {
        uint32_t leaves = 1u << 1, has_closed = 0;
        for (uint32_t i = 0; i < s->count; i++)
            if (is_due(&s->parts[i])) leaves |= 1u << split_from(&s->parts[i]);
        for (uint32_t i = 0; i < s->count; i++) {
            split_part *part = &s->parts[i];
            if (!is_due(part) || leaves >> split_to(part) & 1) continue;
            part->plan = 0, has_closed = 1;
        }
        if (!has_closed) return;
    }
}

void route_sum_up(const psa_route *route, const psa_route_gas *gas, const psa_route_part *parts,
                  uint32_t count, u128 out, psa_route_split_sum *sum) {
    uint32_t pools[MOST_POOLS];
    for (uint32_t i = 0; i < count; i++) pools[i] = parts[i].pool;
    sum->amount_out[0] = (uint64_t)out, sum->amount_out[1] = (uint64_t)(out >> 64);
    sum->amount_out[2] = sum->amount_out[3] = 0;
    sum->gas = route_gas(gas, route, pools, count) + gas->tick * sum->ticks_crossed;
}

int route_carry_out(split *s, const psa_route_gas *gas, psa_route_part *parts, uint32_t *count,
                    psa_route_split_sum *sum) {
    for (uint32_t i = 0; i < s->count; i++) {
        s->parts[i].plan = s->parts[i].direction < 0 ? 0 : s->parts[i].in;
        s->asks[i] = (split_ask){0};
    }
    for (int turn = 1; turn <= MOST_CUTS; turn++) {
        carrier c = {.s = s, .made = parts};
        uint32_t over = NONE;
        double share = 0;
        for (uint32_t i = 0; i < s->count; i++) s->parts[i].is_done = 0;
        close_dead_ends(s);
        c.held[0] = (u128)sum->amount_in[1] << 64 | sum->amount_in[0];
        if (carry(&c, &over, &share)) {
            if (c.held[1] == 0) return PSA_INSUFFICIENT_LIQUIDITY;
            *count = c.count;
            sum->ticks_crossed = c.ticks;
            route_sum_up(s->route, gas, parts, c.count, c.held[1], sum);
            return PSA_OK;
        }
        if (over == NONE || over == 0) break;
        share *= 1 + turn; /* less in gives less than that less out */
        cut(s, over, share < 1 ? 1 - share : 0);
    }
    return PSA_INSUFFICIENT_LIQUIDITY;
}
