/* route_market.c: the whole market at once: the most that all pools together give away, and the prices at which
 * nothing is left.
 *
 * The sum of what each pool gives at most against any prices is at least what any trades leave that take no token
 * from outside (weak duality), so its minimum over the prices is a bound, and the trades at the minimum reach it.
 * Newton's method on the logs of the prices, that of the numeraire fixed; the Hessian is a Laplacian of the graph of
 * pairs, so tokens of few pairs are eliminated first, and hardly anything fills in. Where a step does not lead down,
 * each token left out of balance is balanced by itself: its net flow rises with its price.
 */
#include "route_market.h"

#define MOST_TURNS 100
#define MOST_TRIES 10
#define MOST_DAMPING 1e3
#define LONGEST_STEP 1.0
#define LEVEL 0.1 /* of the slope a step begins with */
#define SETTLED 1e-7 /* of the bound: what is left of all tokens */
#define ROUNDING 5e-15 /* of a price, whatever that makes a pool trade */
#define SWEEPS 4     /* over all tokens, where Newton gives up */

typedef struct {
    double in, out, curve;
    uint32_t pool;
    int direction;           /* -1: no trade */
} market_trade;

/* What tells whether a pool trades: logs of its rates against the prices that all began with; -inf: it cannot. */
typedef struct {
    uint32_t token[2];
    double rate[2];
} market_edge;

/* The dual's value at some prices, and its slopes. */
typedef struct {
    double *moved, *worth, *net; /* (tokens,) logs of the prices over those it began with, so that little is lost
                                    to rounding; the prices; values of net flows */
    double *steepness;           /* (tokens,) */
    market_trade *trades;        /* (pools,) the first of them trade */
    uint32_t count;
    double value;
} market_point;

struct route_market {
    market_point here, there;
    route_laplacian matrix;
    market_edge *edges;      /* (pools,) */
    double *began, *unit;    /* (tokens,) logs and prices that it began with; -inf and 0: none */
};

static void free_point(market_point *point) {
    free(point->moved), free(point->worth), free(point->net), free(point->steepness);
    free(point->trades);
}

void route_market_free(struct route_market *market) {
    if (!market) return;
    free_point(&market->here), free_point(&market->there);
    route_laplacian_free(&market->matrix);
    free(market->edges), free(market->began), free(market->unit);
    free(market);
}

static int make_point(market_point *point, const psa_route *route) {
    size_t n = route->token_count;
    point->moved = calloc(n, sizeof(double)), point->worth = calloc(n, sizeof(double));
    point->net = calloc(n, sizeof(double)), point->steepness = calloc(n, sizeof(double));
    point->trades = calloc(route->pool_count, sizeof(market_trade));
    return point->moved && point->worth && point->net && point->steepness && point->trades;
}

static struct route_market *make_market(const psa_route *route) {
    struct route_market *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    size_t nbytes = route->token_count * sizeof(double);
    m->began = malloc(nbytes), m->unit = malloc(nbytes);
    m->edges = malloc(route->pool_count * sizeof *m->edges);
    if (m->edges && m->began && m->unit && make_point(&m->here, route) && make_point(&m->there, route) &&
        route_laplacian_make(&m->matrix, route)) {
        memcpy(m->began, route->log_prices, nbytes), memcpy(m->unit, route->worth, nbytes);
        return m;
    }
    route_market_free(m);
    return NULL;
}

/* ---- the dual ---- */

/* As the pools are now. */
static void read_edges(struct route_market *m, const psa_route *route) {
    for (uint32_t i = 0; i < route->pool_count; i++) {
        const route_pool *pool = &route->pools[i];
        uint32_t first = pool->token[0], second = pool->token[1];
        int is_priced = pool->is_usable && m->unit[first] > 0 && m->unit[second] > 0;
        double apart = is_priced ? m->began[second] - m->began[first] : -INFINITY;
        m->edges[i] = (market_edge){.token = {first, second},
                                    .rate = {pool->rate[0] + apart,
                                             is_priced ? pool->rate[1] - apart : -INFINITY}};
    }
}

/* What one pool trades; its gain. */
static double trade_at(const struct route_market *m, const psa_route *route, const market_point *point,
                       uint32_t number, market_trade *trade) {
    const market_edge *edge = &m->edges[number];
    double apart = point->moved[edge->token[1]] - point->moved[edge->token[0]];
    int d = edge->rate[0] + apart > 0 ? 0 : edge->rate[1] - apart > 0 ? 1 : -1;
    trade->pool = number, trade->direction = d;
    if (d < 0) return 0;
    return route_trade(&route->pools[number], d, point->worth[edge->token[d]],
                       point->worth[edge->token[!d]], INFINITY, &trade->in, &trade->out, &trade->curve);
}

