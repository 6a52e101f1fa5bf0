/* _keys.c: pool keys as Python gives them, one or many, and what they lead to. */
#include "_types.h"

#include "atomics.h"

static PyObject *key_name; /* "key" */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static unsigned key_of_text(PyObject *key, uint8_t data[32]) {
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(key, &size);
    if (text == NULL) PyErr_Clear(); /* lone surrogates */
    if (text == NULL || (size != 42 && size != 66) || text[0] != '0' || (text[1] != 'x' && text[1] != 'X')) {
        PyErr_Format(PyExc_ValueError, "%R is no pool key: 0x and 40 or 64 hex digits", key);
        return 0;
    }
    unsigned count = (unsigned)(size - 2) / 2;
    for (unsigned i = 0; i < count; i++) {
        int high = hex_digit(text[2 + 2 * i]), low = hex_digit(text[3 + 2 * i]);
        if (high < 0 || low < 0) {
            PyErr_Format(PyExc_ValueError, "%R is no pool key: it has other than hex digits", key);
            return 0;
        }
        data[i] = (uint8_t)(high << 4 | low);
    }
    return count;
}

static unsigned key_of_bytes(PyObject *bytes, uint8_t data[32]) {
    Py_ssize_t size = PyBytes_Size(bytes);
    if (size != 20 && size != 32) {
        PyErr_Format(PyExc_ValueError, "a pool key has 20 or 32 bytes, not %zd", size);
        return 0;
    }
    memcpy(data, PyBytes_AsString(bytes), (size_t)size);
    return (unsigned)size;
}

unsigned psa_parse_key(PyObject *key, uint8_t data[32]) {
    memset(data, 0, 32);
    if (PyUnicode_Check(key)) return key_of_text(key, data);
    if (PyBytes_Check(key)) return key_of_bytes(key, data);
    if (PyByteArray_Check(key) || PyObject_TypeCheck(key, &PyMemoryView_Type)) {
        PyObject *bytes = PyBytes_FromObject(key);
        unsigned size = bytes ? key_of_bytes(bytes, data) : 0;
        Py_XDECREF(bytes);
        return size;
    }
    PyObject *name = PyType_GetName(Py_TYPE(key));
    if (name) PyErr_Format(PyExc_TypeError, "a pool key is a 0x-hex string or bytes, not %U", name);
    Py_XDECREF(name);
    return 0;
}

static PyObject *key_bytes(PyObject *module, PyObject *key) {
    uint8_t data[32];
    (void)module;
    unsigned size = psa_parse_key(key, data);
    return size ? PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size) : NULL;
}

/* ---- many ------------------------------------------------------------------------------------------ */

/* A pool that is asked for: by its reference, or still by its key. */
typedef struct {
    const psa_arena *arena;
    PyObject *mapped;
    uint64_t commit;
    Py_ssize_t count;
    uint64_t *references; /* (count,) */
    uint64_t *found;      /* (count,), by key */
    uint8_t *keys;        /* (count, 32), of those that have a size */
    uint8_t *sizes;       /* (count,); 0: by reference */
} asked_pools;

static int is_handle_here(PyObject *item, PyObject *mapped) {
    if (!PyObject_TypeCheck(item, psa_pool_type)) return 0;
    PyObject *where = ((psa_pool_object *)item)->where;
    return where != NULL && PyTuple_GetItem(where, 0) == mapped;
}

/* The key of an item: its own when it is a handle. */
static unsigned parse_item(PyObject *item, uint8_t *data) {
    if (!PyObject_TypeCheck(item, psa_pool_type)) return psa_parse_key(item, data);
    PyObject *key = PyObject_GetAttr(item, key_name);
    unsigned size = key ? psa_parse_key(key, data) : 0;
    Py_XDECREF(key);
    return size;
}

/* `items` is a tuple: a handle's key may run anything, and nothing takes an item out of one meanwhile. */
static int take_items(asked_pools *asked, PyObject *items) {
    for (Py_ssize_t i = 0; i < asked->count; i++) {
        PyObject *item = PyTuple_GetItem(items, i);
        if (is_handle_here(item, asked->mapped)) {
            const psa_quote_call *call = &((psa_pool_object *)item)->call;
            asked->references[i] = (uint64_t)call->generation << 32 | call->slot;
        } else if ((asked->sizes[i] = (uint8_t)parse_item(item, asked->keys + 32 * i)) == 0) {
            return -1;
        }
    }
    return 0;
}

