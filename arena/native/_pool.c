/* _pool.c: PoolHandle, the base of a reader's Pool: the arguments of a quote that never change, and the
 * common call answered with nothing of Python in between.
 *
 * The GIL is held during a quote. A quote takes less time than giving the GIL away and getting it back, and
 * a thread that gives it away waits for whoever runs Python meanwhile. It also is what makes binding safe:
 * no other thread can bind a handle between the look at `call` and the answer.
 */
#include "_types.h"

PyTypeObject *psa_pool_type;

static PyObject *direction;       /* "zero_for_one" */
static const uint32_t unbound = 1; /* what a handle's `closed` points to when it is bound to nothing */

static const psa_quote_call unbound_call = {NULL, &unbound, 0, 0, 0, NULL};

/* ---- life ------------------------------------------------------------------------------------------------ */

static PyObject *create(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    psa_pool_object *self = (psa_pool_object *)allocate(type, 0);
    (void)args; /* a subclass says what it takes */
    (void)keywords;
    if (self) self->call = unbound_call;
    return (PyObject *)self;
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
    psa_pool_object *self = (psa_pool_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->where);
    Py_VISIT(self->closed);
    Py_VISIT(self->arena);
    Py_VISIT(self->owner);
    Py_VISIT(self->key); /* a string, perhaps of a class whose instances refer to something */
    return 0;
}

static void bind(psa_pool_object *self, psa_quote_call call, PyObject *where, PyObject *closed) {
    PyObject *old_where = self->where, *old_closed = self->closed;
    Py_XINCREF(where);
    Py_XINCREF(closed);
    psa_drop_tables(self);
    self->call = call;
    self->where = where;
    self->closed = closed;
    Py_XDECREF(old_where); /* may run anything, the handle's own methods included */
    Py_XDECREF(old_closed);
}

static int clear(PyObject *object) {
    psa_pool_object *self = (psa_pool_object *)object;
    bind(self, unbound_call, NULL, NULL);
    Py_CLEAR(self->arena);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->key);
    return 0;
}

static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- quotes ------------------------------------------------------------------------------------------------ */

/* Flags of (amount, *, zero_for_one=True or False) and the amount's words; -1 for any other call, and with
 * an exception when memory is out. */
static inline int common_call(PyObject *const *args, Py_ssize_t count, PyObject *names, uint64_t words[4]) {
    if (count != 1 || !names || PyTuple_Size(names) != 1) return -1;
    PyObject *name = PyTuple_GetItem(names, 0); /* as a rule interned, as direction is */
    if (name != direction && PyUnicode_Compare(name, direction) != 0) return -1;
    int flags = args[1] == Py_True ? PSA_ZERO_FOR_ONE : args[1] == Py_False ? 0 : -1;
    return flags >= 0 && psa_words_from_int(args[0], words) ? flags : -1;
}

/* The same call of the method `name`. */
static PyObject *call_other(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t count,
                            PyObject *names) {
    PyObject *method = PyObject_GetAttrString(self, name), *out = NULL;
    PyObject *positional = PyTuple_New(count), *keywords = PyDict_New();
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (!method || !positional || !keywords) goto done;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(positional, i, args[i]);
    }
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[count + i]) < 0) goto done;
    out = PyObject_Call(method, positional, keywords);
done:
    Py_XDECREF(method);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return out;
}

/* Make a table after a quote that found it worth it. */
static inline void look_at_depth(psa_pool_object *self, uint32_t flags, uint32_t lp_fee) {
    const psa_depth_use *uses = self->call.uses;
    if (uses && uses[(flags & PSA_ZERO_FOR_ONE) != 0].wanted != 0) psa_make_table(self, flags, lp_fee);
}

static inline PyObject *quote(PyObject *object, const char *other, int side, PyObject *const *args,
                              Py_ssize_t count, PyObject *names) {
    psa_pool_object *self = (psa_pool_object *)object;
    uint64_t words[4];
    int flags = common_call(args, count, names, words);
    if (flags < 0) return PyErr_Occurred() ? NULL : call_other(object, other, args, count, names);
    psa_quote_object *out = psa_new_quote();
    if (!out) return NULL;
    flags |= side;
    psa_aim(self);
    int status = psa_core->quote_prepared(&self->call, (const uint8_t *)words, (uint32_t)flags, &out->raw);
    if (status == PSA_OK) {
        look_at_depth(self, (uint32_t)flags, 0);
        return (PyObject *)out;
    }
    Py_DECREF(out);
    return PyObject_CallMethod(object, "_without_answer", "iOi", status, args[0], flags);
}

