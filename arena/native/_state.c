/* _state.c: one pool as it was, in one bytes object; its fields become Python objects when they are read.
 *
 * The bytes are a psa_copy_head and the arrays behind it. They are private and never change, but they may
 * come from a pickle: whoever takes them from Python looks at them first (is_copy).
 */
#include "_types.h"

#define NO_GIL_TICKS 4096 /* a copy of more takes longer than letting go of the interpreter does */
#define GROWTH_TRIES 64

enum {
    PROTOCOL, POOL_KEY, BLOCK_NUMBER, TX_INDEX, LOG_INDEX, STATUS, TOKEN0, TOKEN1, FEE_PIPS, BASE_BLOCK,
    FACTORY, RESERVE0, RESERVE1, SQRT_PRICE, TICK, LIQUIDITY, TICK_SPACING, TICKS, PROTOCOL_FEE, LP_FEE,
    FEE_BLOCK, HOOKS, FIELDS
};

/* What Python tells once, see describe. */
typedef struct {
    PyObject *name;
    int has_ticks, has_stored_fees;
} protocol_words;

static protocol_words protocols[256];
static PyObject *status_names, *make_token;
static PyTypeObject *fields_type; /* StateFields */
static PyTypeObject *state_type;  /* its subclass; NULL before describe */

typedef struct {
    PyObject_HEAD
    PyObject *copy;           /* bytes; NULL: every value was given */
    PyObject *values[FIELDS]; /* given, or made from the copy */
} state_object;

/* ---- the copy -------------------------------------------------------------------------------------- */

static const psa_copy_head *head_of(PyObject *copy) {
    return (const psa_copy_head *)(const void *)PyBytes_AsString(copy);
}

static Py_ssize_t copy_nbytes(uint32_t ticks) {
    return (Py_ssize_t)(sizeof(psa_copy_head) + 36 * (size_t)ticks);
}

static const uint64_t *net_of(const psa_copy_head *head) { return (const uint64_t *)(const void *)(head + 1); }

static const uint64_t *gross_of(const psa_copy_head *head) {
    return net_of(head) + 2 * (size_t)head->line.tick_count;
}

static const int32_t *ticks_of(const psa_copy_head *head) {
    return (const int32_t *)(const void *)(gross_of(head) + 2 * (size_t)head->line.tick_count);
}

/* Whether bytes are a copy with a name for everything in it. */
static int is_copy(PyObject *copy) {
    if (!PyBytes_Check(copy) || PyBytes_Size(copy) < (Py_ssize_t)sizeof(psa_copy_head)) return 0;
    const psa_copy_head *head = head_of(copy);
    return PyBytes_Size(copy) == copy_nbytes(head->line.tick_count) && protocols[head->row.protocol].name &&
           head->line.fee_status >> 24 <= PSA_STATUS_REMOVED && head->row.key_nbytes <= 32;
}

/* A copy, or null: with PSA_OK in `status` an exception is set. */
static PyObject *copy_pool(const psa_quote_call *call, int *status) {
    psa_line line;
    *status = psa_core->pool_read(call->arena, call->slot, call->generation, call->commit, &line);
    if (*status != PSA_OK) return NULL;
    for (int attempt = 0; attempt < GROWTH_TRIES; attempt++) {
        uint32_t room = line.tick_count;
        if (room > call->arena->heap_nbytes / 36) {
            *status = PSA_TICK_DATA;
            return NULL;
        }
        PyObject *copy = PyBytes_FromStringAndSize(NULL, copy_nbytes(room));
        if (copy == NULL) {
            *status = PSA_OK;
            return NULL;
        }
        psa_copy_head *head = (psa_copy_head *)(void *)PyBytes_AsString(copy);
        uint64_t *arrays = (uint64_t *)(void *)(head + 1);
        PyThreadState *running = room > NO_GIL_TICKS ? PyEval_SaveThread() : NULL;
        *status = psa_core->copy_read(call->arena, call->slot, call->generation, call->commit, head, arrays,
                                      room);
        if (running) PyEval_RestoreThread(running);
        if (*status == PSA_OK && head->line.tick_count == room) return copy;
        line.tick_count = head->line.tick_count; /* the writer changed the ticks meanwhile */
        Py_DECREF(copy);
        if (*status != PSA_OK && *status != PSA_BUFFER_TOO_SMALL) return NULL;
    }
    *status = PSA_CONTENDED;
    return NULL;
}

