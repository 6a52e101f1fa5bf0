/* _handle.c: the module of the extension types: how it gets the core, and the list of its parts. */
#include "_types.h"

const psa_api *psa_core;

static int (*const parts[])(PyObject *module) = {psa_add_ints,  psa_add_quote, psa_add_depth, psa_add_pool,
                                                psa_add_keys, psa_add_state, psa_add_view,  psa_add_wait};

/* use(address): take the core's table at `address`, and add the types to the module. */
static PyObject *use(PyObject *module, PyObject *address) {
    const psa_api *core = PyLong_AsVoidPtr(address);
    if (!core) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no table of functions");
        return NULL;
    }
    if (core->version != PSA_API_VERSION || core->nbytes != sizeof *core) {
        PyErr_Format(PyExc_ImportError,
                     "arena.native._core has version %u of its table of functions, _handle was built for "
                     "version %u: files of two installations are mixed; install again",
                     (unsigned)core->version, (unsigned)PSA_API_VERSION);
        return NULL;
    }
    if (psa_core) Py_RETURN_NONE;
    psa_core = core;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i](module) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"use", use, METH_O,
     "use($module, address, /)\n--\n\nTake the core's table of functions, and add the types to this module."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "arena.native._handle",
    "Extension types over the core: what is asked so often that a call through cffi would cost more.",
    -1,
    functions,
    NULL,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__handle(void) { return PyModule_Create(&definition); }