static PyObject *quote_exact_in(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return quote(self, "_exact_in", 0, args, count, names);
}

static PyObject *quote_exact_out(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return quote(self, "_exact_out", PSA_EXACT_OUT, args, count, names);
}

static PyObject *quote_given(PyObject *object, PyObject *args) {
    psa_pool_object *self = (psa_pool_object *)object;
    const char *amount, *limit;
    Py_ssize_t amount_nbytes, limit_nbytes;
    unsigned int flags, lp_fee;
    if (!PyArg_ParseTuple(args, "y#z#II:_quote_given", &amount, &amount_nbytes, &limit, &limit_nbytes, &flags,
                          &lp_fee))
        return NULL;
    if (amount_nbytes != 32 || (limit && limit_nbytes != 32)) {
        PyErr_SetString(PyExc_ValueError, "amount and limit have 32 bytes");
        return NULL;
    }
    psa_quote_object *out = psa_new_quote();
    if (!out) return NULL;
    psa_aim(self);
    int status = psa_core->quote_given(&self->call, (const uint8_t *)amount, (const uint8_t *)limit, flags,
                                       lp_fee, &out->raw);
    if (status == PSA_OK) {
        look_at_depth(self, flags, lp_fee);
        return (PyObject *)out;
    }
    Py_DECREF(out);
    return PyLong_FromLong(status);
}

/* Answer `count` amounts; tables that become worth it are made on the way. */
static void answer_many(psa_pool_object *self, const uint64_t *amounts, uint32_t flags, uint32_t count,
                        psa_quote_result *results) {
    uint32_t done = 0;
    int side = (flags & PSA_ZERO_FOR_ONE) != 0;
    while (done < count && self->call.arena) {
        psa_pool_object *owner = psa_aim(self);
        psa_quote_call call = self->call;
        psa_depth_use uses[2] = {0};
        PyObject *where = self->where, *closed = self->closed;
        if (owner) memcpy(uses, owner->uses, sizeof uses);
        call.uses = owner ? uses : NULL;
        Py_XINCREF(where);
        Py_XINCREF(closed);
        psa_keep_table(uses[side].depth);
        Py_BEGIN_ALLOW_THREADS
        done += psa_core->quote_many(&call, &amounts[4 * (size_t)done], flags, count - done, &results[done]);
        Py_END_ALLOW_THREADS
        if (owner && owner == psa_aim(self) && owner->uses[side].depth == uses[side].depth)
            owner->uses[side] = uses[side]; /* what was walked */
        psa_release_table(uses[side].depth);
        Py_XDECREF(where);
        Py_XDECREF(closed);
        look_at_depth(self, flags, 0);
    }
}

static PyObject *quote_words(PyObject *object, PyObject *args) {
    Py_buffer amounts, results;
    unsigned int flags;
    PyObject *out = NULL;
    if (!PyArg_ParseTuple(args, "y*Iw*:_quote_words", &amounts, &flags, &results)) return NULL;
    Py_ssize_t count = amounts.len / 32;
    if (!((psa_pool_object *)object)->call.arena) {
        PyErr_SetString(PyExc_ValueError, "the handle is bound to nothing");
    } else if (amounts.len != 32 * count || results.len != count * (Py_ssize_t)sizeof(psa_quote_result) ||
        count > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "not as many results as amounts");
    } else {
        answer_many((psa_pool_object *)object, amounts.buf, flags, (uint32_t)count, results.buf);
        Py_INCREF(Py_None);
        out = Py_None;
    }
    PyBuffer_Release(&amounts);
    PyBuffer_Release(&results);
    return out;
}

/* ---- binding ----------------------------------------------------------------------------------------------- */

static PyObject *bind_call(PyObject *self, PyObject *args) {
    PyObject *where, *closed, *mapped;
    unsigned long long arena, word, commit;
    unsigned int slot, generation;
    if (!PyArg_ParseTuple(args, "O!OKKK:_bind_call", &PyTuple_Type, &where, &closed, &arena, &word, &commit) ||
        !PyArg_ParseTuple(where, "OII:_bind_call", &mapped, &slot, &generation))
        return NULL;
    if (!arena || !word) {
        PyErr_SetString(PyExc_ValueError, "a null pointer");
        return NULL;
    }
    psa_quote_call call = {(const psa_arena *)(uintptr_t)arena, (const uint32_t *)(uintptr_t)word, commit, slot,
                           generation, NULL};
    bind((psa_pool_object *)self, call, where, closed);
    Py_RETURN_NONE;
}

