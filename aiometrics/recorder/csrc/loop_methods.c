#include "loop_methods.h"

#include "errors.h"

typedef enum { RUN_FOREVER, CLOSE, METHODS } Method;

static PyObject *run_forever(PyObject *loop, PyObject *ignored);
static PyObject *close_loop(PyObject *loop, PyObject *ignored);

static PyMethodDef definitions[METHODS] = {
    [RUN_FOREVER] = {"run_forever", run_forever, METH_NOARGS, NULL},
    [CLOSE] = {"close", close_loop, METH_NOARGS, NULL},
};

static PyTypeObject *hooked; /* the class; NULL while nobody listens */
static PyObject *listener;
static PyObject *originals[METHODS]; /* what the class had, or inherited; kept, since a bound method may be called at any time */
static PyObject *docs[METHODS];      /* the originals' documentation, which is that of the replacements */
static PyObject *replacements[METHODS]; /* NULL if it was restored; else it may be inside of what has replaced it */
static int own[METHODS]; /* whether the class had the original itself */

/* What the listener says of the loop; -1 with an exception, which can only be an interrupt. */
static int
tell(const char *name, PyObject *loop)
{
    if (listener == NULL) {
        return 0;
    }
    PyObject *answer = PyObject_CallMethod(listener, name, "O", loop);
    int yes = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return yes;
}

static PyObject *
call_original(Method method, PyObject *loop)
{
    PyObject *original = Py_NewRef(originals[method]);
    PyObject *result = PyObject_CallOneArg(original, loop);
    Py_DECREF(original);
    return result;
}

static PyObject *
run_forever(PyObject *loop, PyObject *Py_UNUSED(ignored))
{
    int told = tell("started", loop);
    if (told < 0) {
        return NULL;
    }
    PyObject *result = call_original(RUN_FOREVER, loop);
    if (!told) {
        return result;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (tell("stopped", loop) < 0) {
        Py_CLEAR(result);
        if (type != NULL) {
            error_clear(); /* the application's own exception goes first */
        }
    }
    if (type != NULL) {
        PyErr_Restore(type, value, traceback);
    }
    return result;
}

static PyObject *
close_loop(PyObject *loop, PyObject *Py_UNUSED(ignored))
{
    return tell("closing", loop) < 0 ? NULL : call_original(CLOSE, loop);
}

static void
copy_doc(Method method)
{
    PyObject *doc = PyObject_GetAttrString(originals[method], "__doc__");
    definitions[method].ml_doc = doc != NULL && PyUnicode_Check(doc) ? PyUnicode_AsUTF8(doc) : NULL;
    PyErr_Clear();
    Py_XSETREF(docs[method], doc);
}

static int
replace(Method method)
{
    if (replacements[method] != NULL) {
        return 0;
    }
    const char *name = definitions[method].ml_name;
    PyObject *original = PyObject_GetAttrString((PyObject *)hooked, name);
    PyObject *replacement = original == NULL ? NULL : PyDescr_NewMethod(hooked, &definitions[method]);
    if (replacement == NULL) {
        Py_XDECREF(original);
        return -1;
    }
    PyObject *known = PyDict_GetItemString(hooked->tp_dict, name);
    own[method] = known != NULL;
    Py_XSETREF(originals[method], original);
    copy_doc(method);
    replacements[method] = replacement;
    return PyObject_SetAttrString((PyObject *)hooked, name, replacement);
}

/* Does nothing if something else has replaced the method since. */
static int
restore(Method method)
{
    const char *name = definitions[method].ml_name;
    if (PyDict_GetItemString(hooked->tp_dict, name) != replacements[method]) {
        return 0;
    }
    Py_CLEAR(replacements[method]);
    return own[method] ? PyObject_SetAttrString((PyObject *)hooked, name, originals[method]) : PyObject_DelAttrString((PyObject *)hooked, name);
}

PyObject *
loop_methods_hook(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type, *told;
    if (!PyArg_ParseTuple(args, "O!O:hook_methods", &PyType_Type, &type, &told)) {
        return NULL;
    }
    if (hooked != NULL) {
        return PyErr_Format(PyExc_RuntimeError, "the methods of %R are replaced already: call unhook_methods() first", hooked);
    }
    hooked = (PyTypeObject *)Py_NewRef(type);
    Py_XSETREF(listener, Py_NewRef(told));
    for (int method = 0; method < METHODS; method++) {
        if (replace((Method)method) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyObject *
loop_methods_unhook(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int failed = 0;
    for (int method = 0; hooked != NULL && method < METHODS; method++) {
        failed |= restore((Method)method) < 0;
    }
    Py_CLEAR(hooked);
    Py_CLEAR(listener);
    return failed ? NULL : Py_NewRef(Py_None);
}
