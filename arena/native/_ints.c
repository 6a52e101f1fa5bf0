/* _ints.c: Python integers from and to little-endian words of 64 bits.
 *
 * The limited API has no conversion of integers above 64 bits but by operators and by text. From words, text
 * is the quicker of the two: its base is a power of two, so it is read in time proportional to its length.
 */
#include "_types.h"

static PyObject *shift;       /* 64 */

/* ---- words to ints ---------------------------------------------------------------------------------- */

PyObject *psa_int_from_words(const uint64_t *words, unsigned count) {
    static const char digits[] = "0123456789abcdef";
    char text[4 * 16 + 1], *at = text + sizeof text - 1;
    while (count > 1 && words[count - 1] == 0) count--;
    if (count == 1) return PyLong_FromUnsignedLongLong(words[0]);
    *at = 0;
    for (unsigned i = 0; i + 1 < count; i++)
        for (unsigned bit = 0; bit < 64; bit += 4) *--at = digits[words[i] >> bit & 15];
    for (uint64_t rest = words[count - 1]; rest != 0; rest >>= 4) *--at = digits[rest & 15];
    return PyLong_FromString(at, NULL, 16);
}

PyObject *psa_int_from_signed(const uint64_t *words, unsigned count) {
    uint64_t size[4], carry = 1, sign = (uint64_t)((int64_t)words[count - 1] >> 63);
    int is_small = 1;
    for (unsigned i = 1; i < count; i++) is_small &= words[i] == (uint64_t)((int64_t)words[0] >> 63);
    if (is_small) return PyLong_FromLongLong((long long)words[0]);
    if (sign == 0) return psa_int_from_words(words, count);
    for (unsigned i = 0; i < count; i++) {
        size[i] = ~words[i] + carry;
        carry &= size[i] == 0;
    }
    PyObject *positive = psa_int_from_words(size, count);
    if (!positive) return NULL;
    PyObject *negative = PyNumber_Negative(positive);
    Py_DECREF(positive);
    return negative;
}

/* ---- ints to words ----------------------------------------------------------------------------------- */

int psa_words_from_int(PyObject *value, uint64_t words[4]) {
    if (!PyLong_CheckExact(value)) return 0;
    int overflow;
    long long low = PyLong_AsLongLongAndOverflow(value, &overflow); /* sets no exception */
    words[0] = (uint64_t)low;
    words[1] = words[2] = words[3] = 0;
    if (overflow == 0) return low >= 0;
    if (overflow < 0) return 0;
    Py_INCREF(value);
    for (unsigned i = 0; i < 4; i++) {
        words[i] = PyLong_AsUnsignedLongLongMask(value);
        PyObject *rest = PyNumber_Rshift(value, shift);
        Py_DECREF(value);
        if (!rest) return 0;
        value = rest;
        low = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow == 0) {
            Py_DECREF(value);
            if (i < 3) words[i + 1] = (uint64_t)low;
            return i < 3 || low == 0;
        }
    }
    Py_DECREF(value);
    return 0;
}

/* ---- many at once -------------------------------------------------------------------------------------- */

/* 32 bytes of an item that is no plain int in range: what other(item) returns, or its exception. */
static int words_from_other(PyObject *item, PyObject *other, uint64_t *words) {
    PyObject *data = PyObject_CallFunctionObjArgs(other, item, NULL);
    if (!data) return -1;
    char *bytes;
    Py_ssize_t nbytes;
    int status = PyBytes_AsStringAndSize(data, &bytes, &nbytes);
    if (status == 0 && nbytes != 32) {
        PyErr_SetString(PyExc_ValueError, "not 32 bytes");
        status = -1;
    }
    if (status == 0) memcpy(words, bytes, 32);
    Py_DECREF(data);
    return status;
}

static PyObject *words_from_ints(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "words_from_ints takes 2 arguments");
        return NULL;
    }
    PyObject *items = PySequence_Tuple(args[0]); /* stays as it is, whatever a conversion calls */
    if (!items) return NULL;
    Py_ssize_t size = PyTuple_Size(items);
    PyObject *out = size > PY_SSIZE_T_MAX / 32 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(NULL, 32 * size);
    for (Py_ssize_t i = 0; out && i < size; i++) {
        PyObject *item = PyTuple_GetItem(items, i);
        uint64_t words[4];
        if (!psa_words_from_int(item, words) &&
            (PyErr_Occurred() || words_from_other(item, args[1], words) < 0))
            Py_CLEAR(out);
        else memcpy(PyBytes_AsString(out) + 32 * i, words, 32);
    }
    Py_DECREF(items);
    return out;
}

static PyObject *list_of(const Py_buffer *view, int is_signed) {
    Py_ssize_t count = view->shape[0];
    unsigned words = (unsigned)view->shape[1];
    PyObject *out = PyList_New(count);
    for (Py_ssize_t i = 0; out && i < count; i++) {
        uint64_t at[4];
        memcpy(at, (const char *)view->buf + i * view->strides[0], 8 * (size_t)words);
        PyObject *item = is_signed ? psa_int_from_signed(at, words) : psa_int_from_words(at, words);
        if (!item) Py_CLEAR(out);
        else PyList_SetItem(out, i, item);
    }
    return out;
}

static PyObject *ints_from_words(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"", "signed", NULL};
    PyObject *array, *out = NULL;
    int is_signed = 0;
    Py_buffer view;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$p:ints_from_words", names, &array, &is_signed) ||
        PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO) < 0)
        return NULL;
    if (view.ndim != 2 || view.itemsize != 8 || view.shape[1] < 1 || view.shape[1] > 4 ||
        (view.strides[1] != 8 && view.shape[1] > 1))
        PyErr_SetString(PyExc_ValueError, "words are (n, 1) to (n, 4) of 64 bits, those of an item together");
    else out = list_of(&view, is_signed);
    PyBuffer_Release(&view);
    return out;
}

static PyMethodDef functions[] = {
    {"words_from_ints", PSA_FASTCALL(words_from_ints), METH_FASTCALL,
     "words_from_ints($module, ints, other, /)\n--\n\n"
     "32 little-endian bytes of each item, joined; other(item) gives those of what is no int, and of an "
     "int outside uint256."},
    {"ints_from_words", PSA_FASTCALL(ints_from_words), METH_VARARGS | METH_KEYWORDS,
     "ints_from_words($module, words, /, *, signed=False)\n--\n\n"
     "Ints of an (n, count) array of 64-bit words, little-endian, 1 to 4 an item."},
    {NULL, NULL, 0, NULL},
};

int psa_add_ints(PyObject *module) {
    shift = PyLong_FromLong(64);
    return shift ? PyModule_AddFunctions(module, functions) : -1;
}