/* A copy that says it has no ticks. */
static PyObject *copy_head(const psa_quote_call *call, int *status) {
    PyObject *copy = PyBytes_FromStringAndSize(NULL, copy_nbytes(0));
    *status = PSA_OK;
    if (copy == NULL) return NULL;
    psa_copy_head *head = (psa_copy_head *)(void *)PyBytes_AsString(copy);
    *status = psa_core->copy_read(call->arena, call->slot, call->generation, call->commit, head, NULL, 0);
    if (*status != PSA_OK) Py_CLEAR(copy);
    else head->line.tick_count = head->line.current_index = 0;
    return copy;
}

/* Refer to a value in place of another. What that is may run anything when it goes, so it goes last. */
static void replace(PyObject **place, PyObject *value) {
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

/* ---- fields ---------------------------------------------------------------------------------------- */

static PyObject *hex_text(const uint8_t *data, size_t count) {
    static const char digits[] = "0123456789abcdef";
    char text[66] = "0x";
    for (size_t i = 0; i < count; i++) {
        text[2 + 2 * i] = digits[data[i] >> 4];
        text[3 + 2 * i] = digits[data[i] & 15];
    }
    return PyUnicode_FromStringAndSize(text, (Py_ssize_t)(2 + 2 * count));
}

static PyObject *tick_tuples(const psa_copy_head *head) {
    Py_ssize_t count = (Py_ssize_t)head->line.tick_count;
    PyObject *found = PyTuple_New(count);
    for (Py_ssize_t i = 0; found && i < count; i++) {
        PyObject *tick = PyLong_FromLong(ticks_of(head)[i]);
        PyObject *gross = tick ? psa_int_from_words(&gross_of(head)[2 * i], 2) : NULL;
        PyObject *net = gross ? psa_int_from_signed(&net_of(head)[2 * i], 2) : NULL;
        PyObject *item = net ? PyTuple_Pack(3, tick, gross, net) : NULL;
        Py_XDECREF(tick);
        Py_XDECREF(gross);
        Py_XDECREF(net);
        if (item == NULL) Py_CLEAR(found);
        else PyTuple_SetItem(found, i, item);
    }
    return found;
}

static PyObject *token(const psa_copy_head *head, int which) {
    PyObject *make = make_token; /* describe may replace it meanwhile */
    Py_INCREF(make);
    PyObject *made = PyObject_CallFunction(make, "y#", (const char *)&head->tokens[which],
                                           (Py_ssize_t)sizeof(psa_token));
    Py_DECREF(make);
    return made;
}

static PyObject *price(const psa_line *line) {
    const uint64_t words[3] = {line->a[0], line->a[1], line->sqrt_price_hi};
    return psa_int_from_words(words, 3);
}

/* A field that pools of some kinds do not have, or not before they are read: None. */
#define IF(condition, value) ((condition) ? (value) : (Py_INCREF(Py_None), Py_None))

static PyObject *make_field(const psa_copy_head *head, int field) {
    const psa_line *line = &head->line;
    const psa_static *row = &head->row;
    const protocol_words *protocol = &protocols[row->protocol];
    int is_read = !(line->unsure & PSA_UNSURE_UNREAD), has_fees = protocol->has_stored_fees;
    int is_pair = is_read && !protocol->has_ticks, has_price = is_read && protocol->has_ticks;
    switch (field) {
    case PROTOCOL: Py_INCREF(protocol->name); return protocol->name;
    case POOL_KEY: return hex_text(row->key, row->key_nbytes);
    case BLOCK_NUMBER:
        return PyLong_FromUnsignedLongLong(line->block_number ? line->block_number : line->base_block);
    case TX_INDEX: return PyLong_FromUnsignedLong(line->block_number ? line->tx_index : 0);
    case LOG_INDEX: return PyLong_FromUnsignedLong(line->block_number ? line->log_index : 0);
    case STATUS: return PySequence_GetItem(status_names, (Py_ssize_t)(line->fee_status >> 24));
    case TOKEN0: return token(head, 0);
    case TOKEN1: return token(head, 1);
    case FEE_PIPS:
        return PyLong_FromUnsignedLong(is_read && !has_fees ? line->fee_status & 0xffffff : row->fee_pips);
    case BASE_BLOCK: return PyLong_FromUnsignedLongLong(line->base_block);
    case FACTORY: return hex_text(row->factory, sizeof row->factory);
    case RESERVE0: return IF(is_pair, psa_int_from_words(line->a, 2));
    case RESERVE1: return IF(is_pair, psa_int_from_words(line->b, 2));
    case SQRT_PRICE: return IF(has_price, price(line));
    case TICK: return IF(has_price, PyLong_FromLong(line->tick));
    case LIQUIDITY: return IF(has_price, psa_int_from_words(line->b, 2));
    case TICK_SPACING: return IF(protocol->has_ticks, PyLong_FromLong(row->tick_spacing));
    case TICKS: return IF(has_price, tick_tuples(head));
    case PROTOCOL_FEE: return IF(is_read && has_fees, PyLong_FromUnsignedLong(line->protocol_fee));
    case LP_FEE: return IF(is_read && has_fees, PyLong_FromUnsignedLong(line->fee_status & 0xffffff));
    case FEE_BLOCK: return IF(is_read && has_fees, PyLong_FromUnsignedLongLong(line->fee_block));
    case HOOKS: return IF(has_fees, hex_text(row->hooks, sizeof row->hooks));
    default: PyErr_SetString(PyExc_SystemError, "no such field"); return NULL;
    }
}

static PyObject *get_field(PyObject *self, void *number) {
    state_object *state = (state_object *)self;
    int field = (int)(intptr_t)number;
    if (state->values[field] == NULL) {
        if (state->copy == NULL) {
            PyErr_SetString(PyExc_AttributeError, "the field was not given a value");
            return NULL;
        }
        PyObject *made = make_field(head_of(state->copy), field);
        if (made == NULL) return NULL;
        replace(&state->values[field], made); /* another thread may have run while a token was made */
    }
    Py_INCREF(state->values[field]);
    return state->values[field];
}

/* For the initialiser of a frozen dataclass, which sets past its own refusal. */
static int set_field(PyObject *self, PyObject *value, void *number) {
    state_object *state = (state_object *)self;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "fields cannot be deleted");
        return -1;
    }
    Py_INCREF(value);
    replace(&state->values[(intptr_t)number], value);
    return 0;
}

