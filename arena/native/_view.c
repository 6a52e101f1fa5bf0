/* _view.c: View, the base of a reader's Snapshot: view[key] without a search where the key is known.
 *
 * `kept` leads from keys, as they were asked for, to handles of pools that were found by them. A handle's
 * slot and generation name one pool for good, so what is kept may be of any age: whether that pool is there
 * is asked of the view's own commit, and whatever is not answered here is left to `_find`.
 */
#include "_types.h"

#include "atomics.h"

typedef struct {
    PyObject_HEAD
    psa_quote_call call; /* of its pools, but for slot and generation */
    PyObject *mapped;    /* what keeps call.arena; NULL when bound to nothing */
    PyObject *closed;    /* what keeps call.closed */
    PyObject *kept;      /* a dict */
} view_object;

/* ---- life ------------------------------------------------------------------------------------------- */

static PyObject *create(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    (void)args; /* a subclass says what it takes */
    (void)keywords;
    return allocate(type, 0);
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
    view_object *self = (view_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->mapped);
    Py_VISIT(self->closed);
    Py_VISIT(self->kept);
    return 0;
}

static int clear(PyObject *object) {
    view_object *self = (view_object *)object;
    PyObject *held[] = {self->mapped, self->closed, self->kept};
    self->mapped = self->closed = self->kept = NULL;
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) Py_XDECREF(held[i]);
    return 0;
}

static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *bind_view(PyObject *object, PyObject *args) {
    view_object *self = (view_object *)object;
    PyObject *mapped, *closed, *kept;
    unsigned long long arena, word, commit;
    if (!PyArg_ParseTuple(args, "OOO!KKK:_bind_view", &mapped, &closed, &PyDict_Type, &kept, &arena, &word,
                          &commit))
        return NULL;
    if (!arena || !word || self->mapped) {
        PyErr_SetString(PyExc_ValueError, self->mapped ? "bound already" : "a null pointer");
        return NULL;
    }
    self->call = (psa_quote_call){(const psa_arena *)(uintptr_t)arena, (const uint32_t *)(uintptr_t)word,
                                  commit, 0, 0, NULL};
    Py_INCREF(mapped);
    Py_INCREF(closed);
    Py_INCREF(kept);
    self->mapped = mapped;
    self->closed = closed;
    self->kept = kept;
    Py_RETURN_NONE;
}

/* ---- pools ------------------------------------------------------------------------------------------ */

/* Whether a kept handle is one on this mapping, of a pool that is there at the view's commit. */
static int is_here(const view_object *self, const psa_pool_object *kept) {
    psa_line line;
    if (kept->where == NULL || PyTuple_GetItem(kept->where, 0) != self->mapped) return 0;
    return psa_core->pool_read(self->call.arena, kept->call.slot, kept->call.generation, self->call.commit,
                               &line) == PSA_OK &&
           line.fee_status >> 24 != PSA_STATUS_ABSENT;
}

/* A handle on the same pool as of the view's commit, with the tables of the kept one. */
static PyObject *handle_like(const view_object *self, psa_pool_object *kept) {
    psa_pool_object *made = (psa_pool_object *)PyType_GenericAlloc(Py_TYPE((PyObject *)kept), 0);
    if (made == NULL) return NULL;
    made->call = self->call;
    made->call.slot = kept->call.slot;
    made->call.generation = kept->call.generation;
    Py_INCREF(kept->where);
    Py_INCREF(self->closed);
    Py_XINCREF(kept->key);
    Py_XINCREF(kept->arena);
    made->where = kept->where;
    made->closed = self->closed;
    made->key = kept->key;
    made->arena = kept->arena;
    Py_INCREF((PyObject *)kept);
    made->owner = (PyObject *)kept;
    return (PyObject *)made;
}

static PyObject *subscript(PyObject *object, PyObject *key) {
    view_object *self = (view_object *)object;
    if (self->mapped && self->call.commit && !PSA_LOAD(self->call.closed)) {
        PyObject *kept = PyDict_GetItemWithError(self->kept, key);
        if (kept == NULL && PyErr_Occurred()) PyErr_Clear(); /* a bytearray has no hash, and is a key */
        if (kept && PyObject_TypeCheck(kept, psa_pool_type)) {
            PyObject *made = NULL;
            Py_INCREF(kept);
            if (is_here(self, (psa_pool_object *)kept)) made = handle_like(self, (psa_pool_object *)kept);
            Py_DECREF(kept);
            if (made || PyErr_Occurred()) return made;
        }
    }
    return PyObject_CallMethod(object, "_find", "(O)", key);
}

static PyMethodDef methods[] = {
    {"_bind_view", bind_view, METH_VARARGS,
     "_bind_view($self, mapped, closed, kept, arena, word, commit, /)\n--\n\n"
     "Show the arena as of `commit`: `arena` is the address of a psa_arena that `mapped` keeps, `word` that of\n"
     "a uint32_t that `closed` keeps; `kept` leads from keys to handles."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The half of a snapshot that is asked for each pool. Subclasses bind it with _bind_view."},
    {Py_tp_new, create},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, deallocate},
    {Py_mp_subscript, subscript},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"arena.native._handle.View", sizeof(view_object), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

int psa_add_view(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    int status = type ? PyModule_AddObjectRef(module, "View", type) : -1;
    Py_XDECREF(type);
    return status;
}
