/* _types.h: what the files of the module `_handle` share: the core's table, the types, and integers.
 *
 * The module uses the limited API alone, so that one build serves every CPython from 3.11 on. There is one
 * of it in a process; what stands here in globals is set while it is imported and never changed.
 */
#ifndef PSA_TYPES_H
#define PSA_TYPES_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

#include "api.h"

/* _handle.c: functions of the core; not null once the module is imported. */
extern const psa_api *psa_core;

/* What a file adds to the module when it is imported; -1 with an exception set. */
int psa_add_ints(PyObject *module);
int psa_add_quote(PyObject *module);
int psa_add_pool(PyObject *module);
int psa_add_keys(PyObject *module);
int psa_add_state(PyObject *module);
int psa_add_view(PyObject *module);
int psa_add_wait(PyObject *module);

/* METH_FASTCALL | METH_KEYWORDS functions have another type than PyMethodDef says. */
#define PSA_FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

/* ---- _ints.c ------------------------------------------------------------------------------------ */

/* The int of `count` (1 to 4) little-endian words, unsigned, or as two's complement. */
PyObject *psa_int_from_words(const uint64_t *words, unsigned count);
PyObject *psa_int_from_signed(const uint64_t *words, unsigned count);

/* The words of an int, not of a subclass, from 0 to 2^256 - 1. 0 for anything else, and with an exception
 * when memory is out. */
int psa_words_from_int(PyObject *value, uint64_t words[4]);

/* ---- _quote.c ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    psa_quote_result raw;
} psa_quote_object;

/* A Quote whose `raw` the caller fills in before anybody else sees it. */
psa_quote_object *psa_new_quote(void);

/* ---- _pool.c ------------------------------------------------------------------------------------ */

/* What `call` points into stays mapped while `where` and `closed` are referred to. All of it changes
 * together while the GIL is held, so: who lets go of the GIL during a call first copies `call` and takes
 * references to both. A handle that is bound to nothing has a `call` that is always PSA_CLOSED. */
typedef struct {
    PyObject_HEAD
    psa_quote_call call; /* its `uses` are the owner's, see psa_aim */
    psa_depth_use uses[2]; /* their tables are psa_tables of this handle's */
    PyObject *owner;  /* the handle whose tables are used; NULL: its own */
    PyObject *where;  /* (MappedArena, slot, generation); NULL when bound to nothing */
    PyObject *closed; /* what owns the word at call.closed */
    PyObject *key;    /* 0x-hex, lower case */
    PyObject *arena;  /* the attachment it was looked up in */
} psa_pool_object;

extern PyTypeObject *psa_pool_type;

/* ---- _state.c: methods of a handle ------------------------------------------------------------------- */

/* The pool's copy as bytes; a PoolState over one; and a PoolState that says there are no ticks. What keeps
 * the pool from being read is raised by the handle's `_unreadable`. */
PyObject *psa_pool_copy_bytes(PyObject *self, PyObject *unused);
PyObject *psa_pool_state(PyObject *self, PyObject *unused);
PyObject *psa_pool_head(PyObject *self, PyObject *unused);

/* ---- _keys.c ------------------------------------------------------------------------------------------ */

/* 20 or 32, the bytes of a pool key, zero padded in `data`; 0 with an exception set. */
unsigned psa_parse_key(PyObject *key, uint8_t data[32]);

/* ---- _depth.c ----------------------------------------------------------------------------------- */

int psa_add_depth(PyObject *module);

/* Have a handle's quotes use its owner's tables, as long as both read the same mapping: only there does a
 * serial number stand for the same ticks. Returns whose they are, NULL when nobody's. */
static inline psa_pool_object *psa_aim(psa_pool_object *self) {
    psa_pool_object *owner = self->owner ? (psa_pool_object *)self->owner : self;
    if (owner->call.arena != self->call.arena) owner = NULL;
    self->call.uses = owner ? owner->uses : NULL;
    return owner;
}

/* Make the table that a direction wants, with the options in `flags` and `lp_fee`; without it, as before,
 * when there is no room or the writer overtook it. Lets go of the GIL. */
void psa_make_table(psa_pool_object *pool, uint32_t flags, uint32_t lp_fee);

/* Forget what is kept of both directions. */
void psa_drop_tables(psa_pool_object *pool);

/* A reference to a table, for as long as it is used without the GIL; null stays null. */
void psa_keep_table(const psa_depth *depth);
void psa_release_table(const psa_depth *depth);

#endif