#define FIELD(name, number) {name, get_field, set_field, NULL, (void *)(intptr_t)(number)}

static PyObject *get_copy(PyObject *self, void *unused) {
    (void)unused;
    PyObject *copy = ((state_object *)self)->copy;
    return IF(copy != NULL, (Py_INCREF(copy), copy));
}

static PyGetSetDef state_fields[] = {
    FIELD("protocol", PROTOCOL), FIELD("pool_key", POOL_KEY), FIELD("block_number", BLOCK_NUMBER),
    FIELD("tx_index", TX_INDEX), FIELD("log_index", LOG_INDEX), FIELD("status", STATUS),
    FIELD("token0", TOKEN0), FIELD("token1", TOKEN1), FIELD("fee_pips", FEE_PIPS),
    FIELD("base_block", BASE_BLOCK), FIELD("factory", FACTORY), FIELD("reserve0", RESERVE0),
    FIELD("reserve1", RESERVE1), FIELD("sqrt_price_x96", SQRT_PRICE), FIELD("tick", TICK),
    FIELD("liquidity", LIQUIDITY), FIELD("tick_spacing", TICK_SPACING), FIELD("ticks", TICKS),
    FIELD("protocol_fee", PROTOCOL_FEE), FIELD("lp_fee", LP_FEE), FIELD("fee_block", FEE_BLOCK),
    FIELD("hooks", HOOKS), {"_copy", get_copy, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL},
};

