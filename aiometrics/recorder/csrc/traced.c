/* A coroutine as a task sees it: forwards everything, times each step. */
#include "recorder.h"
#include "scope.h"

#include <structmember.h>

PyTypeObject *traced_type;

PyObject *
traced_new(PyObject *coro, Recorder *recorder, int32_t record, int64_t created_ns)
{
    Traced *self = PyObject_GC_New(Traced, traced_type);
    if (self == NULL) {
        return NULL;
    }
    self->coro = Py_NewRef(coro);
    self->recorder = (Recorder *)Py_NewRef((PyObject *)recorder);
    self->weakrefs = NULL;
    self->outer = self->older = self->newer = NULL;
    self->scope = NULL;
    self->number = ++recorder->traced;
    self->creator = recorder->current == NULL ? 0 : recorder->current->number;
    self->created_ns = created_ns;
    self->active_ns = self->since_ns = self->paused_ns = self->counted_ns = self->divided_ns = 0;
    self->record = record;
    self->point = AT_START;
    self->state = OFFERED;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* No tp_clear, like a coroutine: what it refers to is never replaced, and the cycles it can be part of are broken elsewhere. */
static int
traced_traverse(Traced *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->coro);
    Py_VISIT(self->recorder);
    Py_VISIT(self->scope);
    return 0;
}

static void
traced_dealloc(Traced *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->state != DONE && self->state != OFFERED) {
        recorder_lose(self->recorder, self);
    }
    scope_detach(self);
    Py_DECREF(self->coro);
    Py_DECREF(self->recorder);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PySendResult
traced_am_send(PyObject *object, PyObject *value, PyObject **result)
{
    Traced *self = (Traced *)object;
    int timed = recorder_resume(self->recorder, self);
    if (timed <= 0) {
        *result = NULL;
        return timed < 0 ? PYGEN_ERROR : PyIter_Send(self->coro, value, result);
    }
    PySendResult status = PyIter_Send(self->coro, value, result);
    int interrupted = status == PYGEN_NEXT ? recorder_suspend(self->recorder, self, *result)
                                           : recorder_end(self->recorder, self, status == PYGEN_RETURN ? COMPLETED : recorder_status());
    if (interrupted) {
        Py_CLEAR(*result);
        return PYGEN_ERROR;
    }
    return status;
}

/* What a coroutine's return value is for who calls send() as a method. */
static void
raise_stop_iteration(PyObject *value)
{
    if (value == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
        return;
    }
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
}

static PyObject *
method_send(PyObject *self, PyObject *value)
{
    PyObject *result = NULL;
    PySendResult status = traced_am_send(self, value, &result);
    if (status != PYGEN_RETURN) {
        return result;
    }
    raise_stop_iteration(result);
    Py_DECREF(result);
    return NULL;
}

/* Without a tuple of its arguments, which would keep the exception in a cycle with its traceback. */
static PyObject *
method_throw(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Traced *self = (Traced *)object;
    int timed = recorder_resume(self->recorder, self);
    if (timed < 0) {
        return NULL;
    }
    PyObject *method = PyObject_GetAttrString(self->coro, "throw");
    PyObject *yielded = method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)count, NULL);
    Py_XDECREF(method);
    if (!timed) {
        return yielded;
    }
    int interrupted = yielded == NULL ? recorder_end(self->recorder, self, recorder_status())
                                      : recorder_suspend(self->recorder, self, yielded);
    if (interrupted) {
        Py_CLEAR(yielded);
    }
    return yielded;
}

static PyObject *
method_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Traced *self = (Traced *)object;
    int timed = recorder_resume(self->recorder, self);
    PyObject *closed = timed < 0 ? NULL : PyObject_CallMethod(self->coro, "close", NULL);
    if (timed > 0 && recorder_end(self->recorder, self, closed == NULL ? recorder_status() : CANCELLED) < 0) {
        Py_CLEAR(closed);
    }
    return closed;
}

static PyObject *
method_admit(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Traced *self = (Traced *)object;
    recorder_admit(self->recorder, self);
    Py_RETURN_NONE;
}

