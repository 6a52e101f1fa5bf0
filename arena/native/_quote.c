/* _quote.c: Quote, what one swap would do: a psa_quote_result whose fields become Python objects when they
 * are read. */
#include "_types.h"

/* What two equal quotes share: the swap, and what it starts from; all but whence they are. */
#define SWAP_NBYTES offsetof(psa_quote_result, commit)
#define START offsetof(psa_quote_result, sqrt_price_hi_before)
#define START_NBYTES (offsetof(psa_quote_result, slot) - START)

static PyTypeObject *type;
static PyObject *make; /* make_quote */

psa_quote_object *psa_new_quote(void) { return PyObject_New(psa_quote_object, type); }

static void deallocate(PyObject *self) {
    PyTypeObject *own = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(own);
}

/* ---- fields ------------------------------------------------------------------------------------------- */

static const psa_quote_result *raw_of(PyObject *self) { return &((psa_quote_object *)self)->raw; }

#define WORDS(field)                                                                              \
    static PyObject *field(PyObject *self, void *unused) {                                        \
        (void)unused;                                                                             \
        return psa_int_from_words(raw_of(self)->field, sizeof raw_of(self)->field / 8);           \
    }
WORDS(amount_in)
WORDS(amount_out)
WORDS(sqrt_price_x96_after)
WORDS(liquidity_after)

static PyObject *tick_after(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(raw_of(self)->tick_after);
}

static PyObject *ticks_crossed(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(raw_of(self)->ticks_crossed);
}

static PyObject *is_complete(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(raw_of(self)->is_complete != 0);
}

static PyObject *commit(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(raw_of(self)->commit);
}

static PyObject *block_number(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(raw_of(self)->block_number);
}

static PyObject *zero_for_one(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(raw_of(self)->zero_for_one != 0);
}

static PyObject *fee_pips(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(raw_of(self)->fee_pips);
}

static PyObject *price(PyObject *self, void *which) {
    double found;
    if (!psa_core->quote_price(raw_of(self), (uint32_t)(uintptr_t)which, &found)) Py_RETURN_NONE;
    return PyFloat_FromDouble(found);
}

static PyObject *raw(PyObject *self, void *unused) {
    (void)unused;
    return PyBytes_FromStringAndSize((const char *)raw_of(self), sizeof(psa_quote_result));
}

#define PRICE(name, which, text) {name, price, NULL, text, (void *)(uintptr_t)(which)}

