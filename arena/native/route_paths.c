/* route_paths.c: the best path between two tokens, for an amount that goes in or comes out.
 *
 * Paths of tokens are taken in the order of what they give at the best marginal rates, which is the most they can
 * give, for all pools are concave; the search ends where that falls below the best found. A weight that was taken for
 * 0 hides at most the floor of value: after n swaps at most n * floor * exp(what later weights add).
 *
 * Pools of one pair are compared by what they give; more into the next pool never gives less, so the best pool of each
 * pair makes the best path through these tokens but for gas. Only where that is more than what follows takes at all, the
 * next best is tried. Where gas counts pools are compared by what they give less their gas, too, at the prices, and the
 * better of both paths is taken.
 */
#include "route_index.h"

typedef struct {
    psa_route *route;
    const psa_route_gas *gas;
    uint32_t sell, buy;
    int exact_out;
    uint64_t amount[4];
    double value;            /* of the amount */
    double hidden;           /* of value, by weights taken for 0 */
    double least_swap;
    double least_weight;     /* sum of weights below which a path of `hops` cannot be the best */
    double highest;          /* weight of all */
    uint32_t hops;
    uint32_t left, right;    /* tokens of the path that are set, from either end */
    uint32_t tokens[PSA_ROUTE_HOPS + 1], pairs[PSA_ROUTE_HOPS];
    int is_out_of_memory, has_answer;
    double score;            /* value out less gas; value in and gas, negative, for exact output */
    psa_route_answer best;
} finder;

/* ---- paths of tokens ---- */

static void add_path(finder *f, double sum) {
    psa_route *route = f->route;
    if (!route_grow(&route->paths, route->path_count + 1, &route->path_capacity, sizeof(route_path))) {
        f->is_out_of_memory = 1;
        return;
    }
    route_path *path = &route->paths[route->path_count++];
    path->bound = route_up(sum);
    path->hops = f->hops;
    memcpy(path->pairs, f->pairs, sizeof path->pairs);
    memcpy(path->tokens, f->tokens, sizeof path->tokens);
}

static int is_taken(const finder *f, uint32_t token) {
    for (uint32_t i = 0; i <= f->left; i++)
        if (f->tokens[i] == token) return 1;
    for (uint32_t i = f->hops - f->right; i <= f->hops; i++)
        if (f->tokens[i] == token) return 1;
    return 0;
}

/* The most that `gap` edges from one token to the other add. */
static double most_between(const finder *f, uint32_t from, uint32_t to, uint32_t gap) {
    double out = f->route->most_out[from], in = f->route->most_in[to];
    return gap == 1 ? (out < in ? out : in) : out + in + (gap - 2) * f->highest;
}

/* All ways to fill what lies between the ends, from the end with fewer neighbours. */
static void fill_path(finder *f, double sum) {
    const psa_route *route = f->route;
    uint32_t from = f->tokens[f->left], to = f->tokens[f->hops - f->right];
    uint32_t gap = f->hops - f->left - f->right;
    if (gap == 1) {
        uint32_t pair = route_find_pair(route, from, to);
        if (pair == NONE) return;
        sum += route_weight(route, pair, from);
        f->pairs[f->left] = pair;
        if (sum > f->least_weight) add_path(f, sum);
        return;
    }
    uint32_t a = route->starts[from], na = route->starts[from + 1] - a;
    uint32_t b = route->starts[to], nb = route->starts[to + 1] - b;
    int is_left = na <= nb;
    uint32_t first = is_left ? a : b, count = is_left ? na : nb;
    for (uint32_t j = first; j < first + count; j++) {
        uint32_t x = route->neighbours[j];
        double all = sum + (is_left ? route->out[j] : route->in[j]);
        double more = is_left ? most_between(f, x, to, gap - 1) : most_between(f, from, x, gap - 1);
        if (all + more <= f->least_weight || is_taken(f, x)) continue;
        if (is_left) {
            f->pairs[f->left++] = route->neighbour_pairs[j];
            f->tokens[f->left] = x;
            fill_path(f, all);
            f->left--;
        } else {
            f->pairs[f->hops - ++f->right] = route->neighbour_pairs[j];
            f->tokens[f->hops - f->right] = x;
            fill_path(f, all);
            f->right--;
        }
    }
}

/* ---- amounts ---- */

static double ask_doubles(const finder *f, const route_pool *pool, int direction, double amount) {
    return f->exact_out ? -route_pool_in(pool, direction, amount) : route_pool_out(pool, direction, amount);
}