/* A reference found by a key's 32 bytes, if it is of a key as long. */
static uint64_t of_size(const asked_pools *asked, Py_ssize_t i, uint64_t found) {
    if (found == PSA_NO_SLOT) return found;
    const psa_static *row = &asked->arena->statics[(uint32_t)found];
    return PSA_LOAD(&row->key_nbytes) == asked->sizes[i] ? found : PSA_NO_SLOT;
}

/* Whether a reference's pool is there. One overwritten since `commit` says so for itself, later. */
static int is_there(const asked_pools *asked, uint64_t reference) {
    psa_line line;
    if (reference == PSA_NO_SLOT) return 0;
    int status = psa_core->pool_read(asked->arena, (uint32_t)reference, (uint32_t)(reference >> 32),
                                     asked->commit, &line);
    if (status == PSA_OK) return line.fee_status >> 24 != PSA_STATUS_ABSENT;
    return status != PSA_UNKNOWN_POOL && status != PSA_POOL_REMOVED && status != PSA_BAD_ARGUMENT;
}

/* Index of the first that is not there, or -1; -2 with an exception. */
static Py_ssize_t find_items(asked_pools *asked, PyObject *items) {
    if (take_items(asked, items) < 0) return -2;
    psa_core->find_many(asked->arena, asked->keys, (uint32_t)asked->count, asked->found);
    for (Py_ssize_t i = 0; i < asked->count; i++) {
        int by_key = asked->sizes[i] != 0;
        if (by_key) asked->references[i] = of_size(asked, i, asked->found[i]);
        if (is_there(asked, asked->references[i])) continue;
        if (by_key) return i;
        /* A handle whose pool was removed: its key may have come back. */
        if ((asked->sizes[i] = (uint8_t)parse_item(PyTuple_GetItem(items, i), asked->keys + 32 * i)) == 0)
            return -2;
        psa_core->find_many(asked->arena, asked->keys + 32 * i, 1, &asked->found[i]);
        asked->references[i] = of_size(asked, i, asked->found[i]);
        if (!is_there(asked, asked->references[i])) return i;
    }
    return -1;
}

static PyObject *references(PyObject *module, PyObject *args) {
    unsigned long long address, commit;
    PyObject *mapped, *items;
    (void)module;
    if (!PyArg_ParseTuple(args, "KOKO!:references", &address, &mapped, &commit, &PyTuple_Type, &items))
        return NULL;
    asked_pools asked = {(const psa_arena *)(uintptr_t)address, mapped, commit, PyTuple_Size(items), 0, 0, 0, 0};
    PyObject *out = PyByteArray_FromStringAndSize(NULL, 8 * asked.count);
    PyObject *keys = out ? PyBytes_FromStringAndSize(NULL, 41 * asked.count) : NULL;
    Py_ssize_t missing = -2;
    if (keys) {
        asked.references = (uint64_t *)(void *)PyByteArray_AsString(out);
        asked.keys = (uint8_t *)PyBytes_AsString(keys);
        memset(asked.keys, 0, 41 * (size_t)asked.count);
        asked.found = (uint64_t *)(void *)(asked.keys + 32 * asked.count);
        asked.sizes = (uint8_t *)(asked.found + asked.count);
        missing = find_items(&asked, items);
    }
    PyObject *found = missing == -2 ? NULL : Py_BuildValue("On", out, missing);
    Py_XDECREF(out);
    Py_XDECREF(keys);
    return found;
}

static PyMethodDef functions[] = {
    {"key_bytes", key_bytes, METH_O,
     "key_bytes($module, key, /)\n--\n\n"
     "20 or 32 bytes of a key. ValueError when it is malformed, TypeError when it is no key at all."},
    {"references", references, METH_VARARGS,
     "references($module, address, mapped, commit, items, /)\n--\n\n"
     "The references, u64 in a bytearray, of a tuple of keys and handles, and the index of the first whose\n"
     "pool is not there at `commit` (0: the newest), or -1. `address` is that of a psa_arena that `mapped`\n"
     "keeps. Handles on `mapped` give theirs without a search."},
    {NULL, NULL, 0, NULL},
};

int psa_add_keys(PyObject *module) {
    key_name = PyUnicode_InternFromString("key");
    return key_name ? PyModule_AddFunctions(module, functions) : -1;
}
