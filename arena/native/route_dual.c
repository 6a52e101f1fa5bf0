/* route_dual.c: the prices at which the least is left for anybody, by which a split is found. */
#include "route_split.h"

#define MOST_TURNS 200
#define MOST_TRIES 12
#define LONGEST 1.0 /* of a step, in logs */
#define LEVEL 0.1   /* of the slope a step begins with */
#define DAMPED 1e-9 /* the least */
#define LEAST 1e-20 /* of the value, that a step may gain: what is carried out feels the last digits of prices */

double route_trade(const route_pool *pool, int direction, double paid, double got, double most, double *in,
                   double *out, double *curve) {
    route_hop hop;
    *in = *out = *curve = 0;
    route_start(&hop, pool, direction);
    while (hop.out > 0) {
        double rate = hop.keep * hop.out / hop.in * got / paid;
        if (!(rate > 1)) break;
        double room = hop.room < most - *in ? hop.room : most - *in;
        double left = hop.in / (hop.in + hop.keep * room); /* of the square root of the rate, behind all of it */
        if (!(rate * left * left > 1)) {
            double root = sqrt(rate), best = (root - 1) * hop.in / hop.keep;
            *in += best, *out += route_gives(&hop, best);
            *curve = 0.5 * root * hop.in / hop.keep * paid;
            break;
        }
        *in += room, *out += route_gives(&hop, room);
        if (!(*in < most)) break;
        route_cross(&hop);
    }
    return *out * got - *in * paid;
}

/* What one pool trades against the prices of its tokens. */
static void trade(const split *s, split_part *part, const double *price, const double *worth) {
    const route_pool *pool = &s->route->pools[part->pool];
    double apart = price[part->end[1]] - price[part->end[0]];
    part->in = part->out = part->gain = part->curve = 0;
    part->direction = -1;
    int d = part->allowed & 1 && pool->rate[0] + apart > 0   ? 0
            : part->allowed & 2 && pool->rate[1] - apart > 0 ? 1
                                                            : -1;
    if (d < 0) return;
    double paid = worth[part->end[d]], got = worth[part->end[!d]];
    part->gain =
        route_trade(pool, d, paid, got, s->most[part->end[d]], &part->in, &part->out, &part->curve);
    part->direction = (int8_t)d;
}

/* The dual's value, its gradient and its Hessian. */
static double evaluate(split *s, const double *price) {
    uint32_t n = s->tokens;
    double worth[MOST_TOKENS];
    for (uint32_t i = 0; i < n; i++) worth[i] = exp(price[i]);
    double value = worth[0] * s->amount;
    memset(s->gradient, 0, sizeof s->gradient);
    memset(s->hessian, 0, n * n * sizeof *s->hessian);
    s->gradient[0] = s->hessian[0] = value;
    for (uint32_t i = 0; i < s->count; i++) {
        split_part *part = &s->parts[i];
        trade(s, part, price, worth);
        if (part->direction < 0) continue;
        value += part->gain;
        uint32_t from = split_from(part), to = split_to(part);
        s->gradient[from] -= part->in * worth[from];
        s->gradient[to] += part->out * worth[to];
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

/* Go a part of the step from `from`; the slope along it there. */
static double look(split *s, const double *from, const double *step, double part, double *value) {
    double slope = 0;
    for (uint32_t i = 0; i + 1 < s->tokens; i++)
        s->price[free_token(i)] = from[free_token(i)] + part * step[i];
    *value = evaluate(s, s->price);
    for (uint32_t i = 0; i + 1 < s->tokens; i++) slope += step[i] * s->gradient[free_token(i)];
    return slope;
}

/* To where the slope along the step is nearly 0, if the step leads that far: behind the kink at which a pool begins
 * to trade, so that the next step knows of it. Whether that is lower. */
static int walk(split *s, const double *step, double slope, double longest, double *value) {
    double from[MOST_TOKENS], found, low = 0, high = longest > LONGEST ? LONGEST / longest : 1;
    memcpy(from, s->price, sizeof from);
    double at_low = slope, here = look(s, from, step, high, &found), at_high = here;
    double level = -LEVEL * slope;
    if (here > level) {
        for (int try = 0; fabs(here) > level && try < MOST_TRIES; try++) {
            double share = at_low / (at_low - at_high);
            double part = low + (high - low) * fmin(fmax(share, 0.01), 0.99);
            here = look(s, from, step, part, &found);
            if (here > 0) high = part, at_high = here, at_low *= 0.5;
            else low = part, at_low = here, at_high *= 0.5;
        }
    }
    if (found < *value) {
        *value = found;
        return 1;
    }
    memcpy(s->price, from, sizeof from);
    evaluate(s, s->price);
    return 0;
}

/* One step down; 0 when there is none that leads down. */
static int descend(split *s, double *value, double *mu) {
    for (; *mu < 1e3; *mu *= 30) {
        double step[MOST_TOKENS], slope = step_of(s, *mu, *value, step), longest = 0;
        if (!(slope < 0)) continue;
        if (-slope < LEAST * *value && *mu <= DAMPED) return 0;
        for (uint32_t i = 0; i + 1 < s->tokens; i++) longest = fmax(fabs(step[i]), longest);
        if (!walk(s, step, slope, longest, value)) continue;
        if (*mu > DAMPED) *mu *= 0.1;
        return 1;
    }
    return 0;
}

void route_lower(split *s, double tolerance) {
    double value = evaluate(s, s->price), mu = DAMPED;
    for (int turn = 0; turn < MOST_TURNS; turn++) {
        double left = 0, former = value;
        for (uint32_t i = 0; i + 1 < s->tokens; i++) left += fabs(s->gradient[free_token(i)]);
        if (left < tolerance * value || !descend(s, &value, &mu)) break;
        if (former - value < 1e-15 * value && turn > 3) break;
    }
    s->bound = value;
}