/* Of a pair's pools that give less than `limit`, what the best gives, or takes, negative; the least of them all, too. */
static double best_of_pair(const finder *f, uint32_t number, uint32_t from, double amount, double limit,
                           double *least, uint32_t *chosen) {
    const psa_route *route = f->route;
    const route_pair *pair = &route->pairs[number];
    double best = -INFINITY;
    *least = INFINITY;
    for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
        const route_pool *pool = &route->pools[route->by_pair[j]];
        int d = route_direction(pool, from);
        if (pool->weight[d] <= SHUT) continue;
        double found = ask_doubles(f, pool, d, amount);
        if (found > best && found < limit) best = found, *chosen = route->by_pair[j];
        if (found > 0 && found < *least) *least = found;
    }
    return best;
}

/* What the path gives from swap n on, and the pools it takes. Where the most is too much for what follows, *is_tight,
 * other pools of the pair are tried as well: less in may give more then. */
static double walk_from(const finder *f, const route_path *path, uint32_t n, double amount, uint32_t *pools,
                        int *is_tight) {
    if (n >= path->hops || n == PSA_ROUTE_HOPS) return amount;
    double most = -INFINITY, least;
    for (double limit = INFINITY;;) {
        uint32_t tried[PSA_ROUTE_HOPS] = {0};
        int is_bound = 0, was_first = limit == INFINITY;
        limit = best_of_pair(f, path->pairs[n], path->tokens[n], amount, limit, &least, &tried[n]);
        if (!(limit > 0)) return most;
        double given = walk_from(f, path, n + 1, limit, tried, &is_bound);
        if (given > most) {
            most = given;
            memcpy(pools + n, tried + n, (PSA_ROUTE_HOPS - n) * sizeof *pools);
        }
        if (given > 0 && !is_bound) return most;
        *is_tight = 1;
        if (was_first && !(given > 0) &&
            (!(least < limit) || !(walk_from(f, path, n + 1, least, tried, &is_bound) > 0)))
            return most; /* the least is too much, too */
    }
}

/* The best pool of each pair in doubles; what the path gives, or takes, negative. Into `pools` which they are, where
 * *is_tight: else the best in integers may be others. */
static double walk_doubles(const finder *f, const route_path *path, double amount, uint32_t *pools,
                           int *is_tight) {
    *is_tight = 0;
    if (!f->exact_out) return walk_from(f, path, 0, amount, pools, is_tight);
    for (uint32_t n = path->hops; n-- > 0;) {
        double least;
        double best =
            best_of_pair(f, path->pairs[n], path->tokens[n], amount, INFINITY, &least, &pools[n]);
        if (!(best > -INFINITY)) return -INFINITY;
        amount = -best;
    }
    return -amount;
}

static int is_less(const uint64_t a[4], const uint64_t b[4]) {
    for (int i = 3; i >= 0; i--)
        if (a[i] != b[i]) return a[i] < b[i];
    return 0;
}

/* What a pool gives, or takes, negative; with `worth`, of a unit of that, its value less gas. */
static double rated(const finder *f, const route_pool *pool, double amount, double worth, uint32_t ticks) {
    return worth > 0 ? amount * worth - f->gas->swaps[pool->protocol % 24] - f->gas->tick * ticks : amount;
}

/* The best pool of a pair in integers. They never give more than doubles, so after the best in doubles only those are
 * asked that could still be better. `worth` as above, 0: gas does not count. 0: none answers. */
static int ask_pair(const finder *f, uint32_t number, uint32_t from, double worth, const uint64_t amount[4],
                    uint32_t *pool, uint64_t found[4], uint32_t *ticks) {
    const psa_route *route = f->route;
    const route_pair *pair = &route->pairs[number];
    double wanted = route_amount(amount), best = -INFINITY, least = -INFINITY;
    uint32_t first = NONE;
    for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
        const route_pool *here = &route->pools[route->by_pair[j]];
        int d = route_direction(here, from);
        if (here->weight[d] <= SHUT) continue;
        double value = rated(f, here, ask_doubles(f, here, d, wanted), worth, 0);
        if (value > best) best = value, first = j;
    }
    int has_found = 0;
    for (uint32_t n = 0; first != NONE && n <= pair->count; n++) {
        uint32_t j = n == 0 ? first : pair->first + n - 1;
        if (n > 0 && j == first) continue;
        uint32_t i = route->by_pair[j];
        const route_pool *here = &route->pools[i];
        int d = route_direction(here, from);
        if (here->weight[d] <= SHUT) continue;
        double most = rated(f, here, ask_doubles(f, here, d, wanted), worth, 0);
        if (n > 0 && most < least - fabs(least) * 1e-9) continue;
        psa_quote_result result;
        if (route_ask(route, i, d, f->exact_out, amount, &result) != PSA_OK) continue;
        const uint64_t *given = f->exact_out ? result.amount_in : result.amount_out;
        double sign = f->exact_out ? -1 : 1, value = sign * route_amount(given);
        value = rated(f, here, value, worth, result.ticks_crossed);
        if (has_found && worth > 0 && !(value > least)) continue;
        if (has_found && !(worth > 0) && !(f->exact_out ? is_less(given, found) : is_less(found, given)))
            continue;
        has_found = 1, least = value, *pool = i, *ticks = result.ticks_crossed;
        memcpy(found, given, 4 * sizeof(uint64_t));
    }
    return has_found;
}