static void evaluate(const struct route_market *m, const psa_route *route, market_point *point) {
    uint32_t n = route->token_count;
    for (uint32_t t = 0; t < n; t++) point->worth[t] = m->unit[t] * exp(point->moved[t]);
    memset(point->net, 0, n * sizeof(double)), memset(point->steepness, 0, n * sizeof(double));
    point->value = 0, point->count = 0;
    for (uint32_t i = 0; i < route->pool_count; i++) {
        market_trade *trade = &point->trades[point->count];
        double gain = trade_at(m, route, point, i, trade);
        int d = trade->direction;
        if (d < 0) continue;
        uint32_t from = m->edges[i].token[d], to = m->edges[i].token[!d];
        point->count++;
        point->value += gain;
        point->net[from] -= trade->in * point->worth[from];
        point->net[to] += trade->out * point->worth[to];
        point->steepness[from] += trade->curve, point->steepness[to] += trade->curve;
    }
}

/* Nothing is left of all tokens but the numeraire, as far as doubles tell. */
static int is_settled(const psa_route *route, const market_point *point) {
    double left = 0, lost = 0;
    for (uint32_t t = 0; t < route->token_count; t++) {
        if (t != route->numeraire) left += fabs(point->net[t]);
        lost += ROUNDING * point->steepness[t];
    }
    return left <= SETTLED * point->value + lost;
}

/* ---- a step ---- */

static void fill_matrix(struct route_market *m, const psa_route *route, double damping) {
    const market_point *point = &m->here;
    route_laplacian *matrix = &m->matrix;
    memset(matrix->values, 0, matrix->starts[route->token_count] * sizeof(double));
    for (uint32_t t = 0; t < route->token_count; t++) {
        double slope = point->steepness[t] + fmax(point->net[t], 0);
        matrix->diagonal[matrix->place[t]] = slope * (1 + damping) + 1e-13 * point->value;
        matrix->step[matrix->place[t]] = -point->net[t];
    }
    for (uint32_t i = 0; i < point->count; i++) {
        uint32_t entry = matrix->entry_of_pair[route->pools[point->trades[i].pool].pair];
        if (entry != NONE) matrix->values[entry] -= point->trades[i].curve;
    }
}

/* By how much the logs of the prices move: a full step; what the slopes say it gains. */
static double aim(struct route_market *m, const psa_route *route, double damping) {
    double slope = 0;
    fill_matrix(m, route, damping);
    route_laplacian_solve(&m->matrix, route->token_count);
    for (uint32_t t = 0; t < route->token_count; t++) {
        double *step = &m->matrix.step[m->matrix.place[t]];
        *step = fmax(fmin(*step, LONGEST_STEP), -LONGEST_STEP);
        slope += *step * m->here.net[t];
    }
    return slope;
}

static void go_to_there(struct route_market *m) {
    market_point former = m->here;
    m->here = m->there, m->there = former;
}

/* Go a part of the step; the slope along it there. */
static double look(struct route_market *m, const psa_route *route, double part) {
    double slope = 0;
    for (uint32_t t = 0; t < route->token_count; t++)
        m->there.moved[t] = m->here.moved[t] + part * m->matrix.step[m->matrix.place[t]];
    evaluate(m, route, &m->there);
    for (uint32_t t = 0; t < route->token_count; t++)
        slope += m->matrix.step[m->matrix.place[t]] * m->there.net[t];
    return slope;
}

/* To where the slope along the step is nearly 0, if the step leads that far: behind the kink at which a pool begins
 * to trade, so that the next step knows of it. Whether that is lower. */
static int walk(struct route_market *m, const psa_route *route, double slope) {
    double low = 0, high = 1, at_low = slope, here = look(m, route, 1), at_high = here;
    double level = -LEVEL * slope;
    if (here > level) {
        for (int try = 0; fabs(here) > level && try < MOST_TRIES; try++) {
            double share = at_low / (at_low - at_high);
            double part = low + (high - low) * fmin(fmax(share, 0.01), 0.99);
            here = look(m, route, part);
            if (here > 0) high = part, at_high = here, at_low *= 0.5;
            else low = part, at_low = here, at_high *= 0.5;
        }
    }
    if (!(m->there.value < m->here.value)) return 0;
    go_to_there(m);
    return 1;
}

/* One step down; 0 when none leads down. */
static int descend(struct route_market *m, const psa_route *route) {
    for (double damping = 0; damping < MOST_DAMPING; damping = damping > 0 ? 10 * damping : 1e-3) {
        double slope = aim(m, route, damping);
        if (slope < 0 && walk(m, route, slope)) return 1;
    }
    return 0;
}