static PyObject *
method_abandon(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    recorder_abandon((Traced *)object);
    Py_RETURN_NONE;
}

static PyObject *
traced_am_await(PyObject *object)
{
    return PyObject_CallMethod(((Traced *)object)->coro, "__await__", NULL);
}

static PyObject *
traced_repr(PyObject *object)
{
    return PyObject_Repr(((Traced *)object)->coro);
}

/* Attributes that a coroutine has come from ours; whatever else is asked for may be an attribute of a coroutine of another kind. */
static PyObject *
traced_getattro(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(object, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return found;
    }
    PyErr_Clear();
    return PyObject_GetAttr(((Traced *)object)->coro, name);
}

static PyObject *
get_forwarded(PyObject *object, void *name)
{
    return PyObject_GetAttrString(((Traced *)object)->coro, name);
}

static int
set_forwarded(PyObject *object, PyObject *value, void *name)
{
    return PyObject_SetAttrString(((Traced *)object)->coro, name, value);
}

/* What isinstance() and inspect ask; type() still tells the truth. */
static PyObject *
get_class(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)Py_TYPE(((Traced *)object)->coro));
}

static PyObject *
get_wrapped(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef(((Traced *)object)->coro);
}

static PyMethodDef traced_methods[] = {
    {"send", method_send, METH_O, "Resume the coroutine, as coroutine.send."},
    {"throw", (PyCFunction)(void (*)(void))method_throw, METH_FASTCALL, "Raise inside the coroutine, as coroutine.throw."},
    {"close", method_close, METH_NOARGS, "Close the coroutine, as coroutine.close."},
    {"admit", method_admit, METH_NOARGS, "There is a task for this coroutine."},
    {"abandon", method_abandon, METH_NOARGS, "There will be no task for this coroutine."},
    {NULL, NULL, 0, NULL},
};

#define FORWARDED(name, setter) {name, get_forwarded, setter, NULL, name}

static PyGetSetDef traced_getset[] = {
    FORWARDED("cr_await", NULL),
    FORWARDED("cr_code", NULL),
    FORWARDED("cr_frame", NULL),
    FORWARDED("cr_origin", NULL),
    FORWARDED("cr_running", NULL),
    FORWARDED("cr_suspended", NULL),
    FORWARDED("__name__", set_forwarded),
    FORWARDED("__qualname__", set_forwarded),
    {"__class__", get_class, NULL, NULL, NULL},
    {"__wrapped__", get_wrapped, NULL, "The coroutine itself.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef traced_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Traced, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot traced_slots[] = {
    {Py_tp_doc, "A coroutine as a task sees it: forwards everything, times each step."},
    {Py_tp_dealloc, traced_dealloc},
    {Py_tp_traverse, traced_traverse},
    {Py_tp_repr, traced_repr},
    {Py_tp_getattro, traced_getattro},
    {Py_tp_methods, traced_methods},
    {Py_tp_getset, traced_getset},
    {Py_tp_members, traced_members},
    {Py_am_send, traced_am_send},
    {Py_am_await, traced_am_await},
    {0, NULL},
};

static PyType_Spec traced_spec = {
    .name = "aiometrics.recorder._core.TracedCoroutine",
    .basicsize = sizeof(Traced),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = traced_slots,
};

/* isinstance(traced, collections.abc.Coroutine) holds, as asyncio requires of what a task runs. */
static int
register_as_coroutine(void)
{
    PyObject *abc = PyImport_ImportModule("collections.abc");
    PyObject *coroutine = abc == NULL ? NULL : PyObject_GetAttrString(abc, "Coroutine");
    PyObject *done = coroutine == NULL ? NULL : PyObject_CallMethod(coroutine, "register", "O", traced_type);
    Py_XDECREF(abc);
    Py_XDECREF(coroutine);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
traced_init_module(PyObject *module)
{
    traced_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &traced_spec, NULL);
    if (traced_type == NULL || register_as_coroutine() < 0) {
        return -1;
    }
    return PyModule_AddType(module, traced_type);
}
