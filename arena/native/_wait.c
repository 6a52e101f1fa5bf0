/* _wait.c: a thread waits for a block without coming back to Python for each commit. */
#include "_types.h"

#include <time.h>

#include "atomics.h"

#define SLICE_NS UINT64_C(100000000) /* in the kernel before looking for signals, a successor, the end */
#define FOREVER_S 1e9

typedef struct {
    const psa_arena *arena;
    const uint32_t *closed;
    uint64_t after, deadline, spin_ns;
    int is_any; /* every block is above a negative number */
} waiting;

enum { ABOVE, LOOK, LATE, FAILED }; /* LOOK: after signals, or where another arena may have come */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void spin(const waiting *wait, uint64_t seen, uint64_t latest) {
    if (wait->spin_ns == 0) return;
    uint64_t end = now_ns() + wait->spin_ns;
    if (end > latest) end = latest;
    do {
        for (int i = 0; i < 32; i++) {
            if (PSA_LOAD_ACQUIRE(&wait->arena->header->committed) != seen) return;
            relax();
        }
    } while (PSA_LOAD_ACQUIRE(&wait->arena->header->superseded) == 0 && PSA_LOAD(wait->closed) == 0 &&
             now_ns() < end);
}

static int look(const waiting *wait, psa_commit_record *record) {
    if (psa_core->pin(wait->arena, record) != PSA_OK) return FAILED;
    return wait->is_any || record->block_number > wait->after ? ABOVE : LOOK;
}

/* Without the GIL: until there is a block above, or for a slice. */
static int sleep_slice(const waiting *wait, psa_commit_record *record) {
    uint64_t end = now_ns() + SLICE_NS, now;
    if (end > wait->deadline) end = wait->deadline;
    for (;;) {
        uint64_t committed;
        spin(wait, record->stamp, end);
        now = now_ns();
        if (now < end && psa_core->wait_commit(wait->arena, record->stamp, end - now, &committed) != PSA_OK) {
            int found = look(wait, record); /* interrupted by a signal, superseded, or the end */
            return found == LOOK && now_ns() >= wait->deadline ? LATE : found;
        }
        int found = look(wait, record);
        if (found != LOOK) return found;
        if ((now = now_ns()) >= end) return now >= wait->deadline ? LATE : LOOK;
    }
}

/* Nanoseconds of a timeout in seconds, None for none; -1 with an exception. */
static int deadline_of(PyObject *timeout, uint64_t *deadline) {
    *deadline = UINT64_MAX;
    if (timeout == Py_None) return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) return -1;
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "a timeout is a number of seconds, not NaN");
        return -1;
    }
    if (seconds < FOREVER_S) *deadline = now_ns() + (seconds > 0 ? (uint64_t)(seconds * 1e9) : 0);
    return 0;
}

static int after_of(PyObject *number, waiting *wait) {
    PyObject *index = PyNumber_Index(number);
    if (index == NULL) return -1;
    int overflow;
    long long after = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (after == -1 && overflow == 0 && PyErr_Occurred()) return -1;
    wait->is_any = overflow < 0 || (overflow == 0 && after < 0);
    wait->after = overflow > 0 ? UINT64_MAX : (uint64_t)after;
    return 0;
}

static PyObject *wait_head(PyObject *module, PyObject *args) {
    unsigned long long arena, closed, spin_ns;
    PyObject *after, *until;
    waiting wait;
    psa_commit_record record;
    (void)module;
    if (!PyArg_ParseTuple(args, "KKOOK:wait_head", &arena, &closed, &after, &until, &spin_ns)) return NULL;
    wait.arena = (const psa_arena *)(uintptr_t)arena;
    wait.closed = (const uint32_t *)(uintptr_t)closed;
    wait.spin_ns = spin_ns;
    if (after_of(after, &wait) < 0 || deadline_of(until, &wait.deadline) < 0) return NULL;
    int found = look(&wait, &record);
    if (found == LOOK && now_ns() >= wait.deadline) found = LATE;
    while (found == LOOK) {
        Py_BEGIN_ALLOW_THREADS
        found = sleep_slice(&wait, &record);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) return NULL;
        if (PSA_LOAD(wait.closed) || PSA_LOAD_ACQUIRE(&wait.arena->header->superseded)) break;
    }
    if (found == ABOVE)
        return Py_BuildValue("KK", (unsigned long long)record.block_number, (unsigned long long)record.stamp);
    return PyLong_FromLong(found);
}

static PyMethodDef functions[] = {
    {"wait_head", wait_head, METH_VARARGS,
     "wait_head($module, arena, closed, after, timeout, spin_ns, /)\n--\n\n"
     "Number and commit of the head block once it is above `after`. Else WAIT_LATE after `timeout` seconds\n"
     "(None: never), WAIT_LOOK when the arena was closed or superseded, or WAIT_FAILED when the record of\n"
     "the head could not be read. Addresses are those of a psa_arena and a uint32_t that the caller keeps.\n"
     "`spin_ns` goes by with looking before each sleep."},
    {NULL, NULL, 0, NULL},
};

int psa_add_wait(PyObject *module) {
    if (PyModule_AddIntConstant(module, "WAIT_LOOK", LOOK) < 0 ||
        PyModule_AddIntConstant(module, "WAIT_LATE", LATE) < 0 ||
        PyModule_AddIntConstant(module, "WAIT_FAILED", FAILED) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