/* The net flow of one token, in its units, at another price of it. */
static double net_of(struct route_market *m, const psa_route *route, uint32_t token, double moved) {
    market_point *point = &m->here;
    double net = 0, former = point->moved[token], worth = point->worth[token];
    point->moved[token] = moved, point->worth[token] = m->unit[token] * exp(moved);
    for (uint32_t e = route->starts[token]; e < route->starts[token + 1]; e++) {
        const route_pair *pair = &route->pairs[route->neighbour_pairs[e]];
        for (uint32_t i = pair->first; i < pair->first + pair->count; i++) {
            market_trade trade;
            trade_at(m, route, point, route->by_pair[i], &trade);
            if (trade.direction < 0) continue;
            net += m->edges[trade.pool].token[trade.direction] == token ? -trade.in : trade.out;
        }
    }
    point->moved[token] = former, point->worth[token] = worth;
    return net;
}

/* Where it turns from lacking to being left, or nearly. */
static double balance_of(struct route_market *m, const psa_route *route, uint32_t token) {
    double low = m->here.moved[token], high = low, step = 1e-4;
    int lacks = net_of(m, route, token, low) < 0;
    while (step < 64) { /* it lacks at low, and is left at high */
        if (lacks) high = low + step;
        else low = high - step;
        if (net_of(m, route, token, lacks ? high : low) < 0 ? !lacks : lacks) break;
        step *= 4;
    }
    for (int i = 0; i < 56 && high - low > 1e-16; i++) {
        double middle = 0.5 * (low + high);
        if (net_of(m, route, token, middle) < 0) low = middle;
        else high = middle;
    }
    return high;
}

/* Each token that is not balanced, by itself. */
static void balance_tokens(struct route_market *m, const psa_route *route) {
    uint32_t n = route->token_count;
    double least = SETTLED * m->here.value / n;
    for (uint32_t k = 0; k + 1 < n; k++) {
        uint32_t t = m->matrix.order[k];
        if (!(m->unit[t] > 0)) continue;
        if (fabs(net_of(m, route, t, m->here.moved[t])) * m->here.worth[t] <= least) continue;
        m->here.moved[t] = balance_of(m, route, t);
        m->here.worth[t] = m->unit[t] * exp(m->here.moved[t]);
    }
    evaluate(m, route, &m->here);
}

static void search(struct route_market *m, const psa_route *route, psa_route_market_sum *sum) {
    uint32_t sweeps = 0;
    evaluate(m, route, &m->here);
    for (sum->turns = 0; sum->turns < MOST_TURNS; sum->turns++) {
        sum->is_settled = (uint32_t)is_settled(route, &m->here);
        if (sum->is_settled) return;
        double former = m->here.value;
        if (descend(m, route) && former - m->here.value > 1e-14 * former) continue;
        if (sweeps++ == SWEEPS) return;
        balance_tokens(m, route);
    }
}

/* ---- integers ---- */

static void take_parts(const struct route_market *m, const psa_route *route, psa_route_part *parts,
                       psa_route_market_sum *sum) {
    double *left = m->matrix.diagonal; /* scratch: what is left of each token */
    memset(left, 0, route->token_count * sizeof(double));
    for (uint32_t i = 0; i < m->here.count; i++) {
        const market_trade *trade = &m->here.trades[i];
        const route_pool *pool = &route->pools[trade->pool];
        if (!(trade->in >= 1 && trade->in < 0x1p127)) continue;
        psa_route_answer answer = {.hops = 1, .pools = {trade->pool}};
        answer.zero_for_one[0] = trade->direction == 0;
        if (route_ask_near(route, &answer, trade->in) != PSA_OK) continue;
        psa_route_part *part = &parts[sum->parts++];
        *part = (psa_route_part){.pool = trade->pool, .zero_for_one = answer.zero_for_one[0]};
        memcpy(part->amount_in, answer.amounts[0], sizeof part->amount_in);
        memcpy(part->amount_out, answer.amounts[1], sizeof part->amount_out);
        left[pool->token[trade->direction]] -= route_amount(part->amount_in);
        left[pool->token[!trade->direction]] += route_amount(part->amount_out);
    }
    for (uint32_t t = 0; t < route->token_count; t++)
        if (t != route->numeraire && left[t] < 0) sum->uncovered -= left[t] * m->here.worth[t];
    sum->profit = left[route->numeraire] - sum->uncovered;
}

int psa_route_market(psa_route *route, double *log_prices, psa_route_part *parts,
                     psa_route_market_sum *sum) {
    if (!route || route->pool_count == 0 || !log_prices || !parts || !sum) return PSA_BAD_ARGUMENT;
    if (!route->market && !(route->market = make_market(route))) return PSA_NO_MEMORY;
    struct route_market *m = route->market;
    *sum = (psa_route_market_sum){0};
    read_edges(m, route);
    search(m, route, sum);
    sum->bound = m->here.value;
    for (uint32_t t = 0; t < route->token_count; t++) log_prices[t] = m->began[t] + m->here.moved[t];
    take_parts(m, route, parts, sum);
    return PSA_OK;
}
