/* Finds the yield point that stands for a callback that is not a step of a task: the twin of
   aiometrics/recorder/callback.py. Python names a new callback; C finds what distinguishes it. */
#include "errors.h"
#include "recorder.h"

static PyObject *callbacks_module; /* aiometrics.recorder.callback */
static PyObject *partial_type, *protocol_name;

int
callback_init(void)
{
    callbacks_module = PyImport_ImportModule("aiometrics.recorder.callback");
    PyObject *functools = callbacks_module == NULL ? NULL : PyImport_ImportModule("functools");
    partial_type = functools == NULL ? NULL : PyObject_GetAttrString(functools, "partial");
    Py_XDECREF(functools);
    protocol_name = partial_type == NULL ? NULL : PyUnicode_InternFromString("_protocol");
    return protocol_name == NULL ? -1 : 0;
}

/* Returns the function behind partials and bound methods, a new reference. `receiver` becomes a new
   reference to the object it is bound to, or NULL. */
static PyObject *
target(PyObject *callback, PyObject **receiver)
{
    *receiver = NULL;
    Py_INCREF(callback);
    for (int unwrapped = 0; unwrapped < UNWRAPPINGS; unwrapped++) {
        PyObject *inner;
        if (PyMethod_Check(callback)) {
            Py_XSETREF(*receiver, Py_NewRef(PyMethod_GET_SELF(callback)));
            inner = Py_NewRef(PyMethod_GET_FUNCTION(callback));
        }
        else if ((PyObject *)Py_TYPE(callback) == partial_type) {
            inner = PyObject_GetAttrString(callback, "func");
        }
        else {
            break;
        }
        Py_SETREF(callback, inner);
        if (callback == NULL) {
            Py_CLEAR(*receiver);
            return NULL;
        }
    }
    return callback;
}

/* Whether objects of this type may be transports of asyncio; -1 with an exception. */
static int32_t
is_transport(Recorder *self, PyObject *type)
{
    int32_t known = table_get_one(&self->transports, type);
    if (known != TABLE_MISS) {
        return known;
    }
    PyObject *answer = call_uninterrupted(callbacks_module, "is_transport", "(O)", type);
    known = number_within(answer, 1);
    return known < 0 || table_put(&self->transports, (Key){type, NULL, NULL, 0}, known) < 0 ? -1 : known;
}

/* Returns the type of a transport's protocol, a new reference; Py_None if `receiver` is not a
   transport; NULL with an exception. */
static PyObject *
protocol_type(Recorder *self, PyObject *receiver)
{
    int32_t transport = receiver == NULL ? 0 : is_transport(self, (PyObject *)Py_TYPE(receiver));
    if (transport <= 0) {
        return transport < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *protocol = PyObject_GetAttr(receiver, protocol_name);
    if (protocol == NULL) {
        error_clear();
        return Py_NewRef(Py_None);
    }
    PyObject *type = protocol == Py_None ? Py_None : (PyObject *)Py_TYPE(protocol);
    Py_INCREF(type);
    Py_DECREF(protocol);
    return type;
}

static Key
key_of(PyObject *function, PyObject *protocol)
{
    Key key = {(PyObject *)Py_TYPE(function), protocol, NULL, (uint64_t)CALLBACKS << 32};
    if (PyFunction_Check(function)) {
        key.first = PyFunction_GET_CODE(function);
    }
    else if (PyType_Check(function)) {
        key.first = function;
    }
    else if (PyCFunction_Check(function)) {
        key.number = (uint64_t)(uintptr_t)((PyCFunctionObject *)function)->m_ml;
    }
    return key;
}

int32_t
locate_callback(Recorder *self, PyObject *callback)
{
    PyObject *receiver;
    PyObject *function = target(callback, &receiver);
    PyObject *protocol = function == NULL ? NULL : protocol_type(self, receiver);
    int32_t point = -1;
    if (protocol != NULL) {
        Key key = key_of(function, protocol);
        Py_INCREF(key.first);
        point = table_get(&self->points, key);
        if (point == TABLE_MISS) {
            PyObject *answer = call_uninterrupted(self->labels, "callback", "(O)", callback);
            point = number_within(answer, self->page.last_point);
            point = point < 0 || table_put(&self->points, key, point) < 0 ? -1 : point;
        }
        Py_DECREF(key.first);
    }
    Py_XDECREF(function);
    Py_XDECREF(receiver);
    Py_XDECREF(protocol);
    return point;
}