/* The best pool of each pair in integers. 0: one does not answer. */
static int walk_best(const finder *f, const route_path *path, int with_gas, psa_route_answer *answer) {
    const psa_route *route = f->route;
    uint32_t hops = path->hops, ticks;
    for (uint32_t n = 0; n < hops; n++) {
        uint32_t i = f->exact_out ? hops - 1 - n : n, from = path->tokens[i];
        const uint64_t *amount = answer->amounts[f->exact_out ? i + 1 : i];
        uint64_t *found = answer->amounts[f->exact_out ? i : i + 1];
        double worth = with_gas ? route->worth[path->tokens[f->exact_out ? i : i + 1]] : 0;
        if (!ask_pair(f, path->pairs[i], from, worth, amount, &answer->pools[i], found, &ticks)) return 0;
        answer->zero_for_one[i] = route->pools[answer->pools[i]].token[0] == from;
        answer->ticks_crossed += ticks;
    }
    return 1;
}

/* With these pools. */
static int walk_pools(const finder *f, const route_path *path, const uint32_t *pools, psa_route_answer *answer) {
    for (uint32_t n = 0; n < path->hops; n++) {
        psa_quote_result result;
        int d = route_direction(&f->route->pools[pools[n]], path->tokens[n]);
        if (route_ask(f->route, pools[n], d, 0, answer->amounts[n], &result) != PSA_OK) return 0;
        answer->pools[n] = pools[n], answer->zero_for_one[n] = d == 0;
        answer->ticks_crossed += result.ticks_crossed;
        memcpy(answer->amounts[n + 1], result.amount_out, sizeof result.amount_out);
    }
    return 1;
}

/* `pools`: null, or those that must be taken. */
static int walk_integers(const finder *f, const route_path *path, const uint32_t *pools, int with_gas,
                         psa_route_answer *answer) {
    uint32_t hops = path->hops;
    *answer = (psa_route_answer){.hops = hops, .token = f->route->tokens[f->sell]};
    memcpy(answer->amounts[f->exact_out ? hops : 0], f->amount, sizeof f->amount);
    if (!(pools ? walk_pools(f, path, pools, answer) : walk_best(f, path, with_gas, answer))) return 0;
    answer->gas = route_gas(f->gas, f->route, answer->pools, hops) + f->gas->tick * answer->ticks_crossed;
    return 1;
}

static double score_of(const finder *f, const psa_route_answer *answer) {
    double out = route_amount(answer->amounts[answer->hops]) * f->route->worth[f->buy];
    double in = route_amount(answer->amounts[0]) * f->route->worth[f->sell];
    return f->exact_out ? -in - answer->gas : out - answer->gas;
}

/* Equal to the last digit of a double, integers still differ. */
static int is_better(const finder *f, const psa_route_answer *answer, double score) {
    if (!f->has_answer) return 1;
    if (answer->gas != f->best.gas) return score > f->score;
    if (f->exact_out) return is_less(answer->amounts[0], f->best.amounts[0]);
    return is_less(f->best.amounts[f->best.hops], answer->amounts[answer->hops]);
}

/* ---- the search ---- */

/* The sum of weights that a path of so many swaps needs to be better than the best. */
static double needed_weight(const finder *f, uint32_t hops) {
    if (!f->has_answer) return SHUT / 2;
    double gas = f->gas->fixed + hops * f->least_swap;
    if (f->exact_out) {
        double most = -f->score - gas; /* of value in */
        if (!(most > 0)) return INFINITY;
        return f->value > f->hidden ? log((f->value - f->hidden) / most) - 1e-9 : SHUT / 2;
    }
    double rate = (f->score + gas - f->hidden) / f->value;
    return rate > 0 ? log(rate) - 1e-9 : SHUT / 2;
}

static int compare_paths(const void *a, const void *b) {
    const route_path *one = a, *other = b;
    if (one->bound != other->bound) return one->bound > other->bound ? -1 : 1;
    return memcmp(one->pairs, other->pairs, sizeof one->pairs);
}

