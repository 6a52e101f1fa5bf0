/* route_laplacian.c: linear equations whose matrix has an entry where two tokens have a pair.
 *
 * Tokens of few pairs are eliminated first, so that hardly anything fills in; where it does is found once an index.
 */
#include "route_market.h"

typedef struct {
    uint32_t *items;
    uint32_t count, capacity;
} number_list;

typedef struct {
    number_list *joined;     /* (tokens,) neighbours, some eliminated */
    uint32_t *degree;        /* (tokens,) of those that are not */
    number_list *waiting;    /* (tokens,) by degree; a token counts where its degree is */
    uint64_t *keys;          /* of joined tokens, a hash set */
    uint32_t key_count, key_size, tokens;
    uint8_t *is_gone;
} elimination;

static int append(number_list *list, uint32_t item) {
    if (!route_grow(&list->items, list->count + 1, &list->capacity, sizeof *list->items)) return 0;
    list->items[list->count++] = item;
    return 1;
}

static uint32_t find_key(const elimination *e, uint64_t key) {
    uint32_t at = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 32) & (e->key_size - 1);
    while (e->keys[at] != UINT64_MAX && e->keys[at] != key) at = (at + 1) & (e->key_size - 1);
    return at;
}

static int grow_keys(elimination *e) {
    uint64_t *former = e->keys;
    uint32_t size = e->key_size;
    e->key_size = size ? 2 * size : 1024;
    e->keys = malloc(e->key_size * sizeof *e->keys);
    if (!e->keys) {
        e->keys = former;
        return 0;
    }
    memset(e->keys, 0xff, e->key_size * sizeof *e->keys);
    for (uint32_t i = 0; i < size; i++)
        if (former[i] != UINT64_MAX) e->keys[find_key(e, former[i])] = former[i];
    free(former);
    return 1;
}

/* 0: no memory. */
static int join(elimination *e, uint32_t a, uint32_t b) {
    if (2 * (e->key_count + 1) > e->key_size && !grow_keys(e)) return 0;
    uint64_t key = a < b ? (uint64_t)a << 32 | b : (uint64_t)b << 32 | a;
    uint32_t at = find_key(e, key);
    if (e->keys[at] == key) return 1;
    e->keys[at] = key, e->key_count++;
    e->degree[a]++, e->degree[b]++;
    return append(&e->joined[a], b) && append(&e->joined[b], a);
}

static int wait_by_degree(elimination *e, uint32_t token) {
    return append(&e->waiting[e->degree[token]], token);
}

/* Eliminate one token: those it is joined to become joined to each other. Their list is kept. */
static int eliminate(elimination *e, uint32_t token) {
    number_list *list = &e->joined[token];
    uint32_t kept = 0;
    e->is_gone[token] = 1;
    for (uint32_t i = 0; i < list->count; i++)
        if (!e->is_gone[list->items[i]]) list->items[kept++] = list->items[i];
    list->count = kept;
    for (uint32_t i = 0; i < kept; i++) e->degree[list->items[i]]--;
    for (uint32_t i = 0; i < kept; i++)
        for (uint32_t j = 0; j < i; j++)
            if (!join(e, list->items[i], list->items[j])) return 0;
    for (uint32_t i = 0; i < kept; i++)
        if (!wait_by_degree(e, list->items[i])) return 0;
    return 1;
}

/* Those of fewest neighbours first. */
static int eliminate_all(elimination *e, uint32_t last, uint32_t *order) {
    uint32_t placed = 0, degree = 0;
    e->is_gone[last] = 1;
    for (uint32_t t = 0; t < e->tokens; t++)
        if (t != last && !wait_by_degree(e, t)) return 0;
    while (placed + 1 < e->tokens) {
        while (e->waiting[degree].count == 0) degree++;
        uint32_t token = e->waiting[degree].items[--e->waiting[degree].count];
        if (e->is_gone[token] || e->degree[token] != degree) continue;
        order[placed++] = token;
        if (!eliminate(e, token)) return 0;
        degree -= degree > 0;
    }
    order[placed] = last;
    return 1;
}

static int compare_numbers(const void *a, const void *b) {
    uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return one < other ? -1 : one > other;
}

static uint32_t find_entry(const route_laplacian *m, uint32_t row, uint32_t column) {
    uint32_t low = m->starts[row], high = m->starts[row + 1];
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (m->columns[middle] <= column) low = middle;
        else high = middle;
    }
    return low;
}

