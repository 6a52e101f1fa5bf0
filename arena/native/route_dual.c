/* route_dual.c: the prices at which the least is left for anybody, by which a split is found. */
#include "route_split.h"

#define MOST_TURNS 200
#define MOST_TRIES 24

double route_trade(const route_pool *pool, int direction, double paid, double got, double most, double *in,
                   double *out, double *curve) {
    route_hop hop;
    *in = *out = *curve = 0;
    route_start(&hop, pool, direction);
    while (hop.out > 0) {
        double rate = hop.keep * hop.out / hop.in * got / paid;
        if (!(rate > 1)) break;
        double best = (sqrt(rate) - 1) * hop.in / hop.keep;
        double room = hop.room < most - *in ? hop.room : most - *in;
        double input = best < room ? best : room;
        *in += input, *out += route_gives(&hop, input);
        if (!(*in < most)) break;
        if (best <= hop.room) {
            *curve = 0.5 * sqrt(rate) * hop.in / hop.keep * paid;
            break;
        }
        route_cross(&hop);
    }
    return *out * got - *in * paid;
}

/* What one pool trades against the prices of its tokens. */
static void trade(const split *s, split_part *part, const double *price) {
    const route_pool *pool = &s->route->pools[part->pool];
    double apart = price[part->end[1]] - price[part->end[0]];
    part->in = part->out = part->gain = part->curve = 0;
    part->direction = -1;
    int d = part->allowed & 1 && pool->rate[0] + apart > 0   ? 0
            : part->allowed & 2 && pool->rate[1] - apart > 0 ? 1
                                                            : -1;
    if (d < 0) return;
    double paid = exp(price[part->end[d]]), got = exp(price[part->end[!d]]);
    part->gain =
        route_trade(pool, d, paid, got, s->most[part->end[d]], &part->in, &part->out, &part->curve);
    part->direction = (int8_t)d;
}

/* The dual's value, and with `slopes` its gradient and Hessian. */
static double evaluate(split *s, const double *price, int slopes) {
    uint32_t n = s->tokens;
    double value = exp(price[0]) * s->amount;
    if (slopes) {
        memset(s->gradient, 0, sizeof s->gradient);
        memset(s->hessian, 0, sizeof s->hessian);
        s->gradient[0] = s->hessian[0] = value;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        split_part *part = &s->parts[i];
        trade(s, part, price);
        value += part->gain;
        if (!slopes || part->direction < 0) continue;
        uint32_t from = part->end[part->direction], to = part->end[!part->direction];
        s->gradient[from] -= part->in * exp(price[from]);
        s->gradient[to] += part->out * exp(price[to]);
        s->hessian[from * n + from] += part->curve, s->hessian[to * n + to] += part->curve;
        s->hessian[from * n + to] -= part->curve, s->hessian[to * n + from] -= part->curve;
    }
    return value;
}

/* Cholesky; `b` becomes the solution. 0: not positive definite. */
static int solve(double *a, double *b, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        for (uint32_t k = 0; k < j; k++)
            for (uint32_t i = j; i < n; i++) a[i * n + j] -= a[i * n + k] * a[j * n + k];
        if (!(a[j * n + j] > 0)) return 0;
        double scale = 1 / sqrt(a[j * n + j]);
        for (uint32_t i = j; i < n; i++) a[i * n + j] *= scale;
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < i; k++) b[i] -= a[i * n + k] * b[k];
        b[i] /= a[i * n + i];
    }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t k = i + 1; k < n; k++) b[i] -= a[k * n + i] * b[k];
        b[i] /= a[i * n + i];
    }
    return 1;
}

/* All prices but that of the token bought, which is 1. */
static uint32_t free_token(uint32_t i) { return i == 0 ? 0 : i + 1; }

/* The step that damping `mu` gives; what the gradient says it gains, 0 when there is none. */
static double step_of(const split *s, double mu, double value, double *step) {
    uint32_t n = s->tokens, k = n - 1;
    double matrix[MOST_TOKENS * MOST_TOKENS], slope = 0;
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t j = 0; j < k; j++) matrix[i * k + j] = s->hessian[free_token(i) * n + free_token(j)];
        matrix[i * k + i] += mu * value;
        step[i] = -s->gradient[free_token(i)];
    }
    if (!solve(matrix, step, k)) return 0;
    for (uint32_t i = 0; i < k; i++) slope += step[i] * s->gradient[free_token(i)];
    return slope;
}

/* One step down; 0 when there is none that leads down. */
static int descend(split *s, double *value, double *mu) {
    uint32_t k = s->tokens - 1;
    double step[MOST_TOKENS], trial[MOST_TOKENS];
    for (; *mu < 1e3; *mu *= 30) {
        double slope = step_of(s, *mu, *value, step), longest = 0;
        if (!(slope < 0)) continue;
        for (uint32_t i = 0; i < k; i++) longest = fabs(step[i]) > longest ? fabs(step[i]) : longest;
        double part = longest > 0.5 ? 0.5 / longest : 1;
        for (int try = 0; try < MOST_TRIES; try++, part *= 0.4) {
            memcpy(trial, s->price, sizeof trial);
            for (uint32_t i = 0; i < k; i++) trial[free_token(i)] += part * step[i];
            double found = evaluate(s, trial, 0);
            if (found > *value + 1e-4 * part * slope && found > *value * (1 + 1e-15)) continue;
            memcpy(s->price, trial, sizeof trial);
            if (try == 0 && *mu > 1e-9) *mu *= 0.2;
            *value = found;
            return 1;
        }
    }
    return 0;
}

void route_lower(split *s, double tolerance) {
    double value = evaluate(s, s->price, 1), mu = 1e-9;
    for (int turn = 0; turn < MOST_TURNS; turn++) {
        double left = 0, former = value;
        for (uint32_t i = 0; i + 1 < s->tokens; i++) left += fabs(s->gradient[free_token(i)]);
        if (left < tolerance * value || !descend(s, &value, &mu)) break;
        value = evaluate(s, s->price, 1);
        if (former - value < 1e-15 * value && turn > 3) break;
    }
    s->bound = evaluate(s, s->price, 1);
}
