/* route_answers.c: what is handed out, in the integers of the pools' own quotes. */
#include "route_index.h"

double route_gas(const psa_route_gas *gas, const psa_route *route, const uint32_t *pools,
                     uint32_t hops) {
    double cost = gas->fixed;
    for (uint32_t i = 0; i < hops; i++) cost += gas->swaps[route->pools[pools[i]].protocol % 24];
    return cost;
}

int route_answer(const psa_route *route, psa_route_answer *answer, const uint64_t amount[4],
                 int exact_out) {
    psa_quote_result result;
    uint32_t hops = answer->hops;
    answer->ticks_crossed = 0;
    memcpy(answer->amounts[exact_out ? hops : 0], amount, sizeof answer->amounts[0]);
    for (uint32_t n = 0; n < hops; n++) {
        uint32_t i = exact_out ? hops - 1 - n : n;
        int status = route_ask(route, answer->pools[i], !answer->zero_for_one[i], exact_out,
                               answer->amounts[exact_out ? i + 1 : i], &result);
        if (status != PSA_OK) return status;
        memcpy(answer->amounts[exact_out ? i : i + 1], exact_out ? result.amount_in : result.amount_out,
               sizeof result.amount_in);
        answer->ticks_crossed += result.ticks_crossed;
    }
    const psa_static *first = &route->rows[answer->pools[0]];
    answer->token = answer->zero_for_one[0] ? first->token0 : first->token1;
    return PSA_OK;
}

static double difference(const uint64_t more[4], const uint64_t less[4]) {
    uint64_t words[4], borrow = 0;
    for (int i = 0; i < 4; i++) {
        unsigned __int128 here = (unsigned __int128)more[i] - less[i] - borrow;
        words[i] = (uint64_t)here, borrow = (uint64_t)(here >> 64) & 1;
    }
    if (!borrow) return route_amount(words);
    for (int i = 0; i < 4; i++) words[i] = ~words[i];
    return -route_amount(words) - 1;
}

/* The best input may be all that a pool's last range takes, and the doubles a little above that: then a little less. */
int route_ask_near(const psa_route *route, psa_route_answer *answer, double input) {
    static const double less[] = {0, 1e-12, 1e-9, 1e-6, 1e-3};
    int status = PSA_INSUFFICIENT_LIQUIDITY;
    for (size_t i = 0; i < sizeof less / sizeof *less && status == PSA_INSUFFICIENT_LIQUIDITY; i++) {
        unsigned __int128 whole = (unsigned __int128)(input - input * less[i]);
        uint64_t amount[4] = {(uint64_t)whole, (uint64_t)(whole >> 64), 0, 0};
        status = route_answer(route, answer, amount, 0);
    }
    return status;
}

/* 0 when it is not worth it after all, or a swap is refused. */
static int settle(const psa_route *route, const route_cycle *cycle, const psa_route_gas *gas,
                  double min_profit, psa_route_answer *answer) {
    if (!(cycle->input >= 1 && cycle->input < 0x1p127)) return 0;
    *answer = (psa_route_answer){.hops = cycle->hops};
    for (uint32_t i = 0; i < cycle->hops; i++) {
        answer->pools[i] = cycle->pools[i];
        answer->zero_for_one[i] = cycle->direction[i] == 0;
    }
    if (route_ask_near(route, answer, cycle->input) != PSA_OK) return 0;
    const route_pool *first = &route->pools[cycle->pools[0]];
    double gain = difference(answer->amounts[cycle->hops], answer->amounts[0]);
    answer->gas = route_gas(gas, route, answer->pools, answer->hops) + gas->tick * answer->ticks_crossed;
    answer->profit = gain * route->worth[first->token[cycle->direction[0]]] - answer->gas;
    return gain > 0 && answer->profit > min_profit;
}

static int compare_cycles(const void *a, const void *b) {
    const route_cycle *one = a, *other = b;
    if (one->hops != other->hops) return one->hops < other->hops ? -1 : 1;
    int order = memcmp(one->pools, other->pools, sizeof one->pools);
    return order ? order : memcmp(one->direction, other->direction, sizeof one->direction);
}

/* Of cycles that go through the same pairs the better one comes first. */
typedef struct {
    uint32_t hops;
    uint32_t edges[PSA_ROUTE_HOPS]; /* pair * 2 + direction; 0 behind the last */
} token_cycle;

static token_cycle tokens_of(const psa_route *route, const psa_route_answer *answer) {
    token_cycle found = {.hops = answer->hops};
    for (uint32_t i = 0; i < answer->hops; i++) {
        const route_pool *pool = &route->pools[answer->pools[i]];
        int direction = !answer->zero_for_one[i];
        found.edges[i] = 2 * pool->pair + (uint32_t)(direction ^ pool->side);
    }
    return found;
}

static int compare_answers(const void *a, const void *b) {
    const psa_route_answer *one = a, *other = b;
    if (one->profit != other->profit) return one->profit > other->profit ? -1 : 1;
    int order = memcmp(one->pools, other->pools, sizeof one->pools);
    return order ? order : memcmp(one->zero_for_one, other->zero_for_one, sizeof one->zero_for_one);
}

/* Keep the first of those through the same pairs; they are in order. */
static int drop_parallel(psa_route *route, uint32_t *count) {
    uint32_t size = 16;
    while (size < 2 * *count) size *= 2;
    uint32_t *table = malloc(size * sizeof(uint32_t)), kept = 0;
    if (!table) return PSA_NO_MEMORY;
    memset(table, 0xff, size * sizeof(uint32_t));
    for (uint32_t i = 0; i < *count; i++) {
        token_cycle here = tokens_of(route, &route->answers[i]);
        uint64_t hash = here.hops;
        for (uint32_t j = 0; j < here.hops; j++) hash = (hash ^ here.edges[j]) * 0x9E3779B97F4A7C15u;
        uint32_t at = (uint32_t)(hash >> 32) & (size - 1);
        for (; table[at] != NONE; at = (at + 1) & (size - 1)) {
            token_cycle there = tokens_of(route, &route->answers[table[at]]);
            if (memcmp(&here, &there, sizeof here) == 0) break;
        }
        if (table[at] != NONE) continue;
        table[at] = kept;
        route->answers[kept++] = route->answers[i];
    }
    free(table);
    *count = kept;
    return PSA_OK;
}

int route_settle(psa_route *route, const psa_route_gas *gas, double min_profit, int each,
                 psa_route_answer *answers, uint32_t capacity, uint32_t *count) {
    uint32_t found = 0;
    *count = 0;
    if (route->cycle_count == 0) return PSA_OK;
    if (!route_grow(&route->answers, route->cycle_count, &route->answer_capacity, sizeof(psa_route_answer)))
        return PSA_NO_MEMORY;
    qsort(route->cycles, route->cycle_count, sizeof(route_cycle), compare_cycles);
    for (uint32_t i = 0; i < route->cycle_count; i++) { /* some are found by two ways */
        if (i > 0 && compare_cycles(&route->cycles[i - 1], &route->cycles[i]) == 0) continue;
        found += (uint32_t)settle(route, &route->cycles[i], gas, min_profit, &route->answers[found]);
    }
    qsort(route->answers, found, sizeof(psa_route_answer), compare_answers);
    if (!each) {
        int status = drop_parallel(route, &found);
        if (status != PSA_OK) return status;
    }
    memcpy(answers, route->answers, (found < capacity ? found : capacity) * sizeof(psa_route_answer));
    *count = found;
    return PSA_OK;
}
