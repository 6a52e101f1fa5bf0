/* _depth.c: the depth tables of pool handles: when they are made, and the memory they take.
 *
 * One a direction and handle, made by the quote that finds it worth it and kept until it is replaced or the
 * handle goes. The GIL protects the references and the count of bytes.
 */
#include "_types.h"

#include <stdlib.h>

#define MOST_BYTES ((size_t)64 << 20) /* of all tables of the process */

typedef struct {
    psa_depth depth; /* first: a psa_depth of a handle is the table it lies in */
    size_t nbytes;
    size_t references;
    psa_rung rungs[];
} psa_table;

static size_t bytes_held;

static psa_table *table_of(const psa_depth *depth) { return (psa_table *)(uintptr_t)depth; }

void psa_keep_table(const psa_depth *depth) {
    if (depth) table_of(depth)->references++;
}

void psa_release_table(const psa_depth *depth) {
    if (!depth || --table_of(depth)->references > 0) return;
    bytes_held -= table_of(depth)->nbytes;
    free(table_of(depth));
}

void psa_drop_tables(psa_pool_object *pool) {
    for (int side = 0; side < 2; side++) psa_release_table(pool->uses[side].depth);
    memset(pool->uses, 0, sizeof pool->uses);
}

/* A table of `count` rungs that are not filled in. */
static psa_table *new_table(uint32_t count) {
    size_t nbytes = sizeof(psa_table) + count * sizeof(psa_rung);
    if (nbytes > MOST_BYTES - bytes_held) return NULL;
    psa_table *table = malloc(nbytes);
    if (!table) return NULL;
    table->nbytes = nbytes;
    table->references = 1;
    bytes_held += nbytes;
    return table;
}

static int same_call(const psa_quote_call *a, const psa_quote_call *b) {
    return a->arena == b->arena && a->commit == b->commit && a->slot == b->slot &&
           a->generation == b->generation;
}

void psa_make_table(psa_pool_object *pool, uint32_t flags, uint32_t lp_fee) {
    psa_pool_object *owner = psa_aim(pool);
    if (!owner) return;
    psa_depth_use *use = &owner->uses[(flags & PSA_ZERO_FOR_ONE) != 0];
    uint32_t count = use->wanted;
    use->wanted = 0;
    use->walked = 0; /* whatever comes of it, the next one has to be earned again */
    psa_release_table(use->depth); /* it fits no more, or none would be wanted */
    use->depth = NULL;
    psa_table *table = new_table(count);
    if (!table) return;
    psa_quote_call call = pool->call;
    PyObject *where = pool->where, *closed = pool->closed;
    int status;
    Py_XINCREF(where);
    Py_XINCREF(closed);
    Py_BEGIN_ALLOW_THREADS
    status = psa_core->depth_read(&call, flags & ~(uint32_t)PSA_EXACT_OUT, lp_fee, table->rungs, count,
                                  &table->depth);
    Py_END_ALLOW_THREADS
    if (status == PSA_OK && same_call(&call, &pool->call) && psa_aim(pool) == owner) {
        psa_release_table(use->depth); /* of another thread's */
        use->depth = &table->depth;
    } else {
        psa_release_table(&table->depth);
    }
    Py_XDECREF(where);
    Py_XDECREF(closed);
}

static PyObject *depth_nbytes(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromSize_t(bytes_held);
}

static PyMethodDef definition = {
    "depth_nbytes", depth_nbytes, METH_NOARGS,
    "depth_nbytes($module, /)\n--\n\nBytes of all depth tables of this process."};

int psa_add_depth(PyObject *module) {
    PyObject *function = PyCFunction_New(&definition, NULL);
    if (!function) return -1;
    int status = PyModule_AddObjectRef(module, "depth_nbytes", function);
    Py_DECREF(function);
    return status;
}
