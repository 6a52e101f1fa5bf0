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
    psa_quote_call call; /* its `uses` are those below */
    psa_depth_use uses[2]; /* their tables are psa_tables of this handle's */
    PyObject *where;  /* (MappedArena, slot, generation); NULL when bound to nothing */
    PyObject *closed; /* what owns the word at call.closed */
} psa_pool_object;

/* ---- _depth.c ----------------------------------------------------------------------------------- */

int psa_add_depth(PyObject *module);

/* Make the table that a direction wants, with the options in `flags` and `lp_fee`; without it, as before,
 * when there is no room or the writer overtook it. Lets go of the GIL. */
void psa_make_table(psa_pool_object *pool, uint32_t flags, uint32_t lp_fee);

/* Forget what is kept of both directions. */
void psa_drop_tables(psa_pool_object *pool);

/* A reference to a table, for as long as it is used without the GIL; null stays null. */
void psa_keep_table(const psa_depth *depth);
void psa_release_table(const psa_depth *depth);

#endif