static PyGetSetDef fields[] = {
    {"amount_in", amount_in, NULL, "Wei paid to the pool, fee included.", NULL},
    {"amount_out", amount_out, NULL, "Wei paid by the pool.", NULL},
    {"sqrt_price_x96_after", sqrt_price_x96_after, NULL,
     "Square root of token1/token0 after the swap, Q64.96; 0 for V2.", NULL},
    {"liquidity_after", liquidity_after, NULL, "Liquidity in range after the swap; 0 for V2.", NULL},
    {"tick_after", tick_after, NULL, "slot0 tick after the swap; 0 for V2.", NULL},
    {"ticks_crossed", ticks_crossed, NULL, "Initialised ticks crossed.", NULL},
    {"is_complete", is_complete, NULL, "Whether the whole amount was swapped.", NULL},
    {"commit", commit, NULL, "Commit that wrote the version the answer was computed from.", NULL},
    {"block_number", block_number, NULL,
     "Block of the pool's last applied event (its scrape block when there is none).", NULL},
    {"zero_for_one", zero_for_one, NULL, "Whether token0 goes in.", NULL},
    {"fee_pips", fee_pips, NULL, "Fee of the swap, of LPs and protocol together, pips.", NULL},
    PRICE("spot_price", PSA_PRICE_SPOT, "Price of the pool before the swap, without fee."),
    PRICE("marginal_price", PSA_PRICE_MARGINAL, "Price of the pool after the swap, without fee."),
    PRICE("effective_price", PSA_PRICE_EFFECTIVE, "amount_out / amount_in, fee included."),
    PRICE("price_impact", PSA_PRICE_IMPACT, "1 - effective_price / spot_price - fee_pips / 10**6."),
    {"_raw", raw, NULL, "The bytes of the psa_quote_result.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- as a value ---------------------------------------------------------------------------------------- */

static PyObject *compare(PyObject *self, PyObject *other, int operation) {
    if (Py_TYPE(other) != type || (operation != Py_EQ && operation != Py_NE)) Py_RETURN_NOTIMPLEMENTED;
    const char *one = (const char *)raw_of(self), *two = (const char *)raw_of(other);
    int is_equal =
        memcmp(one, two, SWAP_NBYTES) == 0 && memcmp(one + START, two + START, START_NBYTES) == 0;
    return PyBool_FromLong(is_equal == (operation == Py_EQ));
}

static Py_hash_t hash(PyObject *self) {
    char bytes[SWAP_NBYTES + START_NBYTES];
    memcpy(bytes, raw_of(self), SWAP_NBYTES);
    memcpy(bytes + SWAP_NBYTES, (const char *)raw_of(self) + START, START_NBYTES);
    PyObject *said = PyBytes_FromStringAndSize(bytes, sizeof bytes);
    if (!said) return -1;
    Py_hash_t found = PyObject_Hash(said);
    Py_DECREF(said);
    return found;
}

static PyObject *text(PyObject *self) {
    static const char *const shown[] = {"amount_in",       "amount_out",    "sqrt_price_x96_after",
                                        "tick_after",      "liquidity_after", "ticks_crossed",
                                        "is_complete",     "block_number"};
    PyObject *out = PyUnicode_FromString("Quote(");
    for (size_t i = 0; out && i < sizeof shown / sizeof *shown; i++) {
        PyObject *value = PyObject_GetAttrString(self, shown[i]), *more = NULL;
        if (value) more = PyUnicode_FromFormat("%U%s%s=%R", out, i ? ", " : "", shown[i], value);
        Py_XDECREF(value);
        Py_DECREF(out);
        out = more;
    }
    if (!out) return NULL;
    PyObject *whole = PyUnicode_FromFormat("%U)", out);
    Py_DECREF(out);
    return whole;
}

static PyObject *reduce(PyObject *self, PyObject *unused) {
    (void)unused;
    return Py_BuildValue("(O(y#))", make, raw_of(self), (Py_ssize_t)sizeof(psa_quote_result));
}

static PyObject *as_dict(PyObject *self, PyObject *unused) {
    (void)unused;
    PyObject *out = PyDict_New();
    for (const PyGetSetDef *each = fields; out && each->name; each++) {
        if (each->name[0] == '_') continue;
        PyObject *value = each->get(self, each->closure);
        if (!value || PyDict_SetItemString(out, each->name, value) < 0) {
            Py_DECREF(out);
            out = NULL;
        }
        Py_XDECREF(value);
    }
    return out;
}

static PyMethodDef methods[] = {
    {"as_dict", as_dict, METH_NOARGS, "as_dict($self, /)\n--\n\nEvery field by its name: a row of a frame."},
    {"__reduce__", reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "What one swap would do.\n\n"
     "Amounts are wei of the tokens going in and out, fees included in `amount_in`. `is_complete` is False\n"
     "when the price limit or the end of liquidity stopped the swap before the whole amount was used.\n"
     "Prices are floats, raw units of the token that comes out for a raw unit of the one that goes in, each\n"
     "computed from exact integers when it is read; None where there is none: nothing goes in, or a pair is\n"
     "empty. Two quotes are equal when they say the same, whatever commit they were computed from."},
    {Py_tp_dealloc, deallocate},
    {Py_tp_getset, fields},
    {Py_tp_methods, methods},
    {Py_tp_richcompare, compare},
    {Py_tp_hash, hash},
    {Py_tp_repr, text},
    {0, NULL},
};

static PyType_Spec spec = {"arena.readers.quote.Quote", sizeof(psa_quote_object), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
                           slots};

/* ---- from bytes ----------------------------------------------------------------------------------------- */

static PyObject *make_quote(PyObject *module, PyObject *source) {
    Py_buffer view;
    psa_quote_object *quote = NULL;
    (void)module;
    if (PyObject_GetBuffer(source, &view, PyBUF_SIMPLE) < 0) return NULL;
    if (view.len != sizeof(psa_quote_result))
        PyErr_Format(PyExc_ValueError, "a quote has %zu bytes, not %zd", sizeof(psa_quote_result), view.len);
    else if ((quote = psa_new_quote())) memcpy(&quote->raw, view.buf, sizeof quote->raw);
    PyBuffer_Release(&view);
    return (PyObject *)quote;
}

static PyMethodDef make_quote_definition = {
    "make_quote", make_quote, METH_O,
    "make_quote($module, raw, /)\n--\n\nQuote over the bytes of a psa_quote_result."};

int psa_add_quote(PyObject *module) {
    /* Pickles name the function by where it is found by everybody: in arena.readers.quote. */
    PyObject *home = PyUnicode_FromString("arena.readers.quote");
    if (!home) return -1;
    make = PyCFunction_NewEx(&make_quote_definition, NULL, home);
    Py_DECREF(home);
    type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!make || !type || PyModule_AddObjectRef(module, "make_quote", make) < 0) return -1;
    return PyModule_AddObjectRef(module, "Quote", (PyObject *)type);
}