static void try_paths(finder *f) {
    psa_route *route = f->route;
    if (route->path_count > 1)
        qsort(route->paths, route->path_count, sizeof(route_path), compare_paths);
    for (uint32_t i = 0; i < route->path_count; i++) {
        const route_path *path = &route->paths[i];
        if (path->bound <= needed_weight(f, path->hops)) return;
        uint32_t pools[PSA_ROUTE_HOPS];
        int is_tight;
        double amount = walk_doubles(f, path, route_amount(f->amount), pools, &is_tight);
        if (amount == -INFINITY) continue;
        double worth = f->route->worth[f->exact_out ? f->sell : f->buy];
        double most = amount * worth - f->gas->fixed - path->hops * f->least_swap;
        if (f->has_answer && most < f->score - fabs(f->score) * 1e-9) continue;
        psa_route_answer answer;
        for (int with_gas = 0; with_gas < 2; with_gas++) {
            if (!walk_integers(f, path, is_tight && !with_gas ? pools : 0, with_gas, &answer)) continue;
            double score = score_of(f, &answer);
            if (is_better(f, &answer, score)) f->best = answer, f->score = score, f->has_answer = 1;
            if (!(answer.gas > f->gas->fixed + path->hops * f->least_swap)) break; /* none is cheaper */
        }
    }
}

int route_good_paths(psa_route *route, uint32_t sell, uint32_t buy, double amount, uint32_t max_hops,
                     double close, uint32_t most, uint32_t *count) {
    finder f = {.route = route, .sell = sell, .buy = buy};
    double paid = log(amount * route->worth[sell]), unit = route->worth[buy], best = -INFINITY;
    uint32_t kept = 0;
    f.highest = route->hot_all.count ? route->hot_all.edges[0].weight : 0;
    route->path_count = 0;
    for (f.hops = 1; f.hops <= max_hops; f.hops++) {
        f.left = f.right = 0;
        f.tokens[0] = sell, f.tokens[f.hops] = buy;
        f.least_weight = f.hops > 2 && best > -INFINITY ? best - close : SHUT / 2;
        fill_path(&f, 0);
        if (f.is_out_of_memory) return PSA_NO_MEMORY;
        route_path *fresh = route->paths + kept;
        uint32_t more = route->path_count - kept;
        if (more > 0) qsort(fresh, more, sizeof(route_path), compare_paths);
        route->path_count = kept;
        for (uint32_t i = 0; i < more && i < most; i++) {
            if (fresh[i].bound < best - close) break;
            uint32_t pools[PSA_ROUTE_HOPS];
            int is_tight;
            double out = walk_doubles(&f, &fresh[i], amount, pools, &is_tight);
            if (!(out > 0)) continue;
            route_path *path = &route->paths[route->path_count++];
            *path = fresh[i];
            path->bound = (float)(log(out * unit) - paid);
            if (path->bound > best) best = path->bound;
        }
        kept = route->path_count;
    }
    if (kept > 0) qsort(route->paths, kept, sizeof(route_path), compare_paths);
    *count = kept < most ? kept : most;
    return PSA_OK;
}

static uint32_t number_of(const psa_route *route, uint32_t token) {
    return token < route->table_count ? route->number_of[token] : NONE;
}

int psa_route_best(psa_route *route, uint32_t sell, uint32_t buy, const uint64_t *amount, int exact_out,
                   uint32_t max_hops, const psa_route_gas *gas, psa_route_answer *answer) {
    if (!route || route->pool_count == 0 || !amount || !gas || !answer || max_hops < 1 ||
        max_hops > PSA_ROUTE_HOPS)
        return PSA_BAD_ARGUMENT;
    finder f = {.route = route, .gas = gas, .exact_out = exact_out != 0};
    f.sell = number_of(route, sell), f.buy = number_of(route, buy);
    if (f.sell == NONE || f.buy == NONE || f.sell == f.buy) return PSA_BAD_ARGUMENT;
    memcpy(f.amount, amount, sizeof f.amount);
    f.least_swap = INFINITY;
    for (int i = 0; i < 24; i++)
        if (gas->swaps[i] < f.least_swap) f.least_swap = gas->swaps[i];
    f.highest = route->hot_all.count ? route->hot_all.edges[0].weight : 0;
    f.value = route_amount(f.amount) * route->worth[f.exact_out ? f.buy : f.sell];
    f.hidden = max_hops * route->floor * exp(max_hops * f.highest);
    for (f.hops = 1; f.hops <= max_hops; f.hops++) {
        route->path_count = 0;
        f.left = f.right = 0;
        f.tokens[0] = f.sell, f.tokens[f.hops] = f.buy;
        f.least_weight = needed_weight(&f, f.hops);
        fill_path(&f, 0);
        if (f.is_out_of_memory) return PSA_NO_MEMORY;
        try_paths(&f);
    }
    if (!f.has_answer) return PSA_INSUFFICIENT_LIQUIDITY;
    f.best.profit = f.score;
    *answer = f.best;
    return PSA_OK;
}