/* ---- the type -------------------------------------------------------------------------------------- */

static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    state_object *state = (state_object *)self;
    Py_XDECREF(state->copy);
    for (int i = 0; i < FIELDS; i++) Py_XDECREF(state->values[i]);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* A state over a copy, to which it takes over the reference; null when there is none. */
static PyObject *state_over(PyObject *copy) {
    if (copy == NULL) return NULL;
    PyObject *self = NULL;
    if (is_copy(copy)) self = PyType_GenericAlloc(state_type, 0);
    else PyErr_SetString(PyExc_ValueError, "the bytes are no copy of a pool");
    if (self == NULL) Py_DECREF(copy);
    else ((state_object *)self)->copy = copy;
    return self;
}

static PyObject *over(PyObject *type, PyObject *copy) {
    (void)type;
    Py_INCREF(copy);
    return state_over(copy);
}

static PyMethodDef methods[] = {
    {"_over", over, METH_O | METH_CLASS,
     "_over($type, copy, /)\n--\n\nThe PoolState over a copy. ValueError when the bytes are none."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, "Fields of a pool's state: given, or made from a copy when they are read."},
    {Py_tp_dealloc, deallocate},
    {Py_tp_getset, state_fields},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"arena.native._handle.StateFields", sizeof(state_object), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, type_slots};

/* ---- of a handle --------------------------------------------------------------------------------------- */

/* Have a handle's Python half raise what kept its pool from being read. */
static PyObject *refused(PyObject *object, int status) {
    PyObject *said = PyObject_CallMethod(object, "_unreadable", "i", status);
    if (said == NULL) return NULL;
    PyErr_Format(PyExc_TypeError, "_unreadable is to raise what keeps a pool from being read, not return %R",
                 said);
    Py_DECREF(said);
    return NULL;
}

/* A copy of a handle's pool; what keeps it from being read is for Python to say. */
static PyObject *copy_of(PyObject *object, PyObject *copy_by(const psa_quote_call *, int *)) {
    psa_pool_object *self = (psa_pool_object *)object;
    if (psa_core->must_look(&self->call)) {
        PyObject *done = PyObject_CallMethod(object, "_refresh", NULL);
        if (done == NULL) return NULL;
        Py_DECREF(done);
    }
    psa_quote_call call = self->call; /* the handle may be bound anew while the GIL is let go */
    PyObject *where = self->where;
    int status = PSA_CLOSED;
    Py_XINCREF(where);
    PyObject *copy = where ? copy_by(&call, &status) : NULL;
    Py_XDECREF(where);
    return copy || status == PSA_OK ? copy : refused(object, status);
}

PyObject *psa_pool_copy_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    return copy_of(self, copy_pool);
}

PyObject *psa_pool_state(PyObject *self, PyObject *unused) {
    (void)unused;
    return state_over(copy_of(self, copy_pool));
}

PyObject *psa_pool_head(PyObject *self, PyObject *unused) {
    (void)unused;
    return state_over(copy_of(self, copy_head));
}

/* ---- the module ------------------------------------------------------------------------------------------ */

static PyObject *copy_at(PyObject *module, PyObject *args) {
    unsigned long long arena, commit;
    psa_quote_call call = {NULL, NULL, 0, 0, 0, NULL};
    int status;
    (void)module;
    if (!PyArg_ParseTuple(args, "KIIK:copy_pool", &arena, &call.slot, &call.generation, &commit)) return NULL;
    call.arena = (const psa_arena *)(uintptr_t)arena;
    call.commit = commit;
    PyObject *copy = copy_pool(&call, &status);
    return copy || status == PSA_OK ? copy : PyLong_FromLong(status);
}