static int take_structure(route_laplacian *m, const psa_route *route, const elimination *e) {
    uint32_t n = route->token_count, total = 0;
    for (uint32_t k = 0; k < n; k++) m->place[m->order[k]] = k;
    for (uint32_t k = 0; k + 1 < n; k++) total += e->joined[m->order[k]].count;
    m->columns = malloc((total + 1) * sizeof *m->columns);
    m->values = malloc((total + 1) * sizeof *m->values);
    if (!m->columns || !m->values) return 0;
    total = 0;
    for (uint32_t k = 0; k < n; k++) {
        m->starts[k] = total;
        const number_list *list = &e->joined[m->order[k]];
        for (uint32_t i = 0; k + 1 < n && i < list->count; i++)
            m->columns[total++] = m->place[list->items[i]];
        qsort(m->columns + m->starts[k], total - m->starts[k], sizeof *m->columns, compare_numbers);
    }
    m->starts[n] = total;
    for (uint32_t q = 0; q < route->pair_count; q++) {
        uint32_t a = m->place[route->pairs[q].token[0]], b = m->place[route->pairs[q].token[1]];
        if (a > b) {
            uint32_t c = a;
            a = b, b = c;
        }
        m->entry_of_pair[q] = b + 1 == n ? NONE : find_entry(m, a, b);
    }
    return 1;
}

int route_laplacian_make(route_laplacian *m, const psa_route *route) {
    uint32_t n = route->token_count;
    m->order = malloc(n * sizeof *m->order), m->place = malloc(n * sizeof *m->place);
    m->starts = malloc((n + 1) * sizeof *m->starts);
    m->diagonal = malloc(n * sizeof(double)), m->step = malloc(n * sizeof(double));
    m->entry_of_pair = malloc(route->pair_count * sizeof *m->entry_of_pair);
    if (!m->order || !m->place || !m->starts || !m->diagonal || !m->step || !m->entry_of_pair) return 0;
    elimination e = {.tokens = n};
    e.joined = calloc(n, sizeof *e.joined), e.waiting = calloc(n, sizeof *e.waiting);
    e.degree = calloc(n, sizeof *e.degree), e.is_gone = calloc(n, 1);
    int is_done = e.joined && e.waiting && e.degree && e.is_gone;
    for (uint32_t q = 0; is_done && q < route->pair_count; q++) {
        const route_pair *pair = &route->pairs[q];
        if (pair->token[0] != route->numeraire && pair->token[1] != route->numeraire)
            is_done = join(&e, pair->token[0], pair->token[1]);
    }
    is_done = is_done && eliminate_all(&e, route->numeraire, m->order) && take_structure(m, route, &e);
    for (uint32_t t = 0; t < n; t++) {
        if (e.joined) free(e.joined[t].items);
        if (e.waiting) free(e.waiting[t].items);
    }
    free(e.joined), free(e.waiting), free(e.degree), free(e.is_gone), free(e.keys);
    return is_done;
}

void route_laplacian_free(route_laplacian *m) {
    free(m->order), free(m->place), free(m->starts), free(m->columns), free(m->values);
    free(m->diagonal), free(m->step), free(m->entry_of_pair);
}

/* The step becomes the solution, by place. */
void route_laplacian_solve(route_laplacian *m, uint32_t n) {
    for (uint32_t k = 0; k + 1 < n; k++) {
        double inverse = 1 / m->diagonal[k];
        uint32_t end = m->starts[k + 1];
        for (uint32_t i = m->starts[k]; i < end; i++) {
            if (m->values[i] == 0) continue;
            double share = m->values[i] * inverse;
            uint32_t row = m->columns[i], at = m->starts[row];
            m->step[row] -= share * m->step[k];
            m->diagonal[row] -= share * m->values[i];
            for (uint32_t j = i + 1; j < end; j++) { /* the row has all columns behind its own */
                if (m->values[j] == 0) continue;
                while (m->columns[at] != m->columns[j]) at++;
                m->values[at] -= share * m->values[j];
            }
        }
    }
    m->step[n - 1] = 0;
    for (uint32_t k = n - 1; k-- > 0;) {
        for (uint32_t i = m->starts[k]; i < m->starts[k + 1]; i++)
            m->step[k] -= m->values[i] * m->step[m->columns[i]];
        m->step[k] /= m->diagonal[k];
    }
}