static PyObject *name_call(PyObject *object, PyObject *args) {
    psa_pool_object *self = (psa_pool_object *)object;
    PyObject *key, *arena;
    if (!PyArg_ParseTuple(args, "UO:_name_call", &key, &arena)) return NULL;
    if (self->key) {
        PyErr_SetString(PyExc_ValueError, "the handle is named already");
        return NULL;
    }
    Py_INCREF(key);
    Py_INCREF(arena);
    self->key = key;
    self->arena = arena;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"quote_exact_in", PSA_FASTCALL(quote_exact_in), METH_FASTCALL | METH_KEYWORDS,
     "quote_exact_in($self, amount_in, *, zero_for_one, **options)\n--\n\n"
     "What `amount_in` wei, fee included, would buy; options as in QuoteOptions.\n\n"
     "Raises the error the contract would revert with, PoolStale unless the pool is live or\n"
     "`allow_stale`, and DynamicFee. Without a price limit the swap runs to the end of the price range."},
    {"quote_exact_out", PSA_FASTCALL(quote_exact_out), METH_FASTCALL | METH_KEYWORDS,
     "quote_exact_out($self, amount_out, *, zero_for_one, **options)\n--\n\n"
     "What it would cost to get `amount_out` wei; otherwise as quote_exact_in."},
    {"state", psa_pool_state, METH_NOARGS,
     "state($self, /)\n--\n\nEverything about the pool, ticks included, from one version."},
    {"_copy_bytes", psa_pool_copy_bytes, METH_NOARGS, "_copy_bytes($self, /)\n--\n\nA copy, for FrozenPool."},
    {"_head", psa_pool_head, METH_NOARGS, "_head($self, /)\n--\n\nstate(), but as of a pool without ticks."},
    {"_quote_given", quote_given, METH_VARARGS,
     "_quote_given($self, amount, limit, flags, lp_fee, /)\n--\n\n"
     "A Quote, or the status of one that has no answer; `amount` and `limit`, if any, are 32 bytes. Does not\n"
     "look whether the handle may be used."},
    {"_quote_words", quote_words, METH_VARARGS,
     "_quote_words($self, amounts, flags, results, /)\n--\n\n"
     "Answer `amounts`, (n, 4) words, into `results`, n psa_quote_result; as _quote_given without options."},
    {"_bind_call", bind_call, METH_VARARGS,
     "_bind_call($self, where, closed, arena, word, commit, /)\n--\n\n"
     "Lead to the pool at `where`, (mapped, slot, generation): `arena` is the address of a psa_arena that\n"
     "`mapped` keeps, `word` that of a uint32_t that `closed` keeps."},
    {"_name_call", name_call, METH_VARARGS,
     "_name_call($self, key, arena, /)\n--\n\n"
     "Say once which pool it is of, 0x-hex, lower case, and the attachment it was looked up in. ValueError\n"
     "the second time."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_where", T_OBJECT_EX, offsetof(psa_pool_object, where), READONLY, NULL},
    {"key", T_OBJECT_EX, offsetof(psa_pool_object, key), READONLY, "0x-hex, lower case."},
    {"_arena", T_OBJECT_EX, offsetof(psa_pool_object, arena), READONLY, NULL},
    {"_closed", T_OBJECT_EX, offsetof(psa_pool_object, closed), READONLY, NULL},
    {"_commit", T_ULONGLONG, offsetof(psa_pool_object, call.commit), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The half of a pool handle that is asked often. Subclasses bind it with _bind_call."},
    {Py_tp_new, create},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {"arena.native._handle.PoolHandle", sizeof(psa_pool_object), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

int psa_add_pool(PyObject *module) {
    direction = PyUnicode_InternFromString("zero_for_one");
    PyObject *type = PyType_FromSpec(&spec);
    if (!direction || !type) return -1;
    psa_pool_type = (PyTypeObject *)type;
    return PyModule_AddObjectRef(module, "PoolHandle", type);
}