/* What is said of one protocol; -1 with an exception. The name lives as long as `words`. Runs nothing of
 * Python, so that a dictionary may be walked meanwhile. */
static int take_protocol(PyObject *number, PyObject *words, unsigned long *index, protocol_words *out) {
    PyObject *has_ticks, *has_stored_fees;
    *index = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred()) return -1;
    if (*index > 255) {
        PyErr_SetString(PyExc_ValueError, "a protocol's number has 8 bits");
        return -1;
    }
    if (!PyTuple_Check(words)) {
        PyErr_SetString(PyExc_TypeError, "a protocol is described by (name, has_ticks, has_stored_fees)");
        return -1;
    }
    if (!PyArg_ParseTuple(words, "UO!O!", &out->name, &PyBool_Type, &has_ticks, &PyBool_Type, &has_stored_fees))
        return -1;
    out->has_ticks = has_ticks == Py_True;
    out->has_stored_fees = has_stored_fees == Py_True;
    return 0;
}

/* All of a dictionary, or nothing of it when one entry is wrong; -1 with an exception then. */
static int describe_protocols(PyObject *described) {
    PyObject *number, *words;
    protocol_words found[256] = {{NULL, 0, 0}};
    unsigned long index;
    for (Py_ssize_t at = 0; PyDict_Next(described, &at, &number, &words);) {
        protocol_words one;
        if (take_protocol(number, words, &index, &one) < 0) return -1;
        found[index] = one;
    }
    for (index = 0; index < 256; index++) {
        if (found[index].name == NULL) continue;
        protocols[index].has_ticks = found[index].has_ticks;
        protocols[index].has_stored_fees = found[index].has_stored_fees;
        Py_INCREF(found[index].name);
        replace(&protocols[index].name, found[index].name);
    }
    return 0;
}

static PyObject *describe(PyObject *module, PyObject *args) {
    PyObject *described, *statuses, *token_of, *type;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!OO!:describe", &PyDict_Type, &described, &PyTuple_Type, &statuses, &token_of,
                          &PyType_Type, &type))
        return NULL;
    if (PyTuple_Size(statuses) <= PSA_STATUS_REMOVED) {
        PyErr_SetString(PyExc_ValueError, "a status has no name");
        return NULL;
    }
    if (!PyType_IsSubtype((PyTypeObject *)type, fields_type)) {
        PyErr_Format(PyExc_TypeError, "%R is no subclass of StateFields", type);
        return NULL;
    }
    if (describe_protocols(described) < 0) return NULL;
    Py_INCREF(statuses);
    Py_INCREF(token_of);
    Py_INCREF(type);
    PyObject *type_before = (PyObject *)state_type;
    state_type = (PyTypeObject *)type;
    replace(&status_names, statuses);
    replace(&make_token, token_of);
    Py_XDECREF(type_before);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"describe", describe, METH_VARARGS,
     "describe($module, protocols, statuses, token_of, state, /)\n--\n\n"
     "Say once what states are made with: (name, has_ticks, has_stored_fees) by number of a protocol, the\n"
     "names of statuses, the maker of a token from a row of the token table, and the subclass of StateFields."},
    {"copy_pool", copy_at, METH_VARARGS,
     "copy_pool($module, arena, slot, generation, commit, /)\n--\n\n"
     "Bytes of a copy, or the status that kept it from being made; `arena` is the address of a psa_arena that\n"
     "the caller keeps, `generation` 0 any, `commit` 0 the newest."},
    {NULL, NULL, 0, NULL},
};

int psa_add_state(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    int status = type ? PyModule_AddObjectRef(module, "StateFields", type) : -1;
    fields_type = (PyTypeObject *)type; /* for as long as the process lives */
    return status < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
